# SPDX-License-Identifier: Apache-2.0
"""What all listeners share: they are told of tasks, retries and the flow by methods of their own."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pluggableflow import states
from pluggableflow.engine import Engine
from pluggableflow.failure import Failure
from pluggableflow.notifier import Notifier

LOG = logging.getLogger(__name__)

#: Every state.
DEFAULT_LISTEN_FOR = (Notifier.ANY,)
#: States that bring a result.
FINISH_STATES = (states.FAILURE, states.SUCCESS, states.REVERTED, states.REVERT_FAILURE)

Details = Mapping[str, Any]
_Self = TypeVar("_Self", bound="Listener")


def _is_task(details: Details) -> bool:
    return "task_name" in details


def _is_retry(details: Details) -> bool:
    return "retry_name" in details


class Listener:
    """Is told what an engine commits, from :meth:`register` or ``with`` on until :meth:`deregister`.

    A subclass overrides ``_task_receiver``, ``_retry_receiver`` and ``_flow_receiver``; each gets the new state and
    the details that :class:`~pluggableflow.engine.Engine` lists. They are called in the thread of the run and may
    read and write ``self._engine.storage``; what they write is part of the next commit.

    :param task_listen_for: states of tasks to be told of; likewise for flows and retries. None at all if empty
    """

    def __init__(
        self,
        engine: Engine,
        task_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        flow_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        retry_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
    ) -> None:
        self._engine = engine
        self._listen_for = tuple(task_listen_for or ()), tuple(retry_listen_for or ()), tuple(flow_listen_for or ())
        self._registered: list[tuple[Notifier, str, Callable[..., None], Callable[..., bool] | None]] = []

    def _flow_receiver(self, state: str, details: Details) -> None:
        """The flow is in a new state."""

    def _task_receiver(self, state: str, details: Details) -> None:
        """A task is in a new state."""

    def _retry_receiver(self, state: str, details: Details) -> None:
        """A retry is in a new state."""

    def register(self) -> None:
        """Begin to listen. Does nothing if it has begun already."""
        if self._registered:
            return
        engine, (of_tasks, of_retries, of_flows) = self._engine, self._listen_for
        wanted = [(engine.atom_notifier, state, self._task_receiver, _is_task) for state in dict.fromkeys(of_tasks)]
        wanted += [
            (engine.atom_notifier, state, self._retry_receiver, _is_retry) for state in dict.fromkeys(of_retries)
        ]
        for notifier, state, receiver, details_filter in wanted:
            notifier.register(state, receiver, details_filter=details_filter)
            self._registered.append((notifier, state, receiver, details_filter))
        for state in dict.fromkeys(of_flows):
            engine.notifier.register(state, self._flow_receiver)
            self._registered.append((engine.notifier, state, self._flow_receiver, None))

    def deregister(self) -> None:
        """Stop listening. Does nothing if it has not begun."""
        while self._registered:
            notifier, state, receiver, details_filter = self._registered.pop()
            notifier.deregister(state, receiver, details_filter)

    def __enter__(self: _Self) -> _Self:
        self.register()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        try:
            self.deregister()
        except Exception:  # it must not take the place of what the block raised
            LOG.warning("listener %r could not be deregistered", self, exc_info=True)


class DumpingListener(Listener, ABC):
    """Writes a line for every state to wherever a subclass puts it, without secrets."""

    @abstractmethod
    def _dump(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Write ``message % args``; ``exc_info`` among the keywords is a failure's live exception."""

    def _flow_receiver(self, state: str, details: Details) -> None:
        self._dump(
            "flow %r (%s) went from %s to %s", details["flow_name"], details["flow_uuid"], details["old_state"], state
        )

    def _task_receiver(self, state: str, details: Details) -> None:
        self._atom("task", state, details)

    def _retry_receiver(self, state: str, details: Details) -> None:
        self._atom("retry", state, details)

    def _atom(self, kind: str, state: str, details: Details) -> None:
        name, uuid, old_state = details[f"{kind}_name"], details[f"{kind}_uuid"], details["old_state"]
        if state not in FINISH_STATES or "result" not in details:
            self._dump("%s %r (%s) went from %s to %s", kind, name, uuid, old_state, state)
            return
        result = details["result"]
        live = result.exc_info if isinstance(result, Failure) else None
        shown = self._engine.storage.masked(str(result) if isinstance(result, Failure) else repr(result))
        message = "%s %r (%s) went from %s to %s with result %s"
        self._dump(message, kind, name, uuid, old_state, state, shown, **({"exc_info": live} if live else {}))
