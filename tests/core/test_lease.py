# SPDX-License-Identifier: Apache-2.0
"""Who holds a flow, what happens to one that lost it, and to one whose store fails."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, lease, owner, retry, states, task
from pluggableflow.connection import SUSPEND, Changes, Connection, Lease
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import FlowOwned, LeaseLost, StorageFailure, ValueTooLarge
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.patterns import linear_flow, unordered_flow

Calls = list[str]


def step(name: str, calls: Calls, act: Any = None) -> task.FunctorTask:
    """A task that notes its calls, and acts if told to."""

    def execute() -> str:
        calls.append(name)
        if act is not None:
            act()
        return name

    return task.FunctorTask(execute, name=name, revert=lambda: calls.append(f"-{name}"))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    made = api.connect(f"sqlite:///{tmp_path}/flows.db")
    yield made
    made.close()


def take_over(connection: Connection, uuid: str) -> lease.Claim:
    return lease.claim(connection, uuid, 30, force=True)


# -- taking over --------------------------------------------------------------------------------------------------


def test_a_flow_whose_process_was_killed_is_resumed_at_once(connection: Connection, tmp_path: Path) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f").add(step("a", calls), step("b", calls))
    uuid = api.create_flow_detail(flow, connection=connection).uuid
    child = os.fork()
    if child == 0:
        dies = linear_flow.Flow("f")
        dies.add(step("a", []), step("b", [], lambda: os.kill(os.getpid(), signal.SIGKILL)))
        own = api.connect(f"sqlite:///{tmp_path}/flows.db")
        api.load(own, dies, own.get_flow_details(uuid), lease_seconds=10_000).run()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = connection.get_flow_details(uuid)
    assert (left.state, {atom.name: atom.state for atom in left}) == ("RUNNING", {"a": "SUCCESS", "b": "RUNNING"})
    loaded = api.load(connection, flow, left)
    loaded.run()
    assert calls == ["b"]
    assert loaded.storage.get_flow_state() == states.SUCCESS


def test_a_living_owner_is_named_with_the_time_that_it_has_left(connection: Connection) -> None:
    flow = linear_flow.Flow("f").add(step("a", []))
    holder = api.load(connection, flow)
    holder.prepare()
    with pytest.raises(FlowOwned) as refused:
        api.load(connection, flow, holder.storage.flow_detail).prepare()
    holder.close()
    assert refused.value.owner == owner.identity()
    assert 0 < refused.value.seconds_left <= 30
    assert owner.identity() in str(refused.value)


def test_force_takes_the_flow_from_a_living_owner_whose_next_commit_is_refused(connection: Connection) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f").add(step("a", calls), step("b", calls))
    slow = api.load(connection, flow)
    running = slow.run_iter()
    next(running)
    forced = api.load(connection, flow, connection.get_flow_details(slow.storage.flow_uuid), force=True)
    forced.run()
    assert calls == ["a", "b"]
    with pytest.raises(LeaseLost):
        for _state in running:
            pass
    assert connection.get_flow_details(slow.storage.flow_uuid).state == states.SUCCESS


# -- losing the lease ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_an_engine_that_lost_its_lease_stops_and_neither_writes_nor_reverts(
    connection: Connection, engine: str
) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f")
    flow.add(step("a", calls), step("b", calls, lambda: take_over(connection, uuid)), step("c", calls))
    loaded = api.load(connection, flow, engine=engine)
    uuid = loaded.storage.flow_uuid
    with pytest.raises(LeaseLost, match=uuid):
        loaded.run()
    assert calls == ["a", "b"]
    stored = connection.get_flow_details(uuid)
    assert {atom.name: atom.state for atom in stored} == {"a": states.SUCCESS, "b": states.RUNNING}
    assert stored.state == states.RUNNING


def test_an_engine_whose_renewal_is_refused_starts_nothing_more(connection: Connection) -> None:
    noticed = threading.Event()
    calls: Calls = []

    class Watched(MemoryConnection):
        def renew(self, lease: Lease, lease_seconds: float) -> Any:
            try:
                return super().renew(lease, lease_seconds)
            except LeaseLost:
                noticed.set()
                raise

    watched = Watched()

    def lose() -> None:
        take_over(watched, uuid)
        assert noticed.wait(60)

    loaded = api.load(watched, linear_flow.Flow("f").add(step("a", calls, lose), step("b", calls)), lease_seconds=0.3)
    uuid = loaded.storage.flow_uuid
    with pytest.raises(LeaseLost):
        loaded.run()
    assert calls == ["a"]


# -- a store that fails -------------------------------------------------------------------------------------------


class Failing(MemoryConnection):
    """Fails one commit of a given number, before or after it is applied."""

    def __init__(self, number: int, applied: bool = False) -> None:
        super().__init__()
        self.left, self.applied = number, applied

    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        self.left -= 1
        if self.left == 0:
            if self.applied:
                super().commit(lease, revision, changes)
            raise StorageFailure("the store is down")
        return super().commit(lease, revision, changes)


@pytest.mark.parametrize("engine", ["serial", "parallel"])
@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_store_that_fails_in_the_middle_stops_the_run_and_the_next_one_goes_on(
    number: int, applied: bool, engine: str
) -> None:
    store = Failing(number, applied)
    calls: Calls = []
    loaded = api.load(
        store, linear_flow.Flow("f").add(step("a", calls), step("b", calls), step("c", calls)), engine=engine
    )
    with pytest.raises(StorageFailure, match="the store is down"):
        loaded.run()
    assert not [call for call in calls if call.startswith("-")]
    before = len(calls)
    loaded.run()
    assert loaded.storage.get_flow_state() == states.SUCCESS
    assert sorted(set(calls)) == ["a", "b", "c"]
    assert len(calls) - before == 3 - (before if applied or not before else before - 1)


def test_running_tasks_are_awaited_before_a_storage_failure_is_raised() -> None:
    store, calls = Failing(2), []
    failed = threading.Event()
    real = store.commit

    def commit(*args: Any) -> int:
        try:
            return real(*args)
        except StorageFailure:
            failed.set()
            raise

    def wait() -> None:
        assert failed.wait(60)
        calls.append("slow ended")

    store.commit = commit  # type: ignore[method-assign]
    flow = unordered_flow.Flow("f").add(step("quick", []), step("slow", [], wait))
    loaded = api.load(store, flow, engine="parallel", max_workers=2)
    with pytest.raises(StorageFailure):
        loaded.run()
    assert calls == ["slow ended"]


def test_a_failing_store_is_never_the_failure_of_a_task() -> None:
    store = Failing(2)
    loaded = api.load(store, linear_flow.Flow("f").add(step("a", []), step("b", [])))
    with pytest.raises(StorageFailure):
        loaded.run()
    stored = store.get_flow_details(loaded.storage.flow_uuid)
    assert [atom.failure for atom in stored] == [None]
    assert stored.state == states.RUNNING


# -- renewing -----------------------------------------------------------------------------------------------------


def test_a_lease_is_renewed_by_a_thread_while_a_task_runs(connection: Connection) -> None:
    def expiry() -> int:
        expires_at = connection.get_flow_details(uuid, lazy=True).lease_expires_at
        assert expires_at is not None
        return expires_at

    def watch() -> None:
        seen.append(expiry())
        while len(seen) < 3:
            now = expiry()
            if now > seen[-1]:
                seen.append(now)

    seen: list[int] = []
    loaded = api.load(connection, linear_flow.Flow("f").add(step("a", [], watch)), lease_seconds=0.5)
    uuid = loaded.storage.flow_uuid
    loaded.run()
    assert seen == sorted(set(seen))
    assert connection.get_flow_details(uuid, lazy=True).lease_expires_at is None


# -- interruptions ------------------------------------------------------------------------------------------------


def test_an_interrupted_task_is_run_again_by_the_next_run(connection: Connection) -> None:
    calls: Calls = []
    interrupts = [True]

    def interrupt() -> None:
        if interrupts.pop():
            interrupts.append(False)
            raise KeyboardInterrupt

    loaded = api.load(connection, linear_flow.Flow("f").add(step("a", calls), step("b", calls, interrupt)))
    with pytest.raises(KeyboardInterrupt):
        loaded.run()
    stored = connection.get_flow_details(loaded.storage.flow_uuid)
    assert (stored.state, stored.lease_expires_at) == (states.RUNNING, None)
    loaded.run()
    assert calls == ["a", "b", "b"]
    assert loaded.storage.get_flow_state() == states.SUCCESS


def test_an_interrupted_run_gives_its_lease_up_only_when_its_tasks_have_ended(connection: Connection) -> None:
    stopping = threading.Event()
    calls: Calls = []

    def outlast() -> None:
        assert stopping.wait(60)
        calls.append("slow ended")

    def interrupt(_state: str, _details: Any) -> None:
        raise KeyboardInterrupt

    real = connection.release

    def release(held: Lease) -> None:
        calls.append("released")
        real(held)

    connection.release = release  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        executor = ThreadsExecutor(pool=pool)
        stop = executor.stop

        def stop_later() -> None:
            stopping.set()
            stop()

        executor.stop = stop_later  # type: ignore[method-assign]
        flow = unordered_flow.Flow("f").add(step("quick", []), step("slow", [], outlast))
        loaded = api.load(connection, flow, engine="parallel", executor=executor)
        loaded.atom_notifier.register(states.SUCCESS, interrupt)
        with pytest.raises(KeyboardInterrupt):
            loaded.run()
        assert calls == ["slow ended", "released"]


# -- requests -----------------------------------------------------------------------------------------------------


def test_a_request_to_suspend_is_followed_and_acknowledged(connection: Connection) -> None:
    calls: Calls = []
    seen = threading.Event()
    real = connection.renew

    def renew(held: Lease, lease_seconds: float) -> Any:
        renewal = real(held, lease_seconds)
        if renewal.request is not None:
            renewed.append(True)
        if len(renewed) > 1:  # the keeper has taken the one before into account
            seen.set()
        return renewal

    renewed: list[bool] = []
    connection.renew = renew  # type: ignore[method-assign]

    def ask() -> None:
        connection.request(uuid, SUSPEND, "somebody")
        assert seen.wait(60)

    flow = linear_flow.Flow("f").add(step("a", calls, ask), step("b", calls))
    loaded = api.load(connection, flow, lease_seconds=0.3)
    uuid = loaded.storage.flow_uuid
    loaded.run()
    stored = connection.get_flow_details(uuid)
    assert (stored.state, stored.request_handled, calls) == (states.SUSPENDED, 1, ["a"])
    api.load(connection, flow, stored).run()
    assert calls == ["a", "b"]


def test_a_request_made_before_the_run_is_followed_at_once(connection: Connection) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f").add(step("a", calls))
    loaded = api.load(connection, flow)
    connection.request(loaded.storage.flow_uuid, SUSPEND, "somebody")
    loaded.run()
    assert calls == []
    assert connection.get_flow_details(loaded.storage.flow_uuid).state == states.SUSPENDED
    loaded.run()
    assert calls == ["a"]


# -- waiting without a lease --------------------------------------------------------------------------------------


def test_a_flow_that_somebody_ran_while_its_retry_waited_is_theirs(connection: Connection) -> None:
    def fail(number: int) -> None:
        calls.append(f"a{number}")
        if number == 1:
            raise ValueError(number)

    def flow(delay_seconds: float) -> Any:
        times = retry.Times(2, name="r", provides="number", delay_seconds=delay_seconds)
        return linear_flow.Flow("f", retry=times).add(task.FunctorTask(fail, name="a"))

    calls: Calls = []
    loaded = api.load(connection, flow(0.05))
    real, taken = connection.release, []

    def release(held: Lease) -> None:
        real(held)
        if not taken:
            taken.append(True)
            api.load(connection, flow(0.05), connection.get_flow_details(held.flow_uuid)).run()

    connection.release = release  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        loaded.run()
    assert calls == ["a1", "a2"]
    assert connection.get_flow_details(loaded.storage.flow_uuid).state == states.SUCCESS


# -- limits -------------------------------------------------------------------------------------------------------


class Narrow(MemoryConnection):
    largest_commit_bytes = 4000
    largest_value_bytes = 1500


def test_results_that_do_not_fit_into_one_commit_are_written_by_several() -> None:
    together = threading.Barrier(8, timeout=60)

    def big() -> str:
        together.wait()
        return "x" * 1000

    store = Narrow()
    flow = unordered_flow.Flow("f").add(*(task.FunctorTask(big, name=f"t{number}") for number in range(8)))
    loaded = api.load(store, flow, engine="parallel", max_workers=8)
    loaded.run()
    assert {len(atom.results) for atom in store.get_atoms_for_flow(loaded.storage.flow_uuid)} == {1000}


def test_a_result_that_the_store_cannot_hold_is_the_failure_of_its_task() -> None:
    store = Narrow()
    loaded = api.load(store, linear_flow.Flow("f").add(task.FunctorTask(lambda: "x" * 2000, name="a")))
    with pytest.raises(ValueTooLarge):
        loaded.run()
    assert store.get_flow_details(loaded.storage.flow_uuid).state == states.REVERTED


def test_an_engine_whose_flow_was_deleted_stops(connection: Connection) -> None:
    calls: Calls = []

    def delete() -> None:
        (book,) = connection.get_logbooks(lazy=True)
        connection.destroy_logbook(book.uuid, force=True)

    loaded = api.load(connection, linear_flow.Flow("f").add(step("a", calls, delete), step("b", calls)))
    with pytest.raises(LeaseLost):
        loaded.run()
    assert calls == ["a"]
    assert connection.find_flows() == []


class Mute(MemoryConnection):
    """Lets only one thread renew, or none."""

    def __init__(self, allowed: threading.Thread | None) -> None:
        super().__init__()
        self.allowed = allowed

    def renew(self, lease: Lease, lease_seconds: float) -> Any:
        if threading.current_thread() is not self.allowed:
            raise StorageFailure("the store is mute")
        return super().renew(lease, lease_seconds)


def _outlasting_its_lease(store: Connection, calls: Calls) -> Engine:
    def wait() -> None:
        while loaded._keeper.safe:  # type: ignore[attr-defined]
            pass

    flow = linear_flow.Flow("f").add(step("a", calls, wait), step("b", calls))
    loaded = api.load(store, flow, lease_seconds=0.2)
    return loaded


def test_an_engine_whose_thread_could_not_renew_renews_itself_before_it_starts_more() -> None:
    calls: Calls = []
    loaded = _outlasting_its_lease(Mute(threading.current_thread()), calls)
    loaded.run()
    assert calls == ["a", "b"]
    assert loaded.storage.get_flow_state() == states.SUCCESS


def test_an_engine_that_cannot_renew_says_so_and_starts_nothing_more() -> None:
    calls: Calls = []
    store = Mute(None)
    loaded = _outlasting_its_lease(store, calls)
    with pytest.raises(StorageFailure, match="mute"):
        loaded.run()
    assert calls == ["a"]
    assert store.get_flow_details(loaded.storage.flow_uuid).state == states.RUNNING
