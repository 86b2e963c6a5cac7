# SPDX-License-Identifier: Apache-2.0
"""Logs what happens."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from pluggableflow import states
from pluggableflow.engine import Engine
from pluggableflow.failure import Failure
from pluggableflow.formatters import FailureFormatter
from pluggableflow.listeners.listener import DEFAULT_LISTEN_FOR, Details, DumpingListener, Listener

LOG = logging.getLogger(__name__)

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[Any]

_BAD_STATES_OF_ATOMS = (states.FAILURE, states.REVERTED, states.RETRYING, states.REVERT_FAILURE)
_BAD_STATES_OF_FLOWS = (states.FAILURE, states.REVERTED, states.CANCELLED)


class LoggingListener(DumpingListener):
    """Logs a line for every state, all at one level, and with it the traceback of a failure.

    :param log: where to; default: the class attribute ``_LOGGER``, or the logger of this module
    """

    _LOGGER: ClassVar[Logger | None] = None

    def __init__(
        self,
        engine: Engine,
        task_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        flow_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        retry_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        log: Logger | None = None,
        level: int = logging.DEBUG,
    ) -> None:
        super().__init__(engine, task_listen_for, flow_listen_for, retry_listen_for)
        self._logger = log if log is not None else self._LOGGER if self._LOGGER is not None else LOG
        self._level = level

    def _dump(self, message: str, *args: Any, **kwargs: Any) -> None:
        self._logger.log(self._level, message, *args, **kwargs)


class DynamicLoggingListener(Listener):
    """Logs a line for every state, at a higher level for bad news.

    A failure is logged with its traceback and what led to it (see :class:`FailureFormatter`). Results are logged, in
    bounded text, where the logger takes ``level``.

    :param log: where to; default: the class attribute ``_LOGGER``, or the logger of this module
    :param failure_level: for flows that are FAILURE or REVERTED, and atoms that are FAILURE, REVERTED, RETRYING or
        REVERT_FAILURE
    :param level: for all other states
    :param hide_inputs_outputs_of: names of atoms whose values are not logged
    :param fail_formatter: what formats failures; default: a :class:`FailureFormatter` with the three options
    :param mask_inputs_keys: names and dictionary keys whose values are masked among the inputs of atoms
    :param mask_outputs_keys: the same for what atoms return
    """

    _LOGGER: ClassVar[Logger | None] = None
    #: What formats failures and results unless another is given.
    formatter_type: ClassVar[type[FailureFormatter]] = FailureFormatter

    def __init__(
        self,
        engine: Engine,
        task_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        flow_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        retry_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        log: Logger | None = None,
        failure_level: int = logging.WARNING,
        level: int = logging.DEBUG,
        hide_inputs_outputs_of: Iterable[str] = (),
        fail_formatter: Any = None,
        mask_inputs_keys: Iterable[str] = (),
        mask_outputs_keys: Iterable[str] = (),
    ) -> None:
        super().__init__(engine, task_listen_for, flow_listen_for, retry_listen_for)
        self._logger = log if log is not None else self._LOGGER if self._LOGGER is not None else LOG
        self._failure_level, self._level = failure_level, level
        self._hide_inputs_outputs_of = frozenset(hide_inputs_outputs_of)
        self._formatter = self.formatter_type(
            engine, self._hide_inputs_outputs_of, frozenset(mask_inputs_keys), frozenset(mask_outputs_keys)
        )
        self._fail_formatter = self._formatter if fail_formatter is None else fail_formatter

    def _flow_receiver(self, state: str, details: Details) -> None:
        level = self._failure_level if state in _BAD_STATES_OF_FLOWS else self._level
        name, uuid = details["flow_name"], details["flow_uuid"]
        self._logger.log(level, "flow %r (%s) went from %s to %s", name, uuid, details["old_state"], state)

    def _task_receiver(self, state: str, details: Details) -> None:
        self._atom("task", state, details)

    def _retry_receiver(self, state: str, details: Details) -> None:
        self._atom("retry", state, details)

    def _atom(self, kind: str, state: str, details: Details) -> None:
        name = details[f"{kind}_name"]
        message = "%s %r (%s) went from %s to %s"
        facts = [kind, name, details[f"{kind}_uuid"], details["old_state"], state]
        result = details.get("result")
        if isinstance(result, Failure):
            exc_info, text = self._format_failure(result, name)
            if text:
                message, facts = message + "\n%s", [*facts, text]
            self._logger.log(self._failure_level, message, *facts, exc_info=exc_info)
            return
        if "result" in details and name not in self._hide_inputs_outputs_of and self._logger.isEnabledFor(self._level):
            message, facts = message + " with result %s", [*facts, self._formatter.show_result(name, result)]
        self._logger.log(self._failure_level if state in _BAD_STATES_OF_ATOMS else self._level, message, *facts)

    def _format_failure(self, failure: Failure, atom_name: str) -> tuple[Any, str]:
        """``exc_info`` and text for a failure."""
        found: tuple[Any, str] = self._fail_formatter.format(failure, atom_name)
        return found
