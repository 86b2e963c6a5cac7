# SPDX-License-Identifier: Apache-2.0
"""The contract of :class:`pluggableflow.executor.Executor`, as tests.

The author of an executor subclasses :class:`ExecutorTests` and supplies the fixture ``executor``, a function that makes
one from the number of its workers. What its kind cannot do it declares (:class:`ExecutorKit`), and tests of that are
skipped: an executor whose workers are threads of this process says ``killable = False`` and ``ends = ()``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from pluggableflow.executor import CONTRACT_VERSION, WORKER_DEATHS, Executor, Work
from pluggableflow.task import FunctorTask
from pluggableflow.testing import executor_tasks as tasks
from pluggableflow.testing.executor_kit import Run
from pluggableflow.testing.executor_load import LoadTests

VALUES = [
    None, True, 7, 2**70, 1.5, "text \u00e9", [1], (1, 2), {1, 2}, frozenset({1}), {"a": 1, 2: "b"}, b"\x00",
    bytearray(b"b"), datetime(2020, 1, 2, tzinfo=timezone.utc), timedelta(1), Decimal("1.10"), UUID(int=5), 1j,
]  # fmt: skip


class ExecutorTests(LoadTests):
    """Every rule of the contract. See the module."""

    def test_it_states_its_contract(self, executor: Callable[[int], Executor]) -> None:
        made = executor(2)
        assert made.contract_version == CONTRACT_VERSION
        assert 1 <= made.max_workers <= 2 and isinstance(made.picklable, bool)

    def test_each_piece_of_work_has_one_outcome_with_its_own_result(self, run: Run) -> None:
        for node in range(50):
            run.submit(node, tasks.echo, value=node)
        found = run.take(50)
        assert {node: outcome.value for node, outcome in found.items()} == {node: node for node in range(50)}
        assert all(outcome.failure is None and not outcome.revert for outcome in found.values())
        run.executor.stop()
        assert run.outcomes.empty()

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_a_value_comes_through_equal_and_of_its_type(self, run: Run, value: Any) -> None:
        run.submit(3, tasks.echo, value=value)
        came = run.take(1)[3].value
        assert came == value and type(came) is type(value)

    def test_a_revert_runs_revert(self, run: Run) -> None:
        run.executor.submit(Work(4, FunctorTask(tasks.echo, revert=tasks.undo), True, {"value": 5}, "key"))
        outcome = run.take(1)[4]
        assert (outcome.revert, outcome.value, outcome.failure) == (True, ["undone", 5], None)

    def test_a_coroutine_runs_to_its_end(self, run: Run) -> None:
        run.submit(0, tasks.add, a=1, b=2)
        assert run.take(1)[0].value == 3

    def test_a_failure_has_its_type_text_traceback_and_cause(self, run: Run) -> None:
        run.submit(0, tasks.explode, path="/no/such/file")
        failure = run.take(1)[0].failure
        assert failure is not None and failure.exc_type_names[0] == "ValueError"
        assert failure.exception_str == "no such thing" and "explode" in failure.traceback_str
        assert failure.causes[0].exc_type_names[0] == "FileNotFoundError"

    def test_progress_comes_before_the_outcome(self, run: Run) -> None:
        task = tasks.Halfway(name="halfway")
        run.executor.submit(Work(6, task, False, {}, "the key", run._report))
        assert run.take(1)[6].value == "the key"
        assert (6, 0.5) in run.reports

    def test_one_worker_begins_work_in_the_order_of_submission(self, executor: Any, tmp_path: Any) -> None:
        run = Run(executor(1))
        if self.immediate:
            (tmp_path / "release").touch()
        run.submit(100, tasks.hold, folder=str(tmp_path), me="first")  # so that the others are waiting together
        for node in range(20):
            run.submit(node, tasks.note, path=str(tmp_path / "notes"), text=str(node))
        (tmp_path / "release").touch()
        run.executor.stop()
        assert (tmp_path / "notes").read_text().split()[::2] == [str(node) for node in range(20)]

    @pytest.mark.parametrize("drain", [True, False])
    def test_a_stop_while_busy_leaves_nothing_without_an_outcome(self, run: Run, tmp_path: Any, drain: bool) -> None:
        for node in range(20):
            run.submit(node, tasks.note, path=str(tmp_path / "notes"), text=str(node))
        run.executor.stop(drain)
        found = run.take(20)
        assert run.outcomes.empty() and len(found) == 20
        assert not drain or all(outcome.failure is None for outcome in found.values())

    def test_it_may_be_stopped_twice_and_started_again(self, run: Run) -> None:
        run.executor.stop()
        run.executor.stop()
        run.executor.start(run.outcomes.put)
        run.submit(1, tasks.echo, value=2)
        assert run.take(1)[1].value == 2

    def test_a_pickling_fault_names_atom_and_part_and_disturbs_nothing(self, run: Run) -> None:
        if not run.executor.picklable:
            pytest.skip("work stays in this process")
        run.submit(0, tasks.echo, value=lambda: None)
        run.submit(1, tasks.make_lock)
        run.submit(2, tasks.echo, value=1)
        found = run.take(3)
        for node, part in ((0, "argument 'value'"), (1, "the result")):
            failure = found[node].failure
            assert failure is not None and "NotPicklable" in failure.exc_type_names[0]
            assert f"'atom {node}'" in failure.exception_str and part in failure.exception_str
        assert found[2].value == 1

    def test_work_whose_worker_died_runs_again_a_bounded_number_of_times(self, run: Run, tmp_path: Any) -> None:
        if not self.killable:
            pytest.skip("workers are part of this process")
        run.submit(0, tasks.die, marker=str(tmp_path / "marker"))
        run.submit(1, tasks.always_die, path=str(tmp_path / "deaths"))
        run.submit(2, tasks.echo, value=1)
        found = run.take(3)
        assert (found[0].value, found[2].value) == ("survived", 1)
        failure = found[1].failure
        assert failure is not None and "WorkerDied" in failure.exc_type_names[0] and "'atom 1'" in str(failure)
        assert (tmp_path / "deaths").read_text() == "died\n" * WORKER_DEATHS
