# SPDX-License-Identifier: Apache-2.0
"""Tasks: a class with execute and revert, or functions made into one."""

from __future__ import annotations

import copy as _copy
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pluggableflow.atom import Atom, Names, Rebind, Signature, idle, names_of, signature_of
from pluggableflow.cancellation import NEVER, Cancellation
from pluggableflow.exceptions import DefinitionError, WrongType
from pluggableflow.notifier import Notifier, RestrictedNotifier

LOG = logging.getLogger(__name__)

EVENT_UPDATE_PROGRESS = "update_progress"
TASK_EVENTS = frozenset({EVENT_UPDATE_PROGRESS})


class _TaskNotifier(RestrictedNotifier):
    """Hands progress on to the engine as well, whoever tells of it."""

    def __init__(self, task: Task) -> None:
        super().__init__(TASK_EVENTS)
        self._task = task

    def notify(self, event_type: str, details: Mapping[str, Any] | None = None) -> None:
        if event_type == EVENT_UPDATE_PROGRESS and details and "progress" in details:
            self._task._tell_engine(details)
        super().notify(event_type, details)


class Task(Atom):
    """A step that does something, and can undo it.

    ``execute`` gets its inputs by name and returns what it provides. ``revert`` gets them too and, where it takes
    them, ``result`` (what execute returned, or its :class:`~pluggableflow.failure.Failure`) and ``flow_failures``
    (atom name to failure). Both may run again after a crash, under the same ``idempotency_key``. Either may be an
    ``async def``.

    A task that may take long looks at ``cancelled`` from time to time, or waits with its ``wait`` instead of sleeping,
    and returns or raises soon after it is set. One that does not within the engine's ``grace_seconds`` is ended if
    that is possible (in a worker process, or as a coroutine); in a thread it is given up: it counts as failed, and
    is neither reverted nor run again before its thread has ended.

    A call of ``execute`` that goes on beyond ``time_limit_seconds`` fails with
    :class:`~pluggableflow.exceptions.TimedOut`, whatever it returns; ``cancelled`` is set then.

    :ivar idempotency_key: ``flow uuid/atom uuid/attempt/execute|revert`` of the call that is running
    :ivar cancelled: whether this call should end, as an event: ``is_set()``, ``wait(timeout)``
    :cvar interruptible: it can be reverted or run again while a call of it that was given up still runs
    """

    interruptible: bool = False
    cancelled: Cancellation = NEVER

    idempotency_key: str = ""
    _notifier: _TaskNotifier | None = None
    _report: Callable[[int, float, Mapping[str, Any]], None] | None = None  # set by the executor, with the node
    _node: int = -1
    _has_reported: bool = False

    def __init__(
        self,
        name: str | None = None,
        provides: Any = None,
        requires: Names = None,
        auto_extract: bool = True,
        rebind: Rebind = None,
        inject: Mapping[str, Any] | None = None,
        ignore_list: Iterable[str] | None = None,
        revert_rebind: Rebind = None,
        revert_requires: Names = None,
        time_limit_seconds: float | None = None,
    ) -> None:
        if time_limit_seconds is not None:
            self.time_limit_seconds = time_limit_seconds
        super().__init__(
            self.default_name(type(self)) if name is None else name,
            provides, requires, auto_extract, rebind, inject, ignore_list, revert_rebind, revert_requires,
        )  # fmt: skip

    @staticmethod
    def default_name(made_of: Any) -> str:
        """What a task without a name is called after its class, or the function that it was made of."""
        name = getattr(made_of, "__qualname__", None) or type(made_of).__qualname__
        return str(name)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work; what is returned is stored and given to those that need it."""
        raise DefinitionError(f"{type(self).__qualname__} has no execute")

    @idle
    def revert(self, *args: Any, **kwargs: Any) -> Any:
        """Undo what execute did, or did in part before it failed."""

    def is_async(self, revert: bool) -> bool:
        """Whether ``revert``, or else ``execute``, is an ``async def``."""
        return inspect.iscoroutinefunction(self.revert if revert else self.execute)

    @property
    def notifier(self) -> Notifier:
        """Tells of what the task says of itself while it runs, in the thread that it runs in.

        Its one event is :data:`EVENT_UPDATE_PROGRESS`, with ``progress`` and what else the task says in the details.
        """
        if self._notifier is None:
            self._notifier = _TaskNotifier(self)
        return self._notifier

    def update_progress(self, progress: float, **details: Any) -> None:
        """Say how far this task has come. It is stored with the engine's next commit, within about a second.

        A task that is listened to begins with 0; one that is, or has said something, ends with 1 if it succeeds.

        :param progress: from 0 to 1; values outside are taken as the nearer of the two
        :param details: what else there is to say, stored in place of earlier details
        """
        clamped = min(1.0, max(0.0, progress))
        if clamped != progress:
            LOG.warning("progress of %s must be from 0 to 1, not %r", self.name, progress)
        said = {"progress": clamped, **details}
        if self._notifier is not None:
            self._notifier.notify(EVENT_UPDATE_PROGRESS, said)
        else:
            self._tell_engine(said)

    def _tell_engine(self, said: Mapping[str, Any]) -> None:
        self._has_reported = True
        if self._report is not None:
            details = {name: value for name, value in said.items() if name != "progress"}
            self._report(self._node, said["progress"], details)

    def copy(self, retain_listeners: bool = True) -> Task:
        """A shallow copy with a notifier of its own."""
        clone = _copy.copy(self)
        clone._notifier = None
        if retain_listeners and self._notifier is not None:
            clone._notifier = self._notifier.copy()
            clone._notifier._task = clone
        return clone


class FunctorTask(Task):
    """A task made of a function, and perhaps another that undoes it."""

    def __init__(
        self,
        execute: Callable[..., Any],
        name: str | None = None,
        provides: Any = None,
        requires: Names = None,
        auto_extract: bool = True,
        rebind: Rebind = None,
        revert: Callable[..., Any] | None = None,
        version: tuple[int, ...] | None = None,
        inject: Mapping[str, Any] | None = None,
        time_limit_seconds: float | None = None,
    ) -> None:
        if time_limit_seconds is not None:
            self.time_limit_seconds = time_limit_seconds
        for function in (execute, revert):
            if function is not None and not callable(function):
                raise WrongType(f"a task is made of functions, not of {function!r}")
        self._execute, self._revert = execute, revert
        super().__init__(
            self.default_name(execute) if name is None else name, provides, requires, auto_extract, rebind, inject
        )
        if version is not None:
            self.version = version

    def _signature_of(self, method: str) -> Signature:
        function = self._execute if method == "execute" else self._revert
        return super()._signature_of(method) if function is None else signature_of(function, False)

    def is_async(self, revert: bool) -> bool:
        return inspect.iscoroutinefunction(self._revert if revert else self._execute)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        return self._execute(*args, **kwargs)

    def revert(self, *args: Any, **kwargs: Any) -> Any:
        return self._revert(*args, **kwargs) if self._revert is not None else None


def _takes(function: Callable[..., Any], arity: int) -> bool:
    """Whether so many arguments can be passed by position, as far as that can be told."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin, which may well take them
        return True
    try:
        signature.bind(*[None] * arity)
    except TypeError:
        return False
    return True


