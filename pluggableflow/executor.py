# SPDX-License-Identifier: Apache-2.0
"""Where the methods of tasks run: the interface of executors, and the work that crosses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any, ClassVar

from pluggableflow.cancellation import NEVER, Cancellation
from pluggableflow.exceptions import NotRun, TimedOut
from pluggableflow.failure import Failure
from pluggableflow.task import Task

#: Version of this contract. A plugin declares the one it was written against.
CONTRACT_VERSION = 1
#: So often may the worker of one piece of work die before that fails.
WORKER_DEATHS = 3


@dataclass(slots=True)
class Work:
    """One call of a task's method.

    :ivar node: index in the plan; comes back with the outcome
    :ivar revert: whether ``revert`` is meant, else ``execute``
    :ivar report: takes the node and what its task says of its progress: a number and details, from any thread
    :ivar cancelled: whether it should end, or need not begin; becomes ``cancelled`` of the task
    :ivar key: idempotency key ``flow uuid/atom uuid/attempt/execute|revert``
    """

    node: int
    task: Task
    revert: bool
    arguments: dict[str, Any] = field(repr=False)  # there may be secrets among them
    key: str
    report: Callable[[int, float, Mapping[str, Any]], None] | None = None
    cancelled: Cancellation = NEVER

    def failed(self, error: BaseException) -> Outcome:
        """The outcome of work that an exception ended outside :func:`carry_out`, or kept from being run."""
        return Outcome(self.node, self.revert, None, Failure.from_exception(error))

    def not_begun(self, why: str) -> Outcome:
        """The outcome of work that will not be begun."""
        fault = NotRun(f"atom {self.task.name!r} was not begun: {why}")
        return Outcome(self.node, self.revert, None, Failure.from_exception(fault), begun=False)


@dataclass(slots=True)
class Outcome:
    """What came of one piece of work: a value, or a failure.

    :ivar begun: whether its method was called, or may have been
    """

    node: int
    revert: bool
    value: Any
    failure: Failure | None
    begun: bool = True


def carry_out(work: Work) -> Outcome:
    """Run the method in this thread, between its pre_ and post_ hooks; never raises an ``Exception``.

    A coroutine that it returns is run to its end, in an event loop of its own. What a hook raises counts as the
    method's failure, unless that failed already. Work that is cancelled by now is not begun.
    """
    if work.cancelled.is_set():
        return work.not_begun("it was cancelled")
    before, method, after = begin(work)
    value, failure = None, None
    try:
        before()
        value = method(**work.arguments)
        if type(value) is CoroutineType:
            value = run_to_end(value)
    except Exception as error:
        failure = Failure.from_exception(error)
    return conclude(work, after, value, failure)


def begin(work: Work) -> tuple[Callable[[], Any], Callable[..., Any], Callable[[], Any]]:
    """Get a task ready for its work; returns the method, with the hooks before and after it."""
    task = work.task
    task.idempotency_key, task._report, task._node = work.key, work.report, work.node
    task.cancelled = work.cancelled
    task._has_reported = False
    if task._notifier is not None:
        task.update_progress(0.0)
    if work.revert:
        return task.pre_revert, task.revert, task.post_revert
    return task.pre_execute, task.execute, task.post_execute


def conclude(work: Work, after: Callable[[], Any], value: Any, failure: Failure | None) -> Outcome:
    """Call the hook after the method, and make the outcome of both; beyond its time limit it is a failure."""
    try:
        after()
    except Exception as error:
        if failure is None:
            value, failure = None, Failure.from_exception(error)
    limit = work.cancelled.limit
    if limit is not None and work.cancelled.is_overdue():
        late = TimedOut(work.task.name, limit)
        late.__cause__ = failure.exception if failure is not None else None
        value, failure = None, Failure.from_exception(late)
    if work.task._has_reported and failure is None:
        work.task.update_progress(1.0)
    return Outcome(work.node, work.revert, value, failure)


def run_to_end(coroutine: CoroutineType[Any, Any, Any]) -> Any:
    """Block until a coroutine has ended, on a loop of its own, and return its value.

    :raises NotRun: it was cancelled from inside
    """
    import asyncio  # late: it takes longer to import than the core

    try:
        if asyncio._get_running_loop() is None:
            return asyncio.run(coroutine)
        # The engine itself is run by a coroutine, whose loop it blocks; a thread can have only one.
        with ThreadPoolExecutor(1, "pluggableflow_coroutine") as pool:
            return pool.submit(copy_context().run, asyncio.run, coroutine).result()
    except asyncio.CancelledError as error:  # no Exception, but nobody meant to end this thread
        raise NotRun("the coroutine was cancelled from inside") from error


class Executor(ABC):
    """Runs work and hands back outcomes, in any order.

    *What travels.* :class:`Work`: the task, which method, its arguments, the idempotency key. An executor that runs
    it elsewhere says ``picklable = True`` and sends a copy of the task; what that changes in itself is lost. Listeners
    of the task stay behind.

    *What comes back.* One :class:`Outcome` for each piece of work, a result or a failure, with causes; from another
    process a failure comes as data, without the live exception. Before it, from any thread, what the task says of its
    progress: the executor sets ``_report`` and ``_node`` of the task that stayed here and calls its
    ``update_progress``, which tells the listeners and the engine. Work that cannot be pickled, or whose result cannot,
    fails with :class:`~pluggableflow.exceptions.NotPicklable`, which names atom and part; nothing else is disturbed.
    The times of an atom are the engine's, which takes them as it hands work out and takes outcomes; an executor
    measures nothing.

    *When a worker dies* with a piece of work, the same work, with the same idempotency key, is run again by another.
    After :data:`WORKER_DEATHS` such deaths it fails with :class:`~pluggableflow.exceptions.WorkerDied`. Other work is
    not disturbed, and no worker outlives the process of its engine.

    *Pools* that were given to an executor are used, no further than ``max_workers`` at once, and left running.

    *Cancelling.* The engine sets ``Work.cancelled`` of running work, which needs nothing more where the task runs in
    this process; :meth:`cancel` lets an executor pass it on to elsewhere. Work that should end and has not after a
    while is ended or given up with :meth:`end`. Work that is cancelled before it has begun is not begun.

    An ``async def`` method runs to its end like any other (:func:`carry_out` does it). An executor may be started
    again after it was stopped; it belongs to one engine at a time.

    :cvar contract_version: the ``CONTRACT_VERSION`` that this executor was written against
    :cvar config_module: name of the module that publishes options for ini files, see :mod:`pluggableflow.config`
    :cvar picklable: whether tasks, arguments and results must be picklable
    :ivar max_workers: how many pieces of work run at once, at most; the engine has no more than that plus its prefetch
        submitted without an outcome
    """

    contract_version: ClassVar[int]
    config_module: ClassVar[str | None] = None
    picklable: ClassVar[bool] = False
    max_workers: int

    @abstractmethod
    def start(self, done: Callable[[Outcome], None]) -> None:
        """Get ready to run work.

        :param done: called exactly once per submitted piece of work, from any thread; never blocks, never raises
        """

    @abstractmethod
    def submit(self, work: Work) -> None:
        """Take a piece of work, to be begun in the order of submission; may run it before it returns.

        Never raises for what is wrong with the work: that is its outcome. Raises where nothing can be run at all, as
        on a pool that was shut down; the work was not taken then, and the run ends without having failed the flow.
        """

    def cancel(self) -> None:  # noqa: B027  (nothing to do where tasks run in this process)
        """``cancelled`` of some of the submitted work is set now: tell those that run it elsewhere. From any thread."""

    def end(self, node: int, ended: Callable[[], None]) -> bool:
        """End a piece of work that should have ended by itself. In the thread of :meth:`submit`.

        :param ended: called, from any thread, when work that was given up has ended after all
        :returns: ``True`` if its outcome comes, like that of any work: it was ended, or cannot be and is waited for;
            ``False`` if it was given up: it has no outcome any more, :meth:`stop` does not wait for it, and another
            takes its worker's place
        """
        return True

    @abstractmethod
    def stop(self, drain: bool = True) -> None:
        """Return when all that was submitted has its outcome, and what ``start`` and ``submit`` made is given back.

        No thread, process or file stays behind. May be called again, without a start, and from another thread
        than ``submit``.

        :param drain: let all work come to its end; else what has not begun fails with
            :class:`~pluggableflow.exceptions.NotRun`, and so does what runs if it can be ended (a process can, a
            coroutine can, a thread is waited for)
        """
