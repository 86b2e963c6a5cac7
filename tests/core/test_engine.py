# SPDX-License-Identifier: Apache-2.0
"""What an engine tells, returns, raises and leaves behind, in memory and on a store."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, retry, states, task
from pluggableflow.connection import Connection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import EncodingError, FlowOwned, WrappedFailure
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow


class Step(task.Task):
    """Notes its calls in a list that the test reads; fails if told to."""

    def __init__(
        self, name: str, log: list[str] | None = None, fails: Any = None, unrevertable: bool = False, **kw: Any
    ):
        super().__init__(name=name, **kw)
        self.log, self.fails, self.unrevertable = [] if log is None else log, fails, unrevertable

    def execute(self, **kwargs: Any) -> Any:
        self.log.append(self.name)
        if self.fails is not None:
            raise self.fails
        return f"{self.name}!"

    def revert(self, **kwargs: Any) -> None:
        self.log.append(f"-{self.name}")
        if self.unrevertable:
            raise RuntimeError(f"{self.name} stays")


@pytest.fixture(params=["memory", "sqlite"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    made = api.connect("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/flows.db")
    yield made
    made.close()


def listen(engine: Engine) -> list[str]:
    """Notes every event, as name and states; a flow's with a star."""
    events: list[str] = []
    engine.notifier.register("*", lambda state, details: events.append(f"* {details['old_state']}>{state}"))
    engine.atom_notifier.register(
        "*",
        lambda state, details: events.append(
            f"{details.get('task_name') or details.get('retry_name')} {details['old_state']}>{state}"
        ),
    )
    return events


# -- events and results -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_listeners_hear_every_transition_in_its_order(connection: Connection, engine: str) -> None:
    loaded = api.load(connection, linear_flow.Flow("f").add(Step("a"), Step("b")), engine=engine)
    events = listen(loaded)
    loaded.run()
    assert [each for each in events if each[0] == "*"] == ["* PENDING>RUNNING", "* RUNNING>SUCCESS"]
    assert [each for each in events if each[0] != "*"] == [
        "a PENDING>RUNNING", "a RUNNING>SUCCESS", "b PENDING>RUNNING", "b RUNNING>SUCCESS",
    ]  # fmt: skip
    assert events[-1] == "* RUNNING>SUCCESS"


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_listeners_hear_of_a_failure_and_of_everything_that_it_undoes(connection: Connection, engine: str) -> None:
    flow = linear_flow.Flow("f").add(Step("a"), Step("b", fails=KeyError("k")))
    loaded = api.load(connection, flow, engine=engine)
    events = listen(loaded)
    with pytest.raises(KeyError):
        loaded.run()
    assert [each for each in events if each[0] == "*"] == [
        "* PENDING>RUNNING", "* RUNNING>REVERTING", "* REVERTING>REVERTED",
    ]  # fmt: skip
    assert [each for each in events if each[0] != "*"] == [
        "a PENDING>RUNNING", "a RUNNING>SUCCESS", "b PENDING>RUNNING", "b RUNNING>FAILURE",
        "b FAILURE>REVERTING", "b REVERTING>REVERTED", "a SUCCESS>REVERTING", "a REVERTING>REVERTED",
    ]  # fmt: skip


def test_listeners_hear_of_each_attempt_of_a_retry() -> None:
    class Second(task.Task):
        def execute(self, number: int) -> int:
            if number < 2:
                raise ValueError(number)
            return number

    flow = linear_flow.Flow("f", retry=retry.Times(2, name="r", provides="number")).add(Second("a"))
    loaded = api.load(None, flow)
    events = listen(loaded)
    loaded.run()
    assert [each for each in events if each[0] == "r"] == [
        "r PENDING>RUNNING", "r RUNNING>SUCCESS", "r SUCCESS>RETRYING", "r RETRYING>RUNNING", "r RUNNING>SUCCESS",
    ]  # fmt: skip
    assert [each for each in events if each[0] == "a"] == [
        "a PENDING>RUNNING", "a RUNNING>FAILURE", "a FAILURE>REVERTING", "a REVERTING>REVERTED",
        "a REVERTED>PENDING", "a PENDING>RUNNING", "a RUNNING>SUCCESS",
    ]  # fmt: skip


