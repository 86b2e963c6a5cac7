# SPDX-License-Identifier: Apache-2.0
"""How many atoms run at once, in which order, when a retry waits, and what deciders keep from running."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, retry, states, task
from pluggableflow.connection import Connection, Lease
from pluggableflow.engine import Engine
from pluggableflow.executor import Executor, Work, carry_out
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    made = api.connect(f"sqlite:///{tmp_path}/flows.db")
    yield made
    made.close()


class Step(task.Task):
    def __init__(self, name: str, fails: bool = False, priority: int = 0, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.fails, self.priority = fails, priority

    def execute(self, **kwargs: Any) -> str:
        if self.fails:
            raise ValueError(self.name)
        return self.name


def run(flow: Flow, connection: Connection | None = None, **options: Any) -> Engine:
    loaded = api.load(connection, flow, **options)
    loaded.run()
    return loaded


# -- limits -------------------------------------------------------------------------------------------------------


class Counted(task.Task):
    """Counts how many of its kind run at once; the first ``together`` wait for each other."""

    def __init__(self, name: str, scene: Scene) -> None:
        super().__init__(name=name)
        self.scene = scene

    def execute(self) -> None:
        self.scene.enter()


class Scene:
    def __init__(self, together: int) -> None:
        self.barrier = threading.Barrier(together, timeout=60)
        self.lock, self.now, self.most, self.entered = threading.Lock(), 0, 0, 0

    def enter(self) -> None:
        with self.lock:
            self.now += 1
            self.entered += 1
            self.most = max(self.most, self.now)
        self.barrier.wait()  # so that as many as that certainly run at once
        with self.lock:
            self.now -= 1


@pytest.mark.parametrize("prefetch", [0, 1, None])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_as_many_tasks_run_at_once_as_there_are_workers_and_no_more(workers: int, prefetch: int | None) -> None:
    scene = Scene(workers)
    flow = unordered_flow.Flow("f").add(*(Counted(f"t{number}", scene) for number in range(6)))
    run(flow, engine="parallel", max_workers=workers, prefetch=prefetch)
    assert (scene.entered, scene.most) == (6, workers)


class Collecting(Executor):
    """Keeps work until it has as much as it can be given."""

    def __init__(self, max_workers: int, expected: int) -> None:
        self.max_workers, self.expected = max_workers, expected
        self.held: list[Work] = []
        self.most = 0

    def start(self, done: Any) -> None:
        self.done = done

    def submit(self, work: Work) -> None:
        self.held.append(work)
        self.most = max(self.most, len(self.held))
        if len(self.held) == self.expected:
            for each in self.held:
                self.done(carry_out(each))
            self.held = []

    def stop(self) -> None:
        pass


@pytest.mark.parametrize(("prefetch", "expected"), [(0, 2), (1, 3), (4, 6), (None, 4)])
def test_the_executor_is_given_no_more_than_its_workers_and_the_prefetch(prefetch: int | None, expected: int) -> None:
    executor = Collecting(2, expected)
    flow = unordered_flow.Flow("f").add(*(Step(f"t{number}") for number in range(expected * 3)))
    run(flow, engine="parallel", executor=executor, prefetch=prefetch)
    assert executor.most == expected


def test_a_pool_that_is_passed_in_is_left_running() -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            loaded = run(unordered_flow.Flow("f").add(Step("a"), Step("b")), engine="parallel", executor=pool)
            assert loaded.storage.get_flow_state() == states.SUCCESS
        assert pool.submit(lambda: "still there").result() == "still there"


def test_threads_that_an_engine_made_end_with_the_run() -> None:
    before = set(threading.enumerate())
    run(unordered_flow.Flow("f").add(Step("a"), Step("b")), engine="parallel")
    assert set(threading.enumerate()) <= before


def test_tasks_of_higher_priority_start_first() -> None:
    order: list[str] = []
    loaded = api.load(
        None,
        unordered_flow.Flow("f").add(Step("low", priority=-1), Step("a"), Step("high", priority=5), Step("b")),
    )
    loaded.atom_notifier.register(states.RUNNING, lambda _state, details: order.append(details["task_name"]))
    loaded.run()
    assert order == ["high", "a", "b", "low"]


def test_tasks_start_in_the_order_in_which_they_became_ready() -> None:
    order: list[str] = []
    loaded = api.load(None, unordered_flow.Flow("f").add(*(Step(name) for name in "cabd")))
    loaded.atom_notifier.register(states.RUNNING, lambda _state, details: order.append(details["task_name"]))
    loaded.run()
    assert order == ["c", "a", "b", "d"]


# -- retry delays -------------------------------------------------------------------------------------------------


class FailsOnce(task.Task):
    def execute(self, number: int) -> int:
        if number == 1:
            raise ValueError("the first attempt")
        return number


def _delayed(**delay: Any) -> Flow:
    return linear_flow.Flow("f", retry=retry.Times(2, name="r", provides="number", **delay)).add(FailsOnce("a"))


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_while_a_retry_waits_its_timer_is_stored_and_the_lease_given_up(connection: Connection, engine: str) -> None:
    loaded = api.load(connection, _delayed(delay_seconds=0.05), engine=engine)
    waited: list[tuple[Any, ...]] = []
    real = connection.release

    def release(held: Any) -> None:
        real(held)
        stored = connection.get_flow_details(held.flow_uuid)
        atom = next(atom for atom in stored if atom.name == "r")
        waited.append((stored.state, stored.wake_at, atom.not_before, stored.lease_expires_at))

    connection.release = release  # type: ignore[method-assign]
    loaded.run()
    (sleeping, ended) = waited
    assert sleeping[0] == states.RUNNING
    assert sleeping[1] is not None
    assert sleeping[1] == sleeping[2]
    assert sleeping[3] is None
    assert (ended[0], ended[1], ended[3]) == (states.SUCCESS, None, None)
    assert loaded.storage.fetch("number") == 2


def test_a_process_that_ends_while_a_retry_waits_leaves_the_timer_to_the_next_one(connection: Connection) -> None:
    loaded = api.load(connection, _delayed(delay_seconds=1000))
    for _state in loaded.run_iter():
        stored = connection.get_flow_details(loaded.storage.flow_uuid)
        if stored.wake_at is not None:
            break
    else:
        raise AssertionError("it did not wait")
    stored = connection.get_flow_details(loaded.storage.flow_uuid)
    assert stored.wake_at is not None
    again = api.load(connection, _delayed(delay_seconds=1000), stored)
    states_seen = []
    for state in again.run_iter():
        states_seen.append(state)
        if connection.get_flow_details(stored.uuid).wake_at is not None:
            break
    assert connection.get_flow_details(stored.uuid).wake_at == stored.wake_at


def test_a_flow_whose_retry_waits_can_be_suspended(connection: Connection) -> None:
    loaded = api.load(connection, _delayed(delay_seconds=1000))
    real = connection.release

    def release(held: Any) -> None:
        real(held)
        loaded.suspend()

    connection.release = release  # type: ignore[method-assign]
    loaded.run()
    assert connection.get_flow_details(loaded.storage.flow_uuid).state == states.SUSPENDED


def test_what_runs_beside_a_waiting_retry_goes_on(connection: Connection) -> None:
    beside = linear_flow.Flow("beside").add(Step("x"), Step("y"), Step("z"))
    loaded = run(unordered_flow.Flow("both").add(_delayed(delay_seconds=0.05), beside), connection)
    assert {loaded.storage.get_atom_state(name) for name in ("a", "x", "y", "z")} == {states.SUCCESS}


# -- deciders -----------------------------------------------------------------------------------------------------


def _ignored(flow: Flow, **options: Any) -> str:
    loaded = run(flow, **options)
    assert loaded.storage.get_flow_state() == states.SUCCESS
    return "".join(
        atom.name
        for atom in sorted(loaded.storage.flow_detail, key=lambda each: each.name)
        if atom.state == states.IGNORE
    )


def _no(history: Any) -> bool:
    return False


@pytest.mark.parametrize("engine", ["serial", "parallel"])
@pytest.mark.parametrize(
    ("depth", "ignored"), [("ALL", "bcdefgz"), ("FLOW", "bcd"), ("NEIGHBORS", "bc"), ("ATOM", "b")]
)
def test_the_no_of_a_decider_about_a_task_reaches_as_far_as_its_depth(depth: str, ignored: str, engine: str) -> None:
    """b before c, then d, and before the nested flow (e before f); z comes after it all."""
    flow = graph_flow.Flow("f")
    a, b, c, d, g = (Step(name) for name in "abcdg")
    nested = linear_flow.Flow("nested").add(Step("e"), Step("f"))
    flow.add(a, b, c, d, g, nested)
    flow.link(a, b, decider=_no, decider_depth=depth)
    for before, after in ((b, c), (c, d), (b, nested), (nested, g)):
        flow.link(before, after)
    beside = Step("x")
    flow.add(beside)
    flow.link(a, beside)
    assert _ignored(linear_flow.Flow("around").add(flow, Step("z")), engine=engine) == ignored


@pytest.mark.parametrize(
    ("depth", "ignored"), [("ALL", "bcdez"), ("FLOW", "bcde"), ("NEIGHBORS", "bcd"), ("ATOM", "bc")]
)
def test_the_no_of_a_decider_about_a_flow_reaches_as_far_as_its_depth(depth: str, ignored: str) -> None:
    """The flow (b before c) before d before e; z comes after it all."""
    flow = graph_flow.Flow("f")
    a, d, e = (Step(name) for name in "ade")
    target = linear_flow.Flow("target").add(Step("b"), Step("c"))
    flow.add(a, target, d, e)
    flow.link(a, target, decider=_no, decider_depth=depth)
    flow.link(target, d)
    flow.link(d, e)
    assert _ignored(linear_flow.Flow("around").add(flow, Step("z"))) == ignored


def test_a_decider_is_given_the_results_of_its_source() -> None:
    seen: list[Any] = []
    flow = graph_flow.Flow("f")
    a, b = Step("a"), Step("b")
    flow.add(a, b).link(a, b, decider=lambda history: seen.append(history) or True)  # type: ignore[func-returns-value]
    assert _ignored(flow) == ""
    assert seen == [{"a": "a"}]


def test_a_decider_behind_a_flow_is_given_an_empty_history() -> None:
    seen: list[Any] = []
    flow = graph_flow.Flow("f")
    source, b = linear_flow.Flow("source").add(Step("a")), Step("b")
    flow.add(source, b).link(source, b, decider=lambda history: seen.append(history) or True)  # type: ignore[func-returns-value]
    assert _ignored(flow) == ""
    assert seen == [{}]


def test_the_widest_no_of_several_deciders_wins() -> None:
    flow = graph_flow.Flow("f")
    a, b, c, d = (Step(name) for name in "abcd")
    flow.add(a, b, c, d)
    flow.link(a, c, decider=_no, decider_depth="ATOM")
    flow.link(b, c, decider=_no, decider_depth="ALL")
    flow.link(c, d)
    assert _ignored(flow) == "cd"


def test_an_ignored_source_has_no_vote() -> None:
    flow = graph_flow.Flow("f")
    a, b, c = (Step(name) for name in "abc")
    flow.add(a, b, c)
    flow.link(a, b, decider=_no, decider_depth="ATOM")
    flow.link(b, c, decider=lambda history: pytest.fail("it was asked"))
    assert _ignored(flow) == "b"


def _raises(history: Any) -> bool:
    raise LookupError("the decider is broken")


@pytest.mark.parametrize("in_flow", [False, True])
def test_a_decider_that_raises_fails_its_target_which_has_not_run_and_is_not_reverted(
    connection: Connection, in_flow: bool
) -> None:
    flow = graph_flow.Flow("f")
    a, b = Step("a"), Step("b")
    target = linear_flow.Flow("target").add(b) if in_flow else b
    flow.add(a, target).link(a, target, decider=_raises)
    loaded = api.load(connection, flow)
    heard: list[str] = []
    loaded.atom_notifier.register("*", lambda state, details: heard.append(f"{details['task_name']} {state}"))
    with pytest.raises(LookupError, match="the decider is broken"):
        loaded.run()
    assert heard == ["a RUNNING", "a SUCCESS", "b FAILURE", "a REVERTING", "a REVERTED"]
    assert loaded.storage.get_flow_state() == states.REVERTED


def test_the_nearest_retry_decides_about_a_decider_that_raises() -> None:
    asked: list[int] = []

    def second(history: Any) -> bool:
        asked.append(1)
        if len(asked) == 1:
            raise LookupError("only once")
        return True

    flow = graph_flow.Flow("f", retry=retry.Times(2, name="r"))
    a, b = Step("a"), Step("b")
    flow.add(a, b).link(a, b, decider=second)
    loaded = run(flow)
    assert loaded.storage.get_flow_state() == states.SUCCESS
    assert loaded.storage.get_atom_state("b") == states.SUCCESS
    assert [list(failures) for _value, failures in loaded.storage.get_retry_history("r")] == [["b"], []]


def test_a_decider_that_raises_about_an_empty_flow_fails_the_flow_around() -> None:
    flow = graph_flow.Flow("f")
    a, empty = Step("a"), linear_flow.Flow("empty")
    flow.add(a, empty).link(a, empty, decider=_raises)
    loaded = api.load(None, flow)
    with pytest.raises(LookupError, match="the decider is broken"):
        loaded.run()
    assert loaded.storage.get_flow_state() == states.REVERTED
    assert loaded.storage.get_atom_state("a") == states.REVERTED


def _leave_waiting(connection: Connection, delay_seconds: float) -> str:
    """A flow as a process leaves it that dies while its retry waits; returns its uuid."""
    loaded = api.load(connection, _delayed(delay_seconds=delay_seconds))
    released: list[str] = []
    real = connection.release

    def release(held: Lease) -> None:
        real(held)
        released.append(held.flow_uuid)
        raise KeyboardInterrupt

    connection.release = release  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        loaded.run()
    connection.release = real  # type: ignore[method-assign]
    assert connection.get_flow_details(released[0]).wake_at is not None
    return released[0]


def test_a_timer_that_has_passed_is_gone_after_the_next_run(connection: Connection) -> None:
    uuid = _leave_waiting(connection, 1000)
    left = connection.get_flow_details(uuid)
    left.wake_at = 1
    for atom in left:
        atom.not_before = atom.not_before and 1
    connection.update_flow_details(left)
    run(_delayed(delay_seconds=1000), connection, flow_detail=connection.get_flow_details(uuid))
    stored = connection.get_flow_details(uuid)
    assert (stored.state, stored.wake_at) == (states.SUCCESS, None)


def test_a_flow_that_is_reset_waits_for_nothing(connection: Connection) -> None:
    uuid = _leave_waiting(connection, 1000)
    api.load(connection, _delayed(delay_seconds=1000), connection.get_flow_details(uuid)).reset()
    stored = connection.get_flow_details(uuid)
    assert (stored.state, stored.wake_at) == (states.PENDING, None)


def test_a_pool_that_takes_no_work_ends_the_run_and_the_next_one_goes_on(connection: Connection) -> None:
    pool = ThreadPoolExecutor(2)
    pool.shutdown()
    flow = unordered_flow.Flow("f").add(Step("a"), Step("b"))
    loaded = api.load(connection, flow, engine="parallel", executor=pool)
    with pytest.raises(RuntimeError, match="shutdown"):
        loaded.run()
    uuid = loaded.storage.flow_uuid
    run(flow, connection, flow_detail=connection.get_flow_details(uuid))
    assert connection.get_flow_details(uuid).state == states.SUCCESS


def test_a_run_that_nobody_closed_ends_with_its_process(tmp_path: Path) -> None:
    script = tmp_path / "forgetful.py"
    script.write_text(
        "from pluggableflow import api, task\n"
        "from pluggableflow.patterns import unordered_flow\n"
        "class Say(task.Task):\n"
        "    def execute(self):\n"
        "        print(end=f'{self.name}\\n', flush=True)\n"
        "flow = unordered_flow.Flow('flow').add(*[Say(name=f't{number}') for number in range(8)])\n"
        f"engine = api.load('sqlite:///{tmp_path}/flows.db', flow, engine='parallel', max_workers=2, prefetch=0)\n"
        "run = engine.run_iter()\n"
        "next(run)\n"
        "next(run)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert {"t0", "t1"} <= set(done.stdout.split())
