# SPDX-License-Identifier: Apache-2.0
"""What the tests of executors share: the fixtures, and what an executor declares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import pytest

from pluggableflow.cancellation import NEVER, Cancellation
from pluggableflow.executor import Executor, Outcome, Work
from pluggableflow.task import FunctorTask, Task
from pluggableflow.testing import executor_tasks as tasks


class Run:
    """A started executor, and the outcomes that it has handed back."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.reports: list[tuple[int, float]] = []
        executor.start(self.outcomes.put)

    def submit(self, node: int, function: Callable[..., Any], **arguments: Any) -> None:
        self.submit_task(node, FunctorTask(function, name=f"atom {node}", revert=tasks.undo), arguments)

    def submit_task(
        self, node: int, task: Task, arguments: dict[str, Any] | None = None, cancelled: Cancellation = NEVER
    ) -> None:
        self.executor.submit(Work(node, task, False, arguments or {}, f"key {node}", self._report, cancelled))

    def _report(self, node: int, progress: float, _details: Any = None) -> None:
        self.reports.append((node, progress))

    def take(self, count: int) -> dict[int, Outcome]:
        found = [self.outcomes.get(timeout=tasks.LIMIT_SECONDS) for _ in range(count)]
        return {outcome.node: outcome for outcome in found}

    def hold(self, function: Callable[..., Any], folder: Path) -> None:
        """Occupy every worker until there is a file ``release`` in the folder; returns when all of that has begun."""
        for node in range(self.executor.max_workers):
            self.submit(node, function, folder=str(folder), me=f"held {node}")
        tasks.wait_until(lambda: len(list(folder.iterdir())) == self.executor.max_workers)

    def stop_at_once(self) -> threading.Thread:
        """Stop, in a thread, because it may take until what runs is released."""
        thread = threading.Thread(target=self.executor.stop, args=(False,))
        thread.start()
        return thread


class ExecutorKit:
    """What an executor declares, and its fixtures.

    :cvar killable: whether a worker can die without this process
    :cvar immediate: whether ``submit`` runs the work before it returns
    :cvar ends: what a stop at once ends while it runs: ``"function"``, ``"coroutine"``
    """

    killable: ClassVar[bool] = True
    immediate: ClassVar[bool] = False
    ends: ClassVar[tuple[str, ...]] = ("function", "coroutine")

    @pytest.fixture
    def executor(self) -> Callable[[int], Executor]:
        """Makes an executor of so many workers, or of fewer if it cannot have so many."""
        pytest.fail(f"{type(self).__name__} supplies no fixture `executor`", pytrace=False)

    @pytest.fixture
    def run(self, executor: Callable[[int], Executor]) -> Iterator[Run]:
        made = Run(executor(2))
        yield made
        made.executor.stop()

    @pytest.fixture
    def held(self, run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
        """A folder in which a file ``release`` ends the work that occupies every worker of ``run``, and has begun."""
        if self.immediate:
            pytest.skip("work is run by `submit`, so none is held")
        run.hold(getattr(request, "param", tasks.hold), tmp_path)
        yield tmp_path
        (tmp_path / "release").touch()