def test_an_event_of_an_atom_carries_names_ids_and_the_result(connection: Connection) -> None:
    error = ValueError("no")
    loaded = api.load(connection, linear_flow.Flow("f").add(Step("a"), Step("b", fails=error)))
    told: dict[str, Any] = {}
    loaded.atom_notifier.register(
        "*", lambda state, details: told.setdefault(f"{details['task_name']} {state}", details)
    )
    with pytest.raises(ValueError):
        loaded.run()
    assert told["a SUCCESS"] == {
        "task_name": "a",
        "task_uuid": loaded.storage.get_atom_uuid("a"),
        "flow_name": "f",
        "flow_uuid": loaded.storage.flow_uuid,
        "old_state": "RUNNING",
        "result": "a!",
    }
    assert told["b FAILURE"]["result"].exception is error
    assert "result" not in told["a RUNNING"]


def test_what_a_listener_hears_is_in_the_store_already(connection: Connection) -> None:
    loaded = api.load(connection, linear_flow.Flow("f").add(Step("a"), Step("b")))
    heard, stored = [], []

    def look(state: str, details: Any) -> None:
        heard.append(state)
        stored.append(connection.get_atom_details(details["task_uuid"]).state)

    loaded.atom_notifier.register("*", look)
    loaded.run()
    assert stored == heard


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_run_returns_everything_that_the_flow_provides(connection: Connection, engine: str) -> None:
    class Pair(task.Task):
        def execute(self, base: int) -> tuple[int, int]:
            return base + 1, base + 2

    class Sum(task.Task):
        def execute(self, x: int, y: int) -> int:
            return x + y

    flow = graph_flow.Flow("f").add(Pair(provides=("x", "y")), Sum(provides="z"), Step("silent"))
    assert api.run(connection, flow, store={"base": 1}, engine=engine) == {"base": 1, "x": 2, "y": 3, "z": 5}


def test_an_empty_flow_succeeds_at_any_depth(connection: Connection) -> None:
    flow = linear_flow.Flow("f").add(unordered_flow.Flow("g").add(graph_flow.Flow("h")))
    loaded = api.load(connection, flow)
    loaded.run()
    assert loaded.storage.get_flow_state() == states.SUCCESS


def test_a_flow_that_has_succeeded_is_not_run_again(connection: Connection) -> None:
    log: list[str] = []
    flow = linear_flow.Flow("f").add(Step("a", log))
    loaded = api.load(connection, flow)
    loaded.run()
    loaded.run()
    api.load(connection, flow, connection.get_flow_details(loaded.storage.flow_uuid)).run()
    assert log == ["a"]


# -- suspension ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_a_listener_can_suspend_the_flow_and_the_next_run_goes_on(connection: Connection, engine: str) -> None:
    log: list[str] = []
    loaded = api.load(connection, linear_flow.Flow("f").add(Step("a", log), Step("b", log)), engine=engine)

    def stop(_state: str, details: Any) -> None:
        if details["task_name"] == "a":
            loaded.suspend()

    loaded.atom_notifier.register(states.SUCCESS, stop)
    events = listen(loaded)
    loaded.run()
    assert loaded.storage.get_flow_state() == states.SUSPENDED
    assert log == ["a"]
    assert loaded.storage.get_atom_state("b") == states.PENDING
    loaded.run()
    assert log == ["a", "b"]
    assert [each for each in events if each[0] == "*"] == [
        "* PENDING>RUNNING", "* RUNNING>SUSPENDED", "* SUSPENDED>RESUMING", "* RESUMING>RUNNING", "* RUNNING>SUCCESS",
    ]  # fmt: skip


