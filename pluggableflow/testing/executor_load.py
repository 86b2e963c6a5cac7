# SPDX-License-Identifier: Apache-2.0
"""Tests of executors: how much runs at once, stopping while it does, cancelling, and what stays behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from pluggableflow.cancellation import Cancellation
from pluggableflow.executor import Executor
from pluggableflow.task import FunctorTask
from pluggableflow.testing import executor_tasks as tasks
from pluggableflow.testing.executor_kit import ExecutorKit, Run

#: Something that must not happen has this long to happen.
_CHANCE_SECONDS = 1.0
_HELD = pytest.mark.parametrize(
    "held", [tasks.hold, tasks.hold_coroutine], indirect=True, ids=["function", "coroutine"]
)


class LoadTests(ExecutorKit):
    """A part of :class:`~pluggableflow.testing.executor_tests.ExecutorTests`."""

    @pytest.mark.parametrize("function", [tasks.hold, tasks.hold_coroutine], ids=["function", "coroutine"])
    def test_as_much_runs_at_once_as_it_has_workers(self, run: Run, function: Any, tmp_path: Path) -> None:
        if self.immediate:
            pytest.skip("work is run by `submit`, one piece after the other")
        try:
            run.hold(function, tmp_path)
        finally:
            (tmp_path / "release").touch()
        found = run.take(run.executor.max_workers)
        assert all(outcome.value == f"held {node}" for node, outcome in found.items())

    @_HELD
    def test_no_more_runs_at_once_than_it_has_workers(self, run: Run, held: Path) -> None:
        run.submit(100, tasks.echo, value=1)
        run.submit(101, tasks.add, a=1, b=2)
        with pytest.raises(Empty):
            run.outcomes.get(timeout=_CHANCE_SECONDS)
        (held / "release").touch()
        found = run.take(run.executor.max_workers + 2)
        assert (found[100].value, found[101].value) == (1, 3)

    def test_submit_does_not_wait_for_work(self, run: Run, tmp_path: Path) -> None:
        if self.immediate:
            pytest.skip("work is run by `submit`")
        workers = run.executor.max_workers

        def submit() -> None:
            for node in range(workers):
                run.submit(node, tasks.hold, folder=str(tmp_path), me=f"held {node}")
            for node in range(100, 120):
                run.submit(node, tasks.echo, value=node)

        submitting = threading.Thread(target=submit)
        submitting.start()
        submitting.join(_CHANCE_SECONDS * 5)
        waits = submitting.is_alive()
        (tmp_path / "release").touch()
        submitting.join()
        run.take(workers + 20)
        assert not waits

    def test_a_stop_lets_all_work_come_to_its_end(self, run: Run, held: Path) -> None:
        for node in range(100, 110):
            run.submit(node, tasks.echo, value=node)
        stopping = threading.Thread(target=run.executor.stop)
        stopping.start()
        stopping.join(_CHANCE_SECONDS)
        early = not stopping.is_alive()
        (held / "release").touch()
        stopping.join()
        assert not early, "it returned while work was running"
        assert run.outcomes.qsize() == run.executor.max_workers + 10
        assert all(outcome.failure is None for outcome in run.take(run.executor.max_workers + 10).values())

    def test_a_stop_at_once_begins_nothing_more(self, run: Run, held: Path) -> None:
        for node in range(100, 110):
            run.submit(node, tasks.note, path=str(held / "begun"), text=str(node))
        stopping = run.stop_at_once()
        count = 10 + (run.executor.max_workers if "function" in self.ends else 0)
        try:
            found = run.take(count)  # what cannot be ended is still held
        finally:
            (held / "release").touch()
            stopping.join()
        assert not (held / "begun").exists()
        for outcome in (found[node] for node in range(100, 110)):
            assert outcome.failure is not None and "NotRun" in outcome.failure.exc_type_names[0]
            assert not outcome.begun

    @_HELD
    def test_a_stop_at_once_ends_what_can_be_ended_and_waits_for_the_rest(
        self, run: Run, held: Path, request: pytest.FixtureRequest
    ) -> None:
        stopping = run.stop_at_once()
        workers = run.executor.max_workers
        if request.node.callspec.id in self.ends:
            try:
                found = run.take(workers)
            finally:
                (held / "release").touch()
                stopping.join()
            for outcome in found.values():
                assert outcome.failure is not None and "NotRun" in outcome.failure.exc_type_names[0]
                assert outcome.begun
        else:
            (held / "release").touch()
            stopping.join()
            assert run.outcomes.qsize() == workers
            assert all(outcome.failure is None for outcome in run.take(workers).values())

    def test_cancelled_work_is_not_begun(self, run: Run, tmp_path: Path) -> None:
        cancelled = Cancellation()
        cancelled.event.set()
        run.submit_task(1, tasks.Listening("listening"), {"folder": str(tmp_path)}, cancelled)
        path = str(tmp_path / "notes")
        run.submit_task(2, FunctorTask(tasks.note_coroutine), {"path": path, "text": "begun"}, cancelled)
        for outcome in run.take(2).values():
            assert not outcome.begun and outcome.failure is not None
        assert not list(tmp_path.iterdir())

    def test_running_work_is_told_that_it_is_cancelled(self, run: Run, tmp_path: Path) -> None:
        if self.immediate:
            pytest.skip("work is run by `submit`")
        cancelled = Cancellation()
        run.submit_task(1, tasks.Listening("listening"), {"folder": str(tmp_path)}, cancelled)
        tasks.wait_until((tmp_path / "listening").exists)
        cancelled.event.set()
        run.executor.cancel()
        assert run.take(1)[1].value == "told"

    @pytest.mark.parametrize("drain", [True, False])
    def test_it_leaves_no_thread_process_or_file(self, executor: Callable[[int], Executor], drain: bool) -> None:
        _use(Run(executor(2)), drain)  # what is made once for the whole process is made now
        before = _left()
        _use(Run(executor(2)), drain)
        assert _left() == before

    def test_work_whose_worker_died_runs_again_under_the_same_key(self, run: Run, tmp_path: Any) -> None:
        if not self.killable:
            pytest.skip("workers are part of this process")
        run.submit_task(7, tasks.Keyed("keyed"), {"path": str(tmp_path / "keys")})
        assert run.take(1)[7].value == "key 7"
        assert (tmp_path / "keys").read_text() == "key 7\n" * 2


def _use(run: Run, drain: bool) -> None:
    for node in range(4):
        run.submit(node, tasks.echo, value=node)
    run.submit(4, tasks.add, a=1, b=2)
    run.take(5)
    run.executor.stop(drain)


def _left() -> tuple[set[threading.Thread], set[int], int]:
    """The threads and the child processes, dead ones too, of this process, and how many files it has open."""
    children = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended meanwhile
            if parent == os.getpid():
                children.add(int(folder.name))
    return set(threading.enumerate()), children, len(os.listdir("/proc/self/fd"))
