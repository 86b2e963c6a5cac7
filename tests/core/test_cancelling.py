# SPDX-License-Identifier: Apache-2.0
"""Flows that somebody stops for good, from this process or another, also one that dies over it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, retry, states, task
from pluggableflow.compiler import compile
from pluggableflow.connection import CANCEL, CANCEL_AND_REVERT, SUSPEND, Connection
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import Cancelled, InvalidState
from pluggableflow.machine import Machine
from pluggableflow.middleware import FlowDetail
from pluggableflow.patterns import linear_flow, unordered_flow

Calls = list[str]
Act = Callable[[], Any] | None


def step(name: str, calls: Calls, act: Act = None, undo: Act = None) -> task.FunctorTask:
    """A task that notes its calls, and acts if told to."""

    def execute() -> str:
        calls.append(name)
        if act is not None:
            act()
        return name

    def revert() -> None:
        calls.append(f"-{name}")
        if undo is not None:
            undo()

    return task.FunctorTask(execute, name=name, revert=revert)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    made = api.connect(f"sqlite:///{tmp_path}/flows.db")
    yield made
    made.close()


@pytest.fixture(params=["nowhere", "memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection | None]:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/flows.db"}
    made = api.connect(urls[request.param]) if request.param in urls else None
    yield made
    if made is not None:
        made.close()


def states_of(detail: FlowDetail) -> dict[str, str]:
    return {atom.name: atom.state for atom in detail}


def cancelled(loaded: Engine) -> dict[str, str]:
    """Run what is cancelled; returns how its atoms ended."""
    with pytest.raises(Cancelled, match="flow 'f' was cancelled: .* asked for it"):
        loaded.run()
    assert loaded.storage.get_flow_state() == states.CANCELLED
    detail = loaded.storage.flow_detail
    if loaded.connection is not None:
        detail = loaded.connection.get_flow_details(detail.uuid)
        assert (detail.state, detail.request_handled) == (states.CANCELLED, detail.request_sequence)
    return states_of(detail)


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_a_task_can_have_its_flow_cancelled_which_leaves_everything_as_it_is(
    store: Connection | None, kind: str
) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f").add(step("a", calls), step("b", calls, lambda: loaded.cancel()), step("c", calls))
    loaded = api.load(store, flow, engine=kind)
    assert cancelled(loaded) == {"a": "SUCCESS", "b": "SUCCESS", **({"c": "PENDING"} if store is None else {})}
    assert calls == ["a", "b"]


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_cancelling_can_revert_what_has_begun(store: Connection | None, kind: str) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f", retry=retry.Times(5, name="r")).add(
        step("a", calls), step("b", calls, lambda: loaded.cancel(revert=True)), step("c", calls)
    )
    loaded = api.load(store, flow, engine=kind)
    assert cancelled(loaded) == {"r": "REVERTED", "a": "REVERTED", "b": "REVERTED"} | (
        {"c": "PENDING"} if store is None else {}
    )
    assert calls == ["a", "b", "-b", "-a"]


def test_a_cancelled_flow_does_not_run_again_until_it_is_reset(store: Connection | None) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f").add(step("a", calls), step("b", calls))
    loaded = api.load(store, flow)
    loaded.cancel()
    cancelled(loaded)
    cancelled(loaded)
    with pytest.raises(InvalidState):
        loaded.cancel()
    assert calls == []
    loaded.reset()
    loaded.run()
    assert calls == ["a", "b"]
    assert loaded.storage.get_flow_state() == states.SUCCESS


def test_a_flow_whose_last_task_has_run_can_still_be_reverted_but_not_stopped(store: Connection | None) -> None:
    flow = linear_flow.Flow("f").add(step("a", [], lambda: loaded.cancel()))
    loaded = api.load(store, flow)
    loaded.run()
    assert loaded.storage.get_flow_state() == states.SUCCESS
    flow = linear_flow.Flow("f").add(step("a", [], lambda: reverted.cancel(revert=True)))
    reverted = api.load(store, flow)
    assert cancelled(reverted) == {"a": "REVERTED"}


@pytest.mark.parametrize("revert", [False, True])
def test_no_retry_is_asked_about_what_fails_while_a_flow_is_cancelled(store: Connection | None, revert: bool) -> None:
    def fail() -> None:
        loaded.cancel(revert)
        raise ValueError("as it is cancelled")

    calls: Calls = []
    flow = linear_flow.Flow("f", retry=retry.Times(5, name="r")).add(step("a", calls), step("b", calls, fail))
    loaded = api.load(store, flow)
    assert cancelled(loaded)["b"] == ("REVERTED" if revert else "FAILURE")
    assert calls == ["a", "b", *(["-b", "-a"] if revert else [])]


def test_a_revert_that_fails_under_a_cancellation_ends_the_flow_as_failed() -> None:
    def fail() -> None:
        raise ValueError("no way back")

    flow = linear_flow.Flow("f").add(step("a", [], lambda: loaded.cancel(revert=True), fail))
    loaded = api.load(None, flow)
    with pytest.raises(ValueError, match="no way back"):
        loaded.run()
    assert loaded.storage.get_flow_state() == states.FAILURE


def test_cancelling_stops_a_flow_in_the_middle_of_being_reverted(store: Connection | None) -> None:
    def fail() -> None:
        raise ValueError

    calls: Calls = []
    flow = linear_flow.Flow("f").add(
        step("a", calls), step("b", calls, None, lambda: loaded.cancel()), step("c", calls, fail)
    )
    loaded = api.load(store, flow)
    assert cancelled(loaded) == {"a": "SUCCESS", "b": "REVERTED", "c": "REVERTED"}


def test_another_process_cancels_a_flow_within_a_renewal(connection: Connection) -> None:
    begun = threading.Event()
    calls: Calls = []

    def ask() -> None:
        connection.request(uuid, CANCEL, "somebody")
        keeper = loaded._keeper  # type: ignore[attr-defined]
        while keeper.request is None:
            begun.wait(0.01)

    flow = linear_flow.Flow("f").add(step("a", calls, ask), step("b", calls))
    loaded = api.load(connection, flow, lease_seconds=0.3)
    uuid = loaded.storage.flow_uuid
    assert cancelled(loaded) == {"a": "SUCCESS"}
    assert connection.get_flow_details(uuid).request_by == "somebody"


def test_a_flow_that_waits_for_its_retry_is_cancelled_within_a_renewal(connection: Connection) -> None:
    def fail() -> None:
        raise ValueError

    flow = linear_flow.Flow("f", retry=retry.Times(2, name="r", delay_seconds=10_000)).add(step("a", [], fail))
    loaded = api.load(connection, flow, lease_seconds=0.3)
    uuid, real = loaded.storage.flow_uuid, connection.release

    def release(held: Any) -> None:
        real(held)
        connection.release = real  # type: ignore[method-assign]
        connection.request(uuid, CANCEL_AND_REVERT, "somebody")

    connection.release = release  # type: ignore[method-assign]
    assert cancelled(loaded) == {"r": "REVERTED", "a": "REVERTED"}


def test_a_cancelled_flow_that_is_suspended_goes_on_being_reverted(store: Connection | None) -> None:
    calls: Calls = []
    undo = iter([lambda: loaded.suspend()])
    flow = linear_flow.Flow("f").add(
        step("a", calls),
        step("b", calls, None, lambda: next(undo, lambda: None)()),
        step("c", calls, lambda: loaded.cancel(revert=True)),
    )
    loaded = api.load(store, flow)
    loaded.run()
    assert (loaded.storage.get_flow_state(), calls) == (states.SUSPENDED, ["a", "b", "c", "-c", "-b"])
    cancelled(loaded)
    assert calls[5:] == ["-a"]


@pytest.mark.parametrize("kind", [CANCEL, CANCEL_AND_REVERT])
def test_a_request_to_suspend_that_comes_after_one_to_cancel_replaces_it(connection: Connection, kind: str) -> None:
    calls: Calls = []
    loaded = api.load(connection, linear_flow.Flow("f").add(step("a", calls)))
    connection.request(loaded.storage.flow_uuid, kind, "somebody")
    connection.request(loaded.storage.flow_uuid, SUSPEND, "somebody")
    loaded.run()
    assert loaded.storage.get_flow_state() == states.SUSPENDED


# -- processes that die -------------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies(tmp_path: Path, make: Callable[[], linear_flow.Flow], uuid: str) -> None:
    """Run a flow in a process that kills itself."""
    child = os.fork()
    if child == 0:
        own = api.connect(f"sqlite:///{tmp_path}/flows.db")
        api.load(own, make(), own.get_flow_details(uuid), lease_seconds=10_000).run()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_cancelled_flow_whose_process_dies_while_reverting_goes_on_reverting(
    connection: Connection, tmp_path: Path
) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f").add(*(step(name, calls) for name in "abcd"))
    uuid = api.create_flow_detail(flow, connection=connection).uuid

    def make() -> linear_flow.Flow:
        own = api.connect(f"sqlite:///{tmp_path}/flows.db")
        cancel = step("c", [], lambda: own.request(uuid, CANCEL_AND_REVERT, "somebody") and None)
        return linear_flow.Flow("f").add(step("a", []), step("b", [], None, die), cancel, step("d", [], die))

    dies(tmp_path, make, uuid)  # within the lease nobody has seen the request
    left = connection.get_flow_details(uuid)
    assert (left.state, states_of(left)["d"]) == (states.RUNNING, states.RUNNING)
    dies(tmp_path, make, uuid)
    left = connection.get_flow_details(uuid)
    assert (left.state, left.request_handled) == (states.REVERTING, 1)
    assert states_of(left) == {"a": "SUCCESS", "b": "REVERTING", "c": "REVERTED", "d": "REVERTED"}
    assert cancelled(api.load(connection, flow, left)) == dict.fromkeys("abcd", "REVERTED")
    assert calls == ["-b", "-a"]


def test_what_was_running_when_its_process_died_is_not_run_again_for_a_cancellation(
    connection: Connection, tmp_path: Path
) -> None:
    calls: Calls = []
    flow = linear_flow.Flow("f").add(step("a", calls), step("b", calls))
    uuid = api.create_flow_detail(flow, connection=connection).uuid
    dies(tmp_path, lambda: linear_flow.Flow("f").add(step("a", []), step("b", [], die)), uuid)
    connection.request(uuid, CANCEL, "somebody")
    loaded = api.load(connection, flow, connection.get_flow_details(uuid))
    assert cancelled(loaded) == {"a": "SUCCESS", "b": "FAILURE"}
    assert calls == []
    assert "atom 'b' was cancelled: somebody asked for it" in str(loaded.storage.get_execute_failure("b"))


def test_the_reason_of_a_cancellation_survives_what_the_embedder_keeps_of_the_flow() -> None:
    connection = MemoryConnection()
    flow = linear_flow.Flow("f").add(step("a", [], lambda: loaded.cancel(revert=True)))
    loaded = api.load(connection, flow)
    loaded.storage.update_flow_metadata({"mine": 1})
    cancelled(loaded)
    assert connection.get_flow_details(loaded.storage.flow_uuid).meta["mine"] == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("revert", [False, True])
def test_a_flow_that_is_being_cancelled_when_it_is_killed_at_any_commit_is_cancelled_by_the_next_run(
    tmp_path: Path, when: str, revert: bool
) -> None:
    number, killed = 0, True
    while killed:
        number += 1
        url, log = f"sqlite:///{tmp_path}/{number}.db", tmp_path / f"log{number}"
        connection = api.connect(url)
        uuid = api.create_flow_detail(linear_flow.Flow("f"), connection=connection).uuid
        child = os.fork()
        if child == 0:
            own = api.connect(url)
            _kill_at_commit(own, number, when)
            _run_to_cancellation(own, uuid, log, revert)
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        if killed:
            _run_to_cancellation(connection, uuid, log, revert)
        left = connection.get_flow_details(uuid)
        connection.close()
        assert (left.state, left.request_handled) == (states.CANCELLED, left.request_sequence)
        lines = log.read_text().split()
        assert "never" not in lines
        assert list(dict.fromkeys(lines)) == (["a", "b", "c", "-c", "-b", "-a"] if revert else ["a", "b", "c"])
        for name in "abc":
            done = next(atom.state for atom in left if atom.name == name)
            assert done == states.REVERTED if revert else done in (states.SUCCESS, states.FAILURE)
    assert number > (6 if revert else 3)


def _kill_at_commit(connection: Connection, number: int, when: str) -> None:
    commits, real = 0, connection.commit

    def commit(*args: Any) -> int:
        nonlocal commits
        commits += 1
        if commits == number and when == "before":
            die()
        revision = real(*args)
        if commits == number:
            die()
        return revision

    connection.commit = commit  # type: ignore[method-assign, assignment]


def _run_to_cancellation(connection: Connection, uuid: str, log: Path, revert: bool) -> None:
    """Run a flow whose task c has it cancelled, whatever that takes."""

    def note(text: str) -> Callable[[], None]:
        def function() -> None:
            with log.open("a") as file:
                file.write(f"{text}\n")
            if text == "c":
                loaded.cancel(revert)

        return function

    names = ("a", "b", "c", "never")
    flow = linear_flow.Flow("f").add(
        *(task.FunctorTask(note(name), name=name, revert=note(f"-{name}")) for name in names)
    )
    loaded = api.load(connection, flow, connection.get_flow_details(uuid))
    with pytest.raises(Cancelled):
        loaded.run()


# -- the machine alone --------------------------------------------------------------------------------------------


def started(machine: Machine, count: int) -> list[int]:
    """Let so many atoms start; returns their nodes."""
    found = [machine.next_start() for _number in range(count)]
    return [node for node in found if node is not None]


def test_what_is_withdrawn_while_everything_is_undone_holds_up_nothing() -> None:
    beside = unordered_flow.Flow("g").add(step("b", []), step("c", []))
    machine = Machine(compile(linear_flow.Flow("f").add(step("a", []), beside)))
    machine.begin()
    (a,) = started(machine, 1)
    machine.succeeded(a)
    b, c = started(machine, 2)
    machine.cancel()
    machine.withdrawn(c)
    assert started(machine, 1) == []
    machine.succeeded(b)
    assert started(machine, 2) == [b]
    machine.reverted(b)
    assert started(machine, 2) == [a]
    machine.reverted(a)
    assert machine.final_state == states.CANCELLED and not machine.has_work()


def test_what_fails_after_a_cancellation_is_reverted_also_if_failures_are_not_to_be_resolved() -> None:
    machine = Machine(compile(linear_flow.Flow("f").add(step("a", []))), never_resolve=True)
    machine.begin()
    (a,) = started(machine, 1)
    machine.cancel()
    machine.failed(a)
    assert started(machine, 1) == [a]
    machine.reverted(a)
    assert machine.final_state == states.CANCELLED