def test_another_thread_can_suspend_the_flow_while_a_task_runs(connection: Connection) -> None:
    entered, suspended = threading.Event(), threading.Event()
    log: list[str] = []

    class Waits(task.Task):
        def execute(self) -> str:
            entered.set()
            assert suspended.wait(60)
            return "done"

    loaded = api.load(connection, linear_flow.Flow("f").add(Waits("a"), Step("b", log)), engine="parallel")

    def suspend() -> None:
        assert entered.wait(60)
        loaded.suspend()
        suspended.set()

    other = threading.Thread(target=suspend)
    other.start()
    loaded.run()
    other.join()
    assert loaded.storage.get_flow_state() == states.SUSPENDED
    assert loaded.storage.get_atom_state("a") == states.SUCCESS
    assert log == []


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_a_signal_handler_can_suspend_the_flow(connection: Connection, engine: str) -> None:
    log: list[str] = []

    class Signals(task.Task):
        def execute(self) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

    loaded = api.load(connection, linear_flow.Flow("f").add(Signals("a"), Step("b", log)), engine=engine)
    before = signal.signal(signal.SIGUSR1, lambda *_: loaded.suspend())
    try:
        loaded.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert loaded.storage.get_flow_state() == states.SUSPENDED
    assert log == []


def test_suspending_in_the_middle_of_reverting_goes_on_reverting_at_the_next_run(connection: Connection) -> None:
    log: list[str] = []
    flow = linear_flow.Flow("f").add(Step("a", log), Step("b", log), Step("c", log, fails=ValueError("no")))
    loaded = api.load(connection, flow)

    def stop(_state: str, details: Any) -> None:
        if details["task_name"] == "b":
            loaded.suspend()

    loaded.atom_notifier.register(states.REVERTED, stop)
    loaded.run()
    assert loaded.storage.get_flow_state() == states.SUSPENDED
    assert log == ["a", "b", "c", "-c", "-b"]
    with pytest.raises(ValueError, match="no"):  # it was captured in this process, so it is raised as it was
        loaded.run()
    assert log == ["a", "b", "c", "-c", "-b", "-a"]
    assert loaded.storage.get_flow_state() == states.REVERTED


# -- run_iter -----------------------------------------------------------------------------------------------------


