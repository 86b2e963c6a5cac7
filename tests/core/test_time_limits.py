# SPDX-License-Identifier: Apache-2.0
"""Time limits of tasks, of the flows of retries and of whole flows, also over suspensions and deaths."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import stoppable
from stoppable import Deaf, DeafCoroutine, DeafThread, Refusing, Waiting

from pluggableflow import api, retry, states, task
from pluggableflow.connection import Connection
from pluggableflow.exceptions import Cancelled, CompilationFailure, DefinitionError, TimedOut, WrappedFailure
from pluggableflow.executor import Executor
from pluggableflow.executors.asyncio import AsyncioExecutor
from pluggableflow.executors.processes import ProcessesExecutor
from pluggableflow.executors.serial import SerialExecutor
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.middleware import FlowDetail
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow

KINDS = [SerialExecutor, ThreadsExecutor, AsyncioExecutor, ProcessesExecutor]
SHORT_SECONDS, LONG_SECONDS = 0.5, 10_000
Calls = list[str]


@pytest.fixture(params=["nowhere", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection | None]:
    made = api.connect(f"sqlite:///{tmp_path}/flows.db") if request.param == "sqlite" else None
    yield made
    if made is not None:
        made.close()


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    made = api.connect(f"sqlite:///{tmp_path}/flows.db")
    yield made
    made.close()


def step(name: str, calls: Calls, act: Callable[[], Any] | None = None, **declared: Any) -> task.FunctorTask:
    def execute() -> None:
        calls.append(name)
        if act is not None:
            act()

    return task.FunctorTask(execute, name=name, revert=lambda: calls.append(f"-{name}"), **declared)


def fail() -> None:
    raise ValueError("does not work")


# -- tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_goes_on_beyond_its_limit_fails_whatever_it_returns(kind: type[Executor]) -> None:
    waiting = Waiting("a", time_limit_seconds=SHORT_SECONDS)
    loaded = api.load(None, linear_flow.Flow("f").add(waiting), engine="parallel", executor=kind())
    with pytest.raises((TimedOut, WrappedFailure), match="atom 'a' ran out of time: its limit of 0.5 s has passed"):
        loaded.run()
    assert loaded.storage.get_flow_state() == states.REVERTED
    assert "TimedOut" in loaded.storage.get_revert_result("a")


def test_what_a_task_raises_beyond_its_limit_is_the_cause_of_its_failure() -> None:
    with pytest.raises(TimedOut) as raised:
        api.run(None, linear_flow.Flow("f").add(Refusing("a", time_limit_seconds=SHORT_SECONDS)))
    assert isinstance(raised.value.__cause__, InterruptedError)


def test_a_limit_can_be_declared_by_the_class_and_a_task_within_it_is_not_disturbed() -> None:
    class Quick(task.Task):
        time_limit_seconds = LONG_SECONDS

        def execute(self) -> bool:
            return self.cancelled.is_set()

    assert api.run(None, linear_flow.Flow("f").add(Quick(provides="told"))) == {"told": False}


@pytest.mark.parametrize(("executor", "kind"), [(ProcessesExecutor, Deaf), (AsyncioExecutor, DeafCoroutine)])
def test_a_task_that_ignores_its_limit_is_ended_where_that_can_be_done(
    executor: type[Executor], kind: type[Waiting]
) -> None:
    flow = linear_flow.Flow("f").add(kind("a", time_limit_seconds=SHORT_SECONDS))
    loaded = api.load(None, flow, engine="parallel", executor=executor(), grace_seconds=0)
    with pytest.raises((TimedOut, WrappedFailure), match="atom 'a' ran out of time"):
        loaded.run()


def test_a_retry_knows_of_a_task_out_of_time_as_of_any_failure(store: Connection | None) -> None:
    class Once(Waiting):
        def execute(self, number: int) -> str:  # type: ignore[override]
            return super().execute() if number == 1 else "in time"

    times = retry.Times(2, name="r", provides="number")
    flow = linear_flow.Flow("f", retry=times).add(Once("a", provides="a", time_limit_seconds=SHORT_SECONDS))
    loaded = api.load(store, flow, engine="parallel")
    loaded.run()
    assert loaded.storage.fetch("a") == "in time"
    assert loaded.storage.get_retry_history("r").caused_by(TimedOut)


def test_a_thread_out_of_time_holds_up_the_next_attempt_until_it_has_ended(store: Connection | None) -> None:
    release, seen = threading.Event(), []
    stoppable.RELEASE.append(release)

    class Alone(DeafThread):
        def execute(self, number: int) -> str:  # type: ignore[override]
            seen.append(f"{number} begins")
            if number == 1:
                super().execute()
            seen.append(f"{number} ends")
            return "done"

    class Free(task.Task):
        def revert(self, **ignored: Any) -> None:
            release.set()

        def execute(self) -> None: ...

    inner = unordered_flow.Flow("g", retry=retry.Times(2, name="r", provides="number")).add(
        Alone("a", time_limit_seconds=SHORT_SECONDS), Free("b")
    )
    api.load(store, inner, engine="parallel", grace_seconds=0).run()
    assert seen == ["1 begins", "1 ends", "2 begins", "2 ends"]


def test_a_task_with_a_limit_is_not_handed_out_before_a_worker_is_free() -> None:
    class First(task.Task):
        def execute(self) -> None:
            states_seen.append(loaded.storage.get_atom_state("b"))

    states_seen: list[str] = []
    flow = unordered_flow.Flow("f").add(First("a"), Waiting("b", time_limit_seconds=SHORT_SECONDS))
    loaded = api.load(None, flow, engine="parallel", max_workers=1, prefetch=4)
    with pytest.raises(TimedOut):
        loaded.run()
    assert states_seen == [states.PENDING]


@pytest.mark.parametrize("limit", [0, -1, "1", True, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(limit: Any) -> None:
    for make in (
        lambda: task.FunctorTask(fail, time_limit_seconds=limit),
        lambda: retry.Times(2, time_limit_seconds=limit),
        lambda: graph_flow.Flow("f", time_limit_seconds=limit),
    ):
        with pytest.raises(DefinitionError, match="time_limit_seconds must be a number of more than 0"):
            make()


# -- flows of retries ---------------------------------------------------------------------------------------------


def test_no_attempt_begins_beyond_the_limit_of_a_retry(store: Connection | None) -> None:
    calls: Calls = []
    times = retry.Times(1_000_000, name="r", time_limit_seconds=SHORT_SECONDS)
    loaded = api.load(store, linear_flow.Flow("f", retry=times).add(step("a", calls, fail)))
    with pytest.raises((ValueError, TimedOut)):
        loaded.run()
    assert loaded.storage.get_flow_state() == states.REVERTED
    assert loaded.storage.get_atom_state("r") == states.REVERTED


def test_a_delay_that_would_end_beyond_the_limit_is_not_waited_for(store: Connection | None) -> None:
    calls: Calls = []
    times = retry.Times(5, name="r", delay_seconds=2 * LONG_SECONDS, time_limit_seconds=LONG_SECONDS)
    with pytest.raises(ValueError):
        api.run(store, linear_flow.Flow("f", retry=times).add(step("a", calls, fail)))
    assert calls == ["a", "-a"]


def test_what_runs_in_the_flow_of_a_retry_is_told_of_its_limit(store: Connection | None) -> None:
    calls: Calls = []
    inner = linear_flow.Flow("g", retry=retry.Times(5, name="r", time_limit_seconds=SHORT_SECONDS))
    flow = unordered_flow.Flow("f").add(inner.add(step("a", calls), Waiting("b"), step("c", calls)), step("d", calls))
    loaded = api.load(store, flow, engine="parallel")
    with pytest.raises(TimedOut, match="atom 'b' ran out of time: the limit of 'r' of 0.5 s has passed"):
        loaded.run()
    assert sorted(calls) == ["-a", "a", "d"]


def test_at_its_limit_a_retry_decides_as_if_it_had_no_more_attempts(store: Connection | None) -> None:
    calls: Calls = []
    times = retry.Times(5, name="r", time_limit_seconds=SHORT_SECONDS, revert_all=True)
    inner = linear_flow.Flow("g", retry=times).add(Waiting("b"))
    outer = linear_flow.Flow("f", retry=retry.Times(5, name="s")).add(step("a", calls), inner)
    with pytest.raises(TimedOut):
        api.run(store, outer)
    assert calls == ["a", "-a"]


# -- whole flows --------------------------------------------------------------------------------------------------


def out_of_time(loaded: Any) -> None:
    with pytest.raises(Cancelled, match="flow 'f' was cancelled: its time limit has passed"):
        loaded.run()
    assert loaded.storage.get_flow_state() == states.CANCELLED


def test_a_flow_beyond_its_limit_is_reverted_and_cancelled(store: Connection | None) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f", retry=retry.Times(5, name="r"), time_limit_seconds=SHORT_SECONDS)
    loaded = api.load(store, flow.add(step("a", calls), Waiting("b", provides="b"), step("c", calls)))
    out_of_time(loaded)
    assert calls == ["a", "-a"]
    assert loaded.storage.get_revert_result("b") == "'told'"
    loaded.reset()
    assert loaded.storage.flow_detail.deadline_at is None


def test_a_flow_in_which_a_retry_waits_wakes_up_at_its_limit(store: Connection | None) -> None:
    calls: Calls = []
    times = retry.Times(5, name="r", delay_seconds=LONG_SECONDS)
    flow = linear_flow.Flow("f", retry=times, time_limit_seconds=SHORT_SECONDS).add(step("a", calls, fail))
    out_of_time(api.load(store, flow))
    assert calls == ["a", "-a"]


def test_a_flow_within_its_limit_succeeds(store: Connection | None) -> None:
    flow = unordered_flow.Flow("f", time_limit_seconds=LONG_SECONDS).add(step("a", []))
    api.run(store, flow)


def test_only_the_outermost_flow_can_have_a_limit() -> None:
    inner = linear_flow.Flow("g", time_limit_seconds=1).add(step("a", []))
    with pytest.raises(CompilationFailure, match="flow 'g' stands in another .* give it a retry with time_limit_s"):
        api.run(None, linear_flow.Flow("f").add(inner))


# -- deadlines are stored -----------------------------------------------------------------------------------------


def dies(tmp_path: Path, flow: Any, uuid: str) -> FlowDetail:
    """Run a flow in a process that kills itself; returns what is stored."""
    child = os.fork()
    if child == 0:
        own = api.connect(f"sqlite:///{tmp_path}/flows.db")
        api.load(own, flow, own.get_flow_details(uuid), lease_seconds=10_000).run()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    own = api.connect(f"sqlite:///{tmp_path}/flows.db")
    left = own.get_flow_details(uuid)
    own.close()
    return left


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_until(deadline_at: int | None) -> None:
    assert deadline_at is not None
    while time.time_ns() // 1000 <= deadline_at:
        threading.Event().wait(0.01)


def deadline_of(detail: FlowDetail, name: str) -> int | None:
    return next(atom.deadline_at for atom in detail if atom.name == name)


def test_a_task_keeps_its_deadline_when_its_process_dies(connection: Connection, tmp_path: Path) -> None:
    calls: Calls = []

    def make(act: Any, limit: float) -> Any:
        return linear_flow.Flow("f").add(step("a", calls), step("b", calls, act, time_limit_seconds=limit))

    uuid = api.create_flow_detail(make(None, 1), connection=connection).uuid
    left = dies(tmp_path, make(die, LONG_SECONDS), uuid)
    assert deadline_of(dies(tmp_path, make(die, LONG_SECONDS), uuid), "b") == deadline_of(left, "b")
    uuid = api.create_flow_detail(make(None, 1), connection=connection).uuid
    left = dies(tmp_path, make(die, SHORT_SECONDS), uuid)
    wait_until(deadline_of(left, "b"))
    with pytest.raises(TimedOut, match="atom 'b' ran out of time: its limit of 0.5 s"):
        api.load(connection, make(None, SHORT_SECONDS), left).run()
    assert calls == ["-b", "-a"]  # it may have had an effect before its process died


def test_the_flow_of_a_retry_keeps_its_deadline_when_its_process_dies(connection: Connection, tmp_path: Path) -> None:
    calls: Calls = []

    def make(act: Any) -> Any:
        times = retry.Times(5, name="r", time_limit_seconds=2 * SHORT_SECONDS)
        tasks = step("a", calls), step("b", calls, act), step("c", calls)
        return linear_flow.Flow("f").add(linear_flow.Flow("g", retry=times).add(*tasks))

    uuid = api.create_flow_detail(make(None), connection=connection).uuid
    left = dies(tmp_path, make(die), uuid)
    wait_until(deadline_of(left, "r"))
    with pytest.raises(TimedOut, match="atom 'b' ran out of time: the limit of 'r'"):
        api.load(connection, make(None), left).run()
    assert calls == ["-b", "-a"]


def test_what_has_not_begun_when_the_time_of_its_retry_is_over_is_not_reverted(store: Connection | None) -> None:
    calls: Calls = []
    inner = linear_flow.Flow("g", retry=retry.Times(5, name="r", time_limit_seconds=SHORT_SECONDS))
    inner.add(step("a", calls, lambda: loaded.suspend()), step("b", calls))
    loaded = api.load(store, linear_flow.Flow("f").add(inner))
    loaded.run()
    wait_until(deadline_of(loaded.storage.flow_detail, "r"))
    heard: Calls = []
    loaded.atom_notifier.register("*", lambda state, details: heard.append(f"{details.get('task_name')} {state}"))
    with pytest.raises(TimedOut, match="atom 'b' ran out of time"):
        loaded.run()
    assert calls == ["a", "-a"]
    assert [each for each in heard if each.startswith("b")] == ["b FAILURE"]


def test_a_flow_keeps_its_deadline_when_its_process_dies_and_goes_on_reverting(
    connection: Connection, tmp_path: Path
) -> None:
    calls: Calls = []

    def make(act: Any, undo: Any = None) -> Any:
        first = task.FunctorTask(lambda: None, name="a", revert=undo or (lambda: calls.append("-a")))
        return linear_flow.Flow("f", time_limit_seconds=2 * SHORT_SECONDS).add(first, step("b", calls, act))

    uuid = api.create_flow_detail(make(None), connection=connection).uuid
    left = dies(tmp_path, make(die), uuid)
    assert left.deadline_at is not None
    wait_until(left.deadline_at)
    deadline_at = left.deadline_at
    left = dies(tmp_path, make(None, die), uuid)
    assert (left.state, left.deadline_at) == (states.REVERTING, deadline_at)
    out_of_time(api.load(connection, make(None), left))
    assert calls == ["-a"]
    assert connection.get_flow_details(uuid).state == states.CANCELLED


def test_a_flow_whose_time_is_over_before_it_is_resumed_runs_nothing_more(store: Connection | None) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f", time_limit_seconds=SHORT_SECONDS)
    loaded = api.load(store, flow.add(step("a", calls, lambda: loaded.suspend()), step("b", calls)))
    loaded.run()
    wait_until(loaded.storage.flow_detail.deadline_at)
    out_of_time(loaded)
    assert calls == ["a", "-a"]
