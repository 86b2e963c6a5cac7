# SPDX-License-Identifier: Apache-2.0
"""Where the methods of tasks run: the interface of executors, and the work that crosses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pluggableflow.failure import Failure
from pluggableflow.task import Task

#: Version of this contract. A plugin declares the one it was written against.
CONTRACT_VERSION = 1


@dataclass(slots=True)
class Work:
    """One call of a task's method.

    :ivar node: index in the plan; comes back with the outcome
    :ivar revert: whether ``revert`` is meant, else ``execute``
    :ivar report: takes the node and what its task says of its progress, from any thread
    :ivar key: idempotency key ``flow uuid/atom uuid/attempt/execute|revert``
    """

    node: int
    task: Task
    revert: bool
    arguments: dict[str, Any] = field(repr=False)  # there may be secrets among them
    key: str
    report: Callable[[int, float], None] | None = None


@dataclass(slots=True)
class Outcome:
    """What came of one piece of work: a value, or a failure."""

    node: int
    revert: bool
    value: Any
    failure: Failure | None


def carry_out(work: Work) -> Outcome:
    """Run the method in this thread, between its pre_ and post_ hooks; never raises an ``Exception``.

    What a hook raises counts as the method's failure, unless that failed already.
    """
    task = work.task
    task.idempotency_key, task._report, task._node = work.key, work.report, work.node
    if work.revert:
        before, method, after = task.pre_revert, task.revert, task.post_revert
    else:
        before, method, after = task.pre_execute, task.execute, task.post_execute
    value, failure = None, None
    try:
        before()
        value = method(**work.arguments)
    except Exception as error:
        failure = Failure.from_exception(error)
    try:
        after()
    except Exception as error:
        if failure is None:
            value, failure = None, Failure.from_exception(error)
    return Outcome(work.node, work.revert, value, failure)


class Executor(ABC):
    """Runs work and hands back outcomes, in any order.

    :cvar contract_version: the ``CONTRACT_VERSION`` that this executor was written against
    :ivar max_workers: how many pieces of work can run at once; the engine submits no more than that plus its prefetch
    """

    contract_version: ClassVar[int]
    max_workers: int

    @abstractmethod
    def start(self, done: Callable[[Outcome], None]) -> None:
        """Get ready to run work.

        :param done: called once per submitted piece of work, from any thread; never blocks, never raises
        """

    @abstractmethod
    def submit(self, work: Work) -> None:
        """Take a piece of work; may run it before it returns."""

    @abstractmethod
    def stop(self) -> None:
        """Give back what was made in ``start``; the engine has taken all outcomes before. May be called again."""