def test_run_iter_yields_only_after_a_commit(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    commits, real = [0], connection.commit

    def commit(*args: Any) -> int:
        commits[0] += 1
        return real(*args)

    monkeypatch.setattr(connection, "commit", commit)
    loaded = api.load(connection, linear_flow.Flow("f").add(Step("a"), Step("b")))
    seen = []
    for state in loaded.run_iter():
        stored = connection.get_flow_details(loaded.storage.flow_uuid, lazy=True)
        seen.append((commits[0], state, stored.state))
    assert [commit for commit, _state, _stored in seen] == list(range(1, commits[0] + 1))
    assert all(state == stored for _commit, state, stored in seen)
    assert seen[-1][1] == states.SUCCESS


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_closing_run_iter_suspends_the_flow_and_gives_its_lease_up(connection: Connection, engine: str) -> None:
    log: list[str] = []
    flow = linear_flow.Flow("f").add(Step("a", log), Step("b", log), Step("c", log))
    loaded = api.load(connection, flow, engine=engine)
    running = loaded.run_iter()
    next(running)
    uuid = loaded.storage.flow_uuid
    with pytest.raises(FlowOwned):
        api.load(connection, flow, connection.get_flow_details(uuid)).prepare()
    running.close()
    assert connection.get_flow_details(uuid).state == states.SUSPENDED
    api.load(connection, flow, connection.get_flow_details(uuid), engine=engine).run()
    assert log == ["a", "b", "c"]
    assert connection.get_flow_details(uuid).state == states.SUCCESS


# -- starting over ------------------------------------------------------------------------------------------------


def _suspended(loaded: Engine) -> None:
    loaded.atom_notifier.register(states.SUCCESS, lambda _state, _details: loaded.suspend())
    loaded.run()
    loaded.atom_notifier.reset()


def _ends(loaded: Engine) -> None:
    with pytest.raises((ValueError, WrappedFailure)):
        loaded.run()


@pytest.mark.parametrize(
    ("state", "fails", "unrevertable", "reach"),
    [
        pytest.param(states.PENDING, None, False, lambda loaded: None, id="PENDING"),
        pytest.param(states.SUCCESS, None, False, lambda loaded: loaded.run(), id="SUCCESS"),
        pytest.param(states.SUSPENDED, None, False, _suspended, id="SUSPENDED"),
        pytest.param(states.REVERTED, ValueError("no"), False, _ends, id="REVERTED"),
        pytest.param(states.FAILURE, ValueError("no"), True, _ends, id="FAILURE"),
        pytest.param(
            states.RUNNING, None, False, lambda loaded: loaded.storage.set_flow_state("RUNNING"), id="RUNNING"
        ),
    ],
)
def test_reset_begins_anew_from_every_state(
    connection: Connection, state: str, fails: Any, unrevertable: bool, reach: Any
) -> None:
    log: list[str] = []
    first, second = Step("a", log, unrevertable=unrevertable), Step("b", log, fails=fails)
    loaded = api.load(connection, linear_flow.Flow("f", retry=retry.AlwaysRevert(name="r")).add(first, second))
    reach(loaded)
    assert loaded.storage.get_flow_state() == state
    loaded.reset()
    stored = connection.get_flow_details(loaded.storage.flow_uuid)
    assert stored.state == states.PENDING
    assert all(atom.state == states.PENDING and not atom.results and atom.failure is None for atom in stored)
    second.fails, first.unrevertable = None, False
    del log[:]
    loaded.run()
    assert log == ["a", "b"]
    assert connection.get_flow_details(loaded.storage.flow_uuid).state == states.SUCCESS


def test_a_flow_that_was_reverted_begins_anew_at_the_next_run(connection: Connection) -> None:
    log: list[str] = []
    last = Step("b", log, fails=ValueError("no"))
    loaded = api.load(connection, linear_flow.Flow("f").add(Step("a", log), last))
    _ends(loaded)
    last.fails = None
    loaded.run()
    assert log == ["a", "b", "-b", "-a", "a", "b"]
    assert loaded.storage.get_flow_state() == states.SUCCESS


# -- between the calls --------------------------------------------------------------------------------------------


def test_what_a_suspension_keeps_from_starting_is_pending_and_nobody_hears_of_it(connection: Connection) -> None:
    log: list[str] = []
    flow = unordered_flow.Flow("f").add(*(Step(name, log) for name in "abc"))
    loaded = api.load(connection, flow, engine="parallel", max_workers=3)
    events = listen(loaded)
    loaded.atom_notifier.register(states.RUNNING, lambda _state, _details: loaded.suspend())
    loaded.run()
    assert len(log) == 1
    assert {each[0] for each in events} == {"*", log[0]}
    stored = {atom.name: (atom.state, atom.attempt) for atom in connection.get_atoms_for_flow(loaded.storage.flow_uuid)}
    assert stored.pop(log[0]) == (states.SUCCESS, 1)
    assert set(stored.values()) == {(states.PENDING, 0)}
    loaded.atom_notifier.reset()
    loaded.run()
    assert sorted(log) == ["a", "b", "c"]


def test_a_failure_that_was_not_resolved_is_resolved_by_a_later_run(connection: Connection) -> None:
    class Second(task.Task):
        def execute(self, number: int) -> int:
            if number == 1:
                raise ValueError(number)
            return number

    flow = linear_flow.Flow("f", retry=retry.Times(2, name="r", provides="number")).add(Second("a", provides="x"))
    loaded = api.load(connection, flow, never_resolve=True)
    _ends(loaded)
    again = api.load(connection, flow, connection.get_flow_details(loaded.storage.flow_uuid))
    again.run()
    assert again.storage.fetch("x") == 2
    assert again.storage.get_flow_state() == states.SUCCESS


def test_validate_knows_the_initial_arguments_before_prepare_has_stored_them(connection: Connection) -> None:
    flow = linear_flow.Flow("f").add(Step("a", requires=["x"]))
    loaded = api.load(connection, flow, api.create_flow_detail(flow, connection=connection), store={"x": 1})
    loaded.validate()
    loaded.run()


@pytest.mark.parametrize("detail", [False, True])
def test_an_initial_argument_that_cannot_be_stored_is_refused_before_anything_runs(
    connection: Connection, detail: bool
) -> None:
    log: list[str] = []
    flow = linear_flow.Flow("f").add(Step("a", log, requires=["x"]))
    stored = api.create_flow_detail(flow, connection=connection) if detail else None
    with pytest.raises(EncodingError):
        api.run(connection, flow, stored, store={"x": object()})
    assert log == []
    assert [flow.token for flow in connection.find_flows()] == ([None] if detail else [])


def test_listeners_hear_that_atoms_and_flow_begin_anew(connection: Connection) -> None:
    flow = linear_flow.Flow("f").add(Step("a"), Step("b", fails=ValueError("no")))
    loaded = api.load(connection, flow)
    with pytest.raises(ValueError, match="no"):
        loaded.run()
    heard: list[str] = []
    loaded.notifier.register("*", lambda state, details: heard.append(f"f {details['old_state']}>{state}"))
    loaded.atom_notifier.register(
        "*", lambda state, details: heard.append(f"{details['task_name']} {details['old_state']}>{state}")
    )
    with pytest.raises(ValueError, match="no"):
        loaded.run()
    assert heard[:5] == [
        "a REVERTED>PENDING", "b REVERTED>PENDING", "f REVERTED>PENDING", "f PENDING>RUNNING", "a PENDING>RUNNING",
    ]  # fmt: skip
    del heard[:]
    loaded.reset()
    assert heard == ["a REVERTED>PENDING", "b REVERTED>PENDING", "f REVERTED>PENDING"]


def test_a_flow_that_another_engine_holds_cannot_be_reset(connection: Connection) -> None:
    flow = linear_flow.Flow("f").add(Step("a"))
    holder = api.load(connection, flow)
    holder.prepare()
    with pytest.raises(FlowOwned):
        api.load(connection, flow, connection.get_flow_details(holder.storage.flow_uuid)).reset()
    holder.run()
    assert holder.storage.get_flow_state() == states.SUCCESS


def test_a_flow_without_a_store_can_be_resumed_from_its_detail() -> None:
    log: list[str] = []
    flow = linear_flow.Flow("f").add(Step("a", log), Step("b", log))
    loaded = api.load(None, flow)
    _suspended(loaded)
    assert log == ["a"]
    api.load(None, flow, loaded.storage.flow_detail, engine="parallel").run()
    assert log == ["a", "b"]


def test_closing_run_iter_waits_for_running_tasks_and_keeps_their_results(connection: Connection) -> None:
    class Waits(task.Task):
        def execute(self) -> str:
            assert closing.wait(60)
            return self.name

    closing = threading.Event()
    flow = unordered_flow.Flow("f").add(Waits("slow", provides="x"), Step("quick"))
    flow = linear_flow.Flow("both").add(flow, Step("last"))
    loaded = api.load(connection, flow, engine="parallel", max_workers=2)
    running = loaded.run_iter()
    for _state in running:
        if connection.get_flow_details(loaded.storage.flow_uuid).state == states.RUNNING and any(
            atom.state == states.SUCCESS for atom in connection.get_atoms_for_flow(loaded.storage.flow_uuid)
        ):
            break
    closing.set()
    running.close()
    stored = connection.get_flow_details(loaded.storage.flow_uuid)
    assert {atom.name: atom.state for atom in stored} == {"slow": states.SUCCESS, "quick": states.SUCCESS}
    assert stored.state == states.SUSPENDED