class _FoldTask(Task):
    """Feeds its inputs, in the order of ``requires``, to a function."""

    def __init__(
        self,
        functor: Callable[..., Any],
        requires: Names,
        name: str | None = None,
        provides: Any = None,
        auto_extract: bool = True,
        rebind: Rebind = None,
        inject: Mapping[str, Any] | None = None,
        arity: int = 1,
    ) -> None:
        name = self.default_name(functor) if name is None else name
        kind = f"{type(self).__name__} {name!r}"
        if not callable(functor):
            raise WrongType(f"{kind} needs a function, not {functor!r}")
        if not _takes(functor, arity):
            raise DefinitionError(f"{kind} needs a function of {arity} argument(s), which {functor!r} is not")
        try:
            self._order = names_of("requires", requires)
        except DefinitionError as error:
            raise type(error)(f"{kind}: {error}") from None
        if len(self._order) < arity:
            raise DefinitionError(f"{kind} needs at least {arity} input(s) in requires")
        self._functor = functor
        super().__init__(name, provides, self._order, auto_extract, rebind, inject)


class MapFunctorTask(_FoldTask):
    """Applies a function of one argument to each of its inputs; returns a list in the order of ``requires``."""

    def execute(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [self._functor(kwargs[name]) for name in self._order]


class ReduceFunctorTask(_FoldTask):
    """Folds its inputs, in the order of ``requires``, with a function of two arguments."""

    def __init__(
        self,
        functor: Callable[..., Any],
        requires: Names,
        name: str | None = None,
        provides: Any = None,
        auto_extract: bool = True,
        rebind: Rebind = None,
        inject: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(functor, requires, name, provides, auto_extract, rebind, inject, arity=2)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        return functools.reduce(self._functor, (kwargs[name] for name in self._order))


def task(function: Callable[..., Any] | None = None, **declared: Any) -> Any:
    """Turn a function into a maker of tasks.

    ``@task(provides="size")`` before ``def measure(path)`` lets ``measure()`` make a task named ``measure``, and
    ``measure(name="other", rebind=...)`` one that is declared otherwise. ``measure.function`` is the function.

    :param declared: what :class:`FunctorTask` takes, ``revert`` among it
    """

    def decorate(decorated: Callable[..., Any]) -> Callable[..., FunctorTask]:
        @functools.wraps(decorated)
        def make(**changed: Any) -> FunctorTask:
            return FunctorTask(decorated, **{**declared, **changed})

        make.function = decorated  # type: ignore[attr-defined]
        return make

    return decorate if function is None else decorate(function)
