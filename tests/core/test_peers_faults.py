# SPDX-License-Identifier: Apache-2.0
"""Faults that other workflow libraries have had, each of which must not come back here."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, owner, retry, states, task
from pluggableflow.connection import Connection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import EncodingError, FlowOwned, OptionError, WrappedFailure
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow

Log = list[str]


class Step(task.Task):
    """Notes its calls; what it returns or raises comes from ``act``."""

    def __init__(self, name: str, log: Log, act: Callable[..., Any] | None = None, revert: Any = None, **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.log, self.act, self.undo = log, act, revert

    def execute(self, **kwargs: Any) -> Any:
        self.log.append(self.name)
        return self.act(**kwargs) if self.act is not None else self.name

    def revert(self, **kwargs: Any) -> None:
        self.log.append(f"-{self.name}")
        if self.undo is not None:
            self.undo()


def fail(**kwargs: Any) -> None:
    raise ValueError("no")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flows.db"


@pytest.fixture
def connection(path: Path) -> Iterator[Connection]:
    made = api.connect(f"sqlite:///{path}")
    yield made
    made.close()


def line(*items: Any, **kwargs: Any) -> Flow:
    return linear_flow.Flow("f", **kwargs).add(*items)


def stored_states(connection: Connection, loaded: Engine) -> dict[str, str]:
    return {atom.name: atom.state for atom in connection.get_atoms_for_flow(loaded.storage.flow_uuid)}


# -- resuming -----------------------------------------------------------------------------------------------------


def test_a_resumed_for_each_does_not_repeat_a_value(connection: Connection) -> None:
    tried: list[str] = []
    stop: list[Callable[[], None]] = []

    def attempt(value: str) -> None:
        tried.append(value)
        if len(tried) == 2:
            stop[0]()
        if value != "c":
            raise ValueError(value)

    def flow() -> Flow:
        values = retry.ForEach(["a", "b", "c"], name="each", provides="value")
        return line(Step("try", [], attempt, requires=["value"]), retry=values)

    loaded = api.load(connection, flow())
    stop.append(loaded.suspend)
    loaded.run()
    assert loaded.storage.get_flow_state() == states.SUSPENDED
    again = api.load(connection, flow(), connection.get_flow_details(loaded.storage.flow_uuid))
    again.run()
    assert tried == ["a", "b", "c"]
    history = again.storage.get_retry_history("each")
    assert list(history.provided_iter()) == ["a", "b", "c"]
    assert [list(failures) for _value, failures in history] == [["try"], ["try"], []]


def test_the_second_of_two_engines_on_one_flow_detail_is_refused_and_runs_nothing(connection: Connection) -> None:
    entered, refused = threading.Event(), threading.Event()
    log: Log = []

    def wait() -> None:
        entered.set()
        assert refused.wait(60)

    flow = line(Step("a", log, wait))
    loaded = api.load(connection, flow)
    first = threading.Thread(target=loaded.run)
    first.start()
    try:
        assert entered.wait(60)
        with pytest.raises(FlowOwned) as raised:
            api.run(connection, flow, connection.get_flow_details(loaded.storage.flow_uuid))
    finally:
        refused.set()
        first.join()
    assert raised.value.owner == owner.identity()
    assert 0 < raised.value.seconds_left <= 30
    assert log == ["a"]
    assert stored_states(connection, loaded) == {"a": states.SUCCESS}


def test_a_flow_that_ended_as_failure_can_be_reset(connection: Connection) -> None:
    log: Log = []
    bad = Step("b", log, fail)
    loaded = api.load(connection, line(Step("a", log), bad), never_resolve=True)
    with pytest.raises(ValueError):
        loaded.run()
    assert loaded.storage.get_flow_state() == states.FAILURE
    loaded.reset()
    bad.act = None
    loaded.run()
    assert log == ["a", "b", "a", "b"]
    assert loaded.storage.get_flow_state() == states.SUCCESS


def test_a_run_after_a_failed_revert_says_failure_again(connection: Connection) -> None:
    log: Log = []
    flow = line(Step("a", log), Step("b", log, revert=fail), Step("c", log, fail))
    loaded = api.load(connection, flow)
    for again in range(3):
        del log[:]
        with pytest.raises(WrappedFailure) as raised:
            loaded.run()
        assert len(raised.value) == 2
        assert connection.get_flow_details(loaded.storage.flow_uuid).state == states.FAILURE
        assert stored_states(connection, loaded) == {
            "a": states.SUCCESS, "b": states.REVERT_FAILURE, "c": states.REVERTED,
        }  # fmt: skip
        assert log == ([] if again else ["a", "b", "c", "-c", "-b"])


# -- arguments and results ----------------------------------------------------------------------------------------


def test_an_optional_argument_whose_provider_is_out_of_reach_takes_its_default(connection: Connection) -> None:
    class Asks(task.Task):
        def execute(self, x: str = "default") -> str:
            return x

    flow = unordered_flow.Flow("f").add(Step("gives", [], provides="x"), Asks("asks", provides="y"))
    assert api.run(connection, flow)["y"] == "default"


def test_an_optional_argument_whose_provider_was_ignored_takes_its_default(connection: Connection) -> None:
    class Asks(task.Task):
        def execute(self, x: str = "default") -> str:
            return x

    flow = graph_flow.Flow("f")
    a, gives, asks = Step("a", []), Step("gives", [], provides="x"), Asks("asks", provides="y")
    flow.add(a, gives, asks).link(a, gives, decider=lambda history: False, decider_depth="ATOM")
    flow.link(gives, asks)
    assert api.run(connection, flow)["y"] == "default"


def test_a_hook_after_execute_that_raises_makes_the_flow_revert(connection: Connection) -> None:
    class Hooked(Step):
        def post_execute(self) -> None:
            raise ValueError("the hook")

    log: Log = []
    loaded = api.load(connection, line(Step("a", log), Hooked("b", log)))
    with pytest.raises(ValueError, match="the hook"):
        loaded.run()
    assert log == ["a", "b", "-b", "-a"]
    assert set(stored_states(connection, loaded).values()) == {states.REVERTED}


def test_a_hook_after_revert_that_raises_is_a_failed_revert(connection: Connection) -> None:
    class Hooked(Step):
        def post_revert(self) -> None:
            raise ValueError("the hook")

    loaded = api.load(connection, line(Hooked("a", []), Step("b", [], fail)))
    with pytest.raises(WrappedFailure):
        loaded.run()
    assert stored_states(connection, loaded)["a"] == states.REVERT_FAILURE
    assert loaded.storage.get_flow_state() == states.FAILURE


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_a_result_that_cannot_be_encoded_is_the_failure_of_its_task(connection: Connection, engine: str) -> None:
    log: Log = []
    flow = line(Step("a", log), Step("b", log, lambda: {"deep": [object()]}))
    loaded = api.load(connection, flow, engine=engine)
    with pytest.raises(EncodingError, match="deep"):
        loaded.run()
    assert log == ["a", "b", "-b", "-a"]
    assert set(stored_states(connection, loaded).values()) == {states.REVERTED}


def test_a_result_that_cannot_be_encoded_can_be_tried_again(connection: Connection) -> None:
    def number(number: int) -> Any:
        return object() if number == 1 else number

    flow = line(
        Step("a", [], number, requires=["number"], provides="x"), retry=retry.Times(2, name="r", provides="number")
    )
    assert api.run(connection, flow)["x"] == 2


def test_the_value_of_a_retry_that_cannot_be_encoded_reverts_its_flow(connection: Connection) -> None:
    log: Log = []
    inner = linear_flow.Flow("g", retry=retry.ForEach([object()], name="each")).add(Step("b", log))
    loaded = api.load(connection, linear_flow.Flow("f", retry=retry.AlwaysRevert(name="r")).add(Step("a", log), inner))
    with pytest.raises(EncodingError):
        loaded.run()
    assert log == ["a", "-a"]
    assert loaded.storage.get_flow_state() == states.REVERTED


def test_what_a_revert_returns_that_cannot_be_encoded_is_a_failed_revert(connection: Connection) -> None:
    class Odd(Step):
        def revert(self, **kwargs: Any) -> Any:
            return object()

    loaded = api.load(connection, line(Odd("a", []), Step("b", [], fail)))
    with pytest.raises(WrappedFailure):
        loaded.run()
    assert stored_states(connection, loaded)["a"] == states.REVERT_FAILURE


def test_exception_arguments_that_cannot_be_encoded_change_nothing_about_reverting(connection: Connection) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("not even this")

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("nor this")

    def raises() -> None:
        raise Unprintable(Odd(), threading.Lock(), "\ud800")

    log: Log = []
    loaded = api.load(connection, line(Step("a", log), Step("b", log, raises)))
    with pytest.raises(Unprintable):
        loaded.run()
    assert log == ["a", "b", "-b", "-a"]
    assert set(stored_states(connection, loaded).values()) == {states.REVERTED}
    failure = connection.get_atom_details(loaded.storage.get_atom_uuid("b")).failure
    assert failure is not None
    assert failure.check("Exception")


def test_a_decider_that_raises_makes_the_flow_revert(connection: Connection) -> None:
    def decider(history: Any) -> bool:
        raise LookupError("the decider")

    log: Log = []
    flow = graph_flow.Flow("f")
    a, b = Step("a", log), Step("b", log)
    flow.add(a, b).link(a, b, decider=decider)
    loaded = api.load(connection, flow)
    with pytest.raises(LookupError):
        loaded.run()
    assert log == ["a", "-a"]
    assert loaded.storage.get_flow_state() == states.REVERTED


def test_tuples_and_their_like_come_back_as_they_were(connection: Connection) -> None:
    value = {"pair": (1, (2, 3)), 4: {5, 6}, "bytes": b"\x00"}
    loaded = api.load(connection, line(Step("a", [], lambda: value, provides="x")), store={"given": (1, 2)})
    loaded.run()
    again = api.load(connection, loaded.flow, connection.get_flow_details(loaded.storage.flow_uuid))
    again.prepare()
    again.close()
    assert again.storage.fetch_all() == {"x": value, "given": (1, 2)}
    assert type(again.storage.fetch("x")["pair"][1]) is tuple


def test_an_option_that_does_not_exist_is_not_swallowed() -> None:
    with pytest.raises(OptionError, match="timeout"):
        api.load(None, line(), timeout=3)


# -- listeners ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_a_listener_may_read_the_store_from_another_thread(connection: Connection, engine: str) -> None:
    loaded = api.load(connection, line(Step("a", []), Step("b", [])), engine=engine)
    seen: list[str] = []

    def read(details: Any) -> None:
        seen.append(connection.get_flow_details(details["flow_uuid"]).state)
        loaded.storage.fetch_all()
        loaded.storage.get_flow_state()

    def ask_elsewhere(_state: str, details: Any) -> None:
        reader = threading.Thread(target=read, args=(details,))
        reader.start()
        reader.join(60)
        assert not reader.is_alive()

    loaded.atom_notifier.register("*", ask_elsewhere)
    loaded.notifier.register("*", ask_elsewhere)
    loaded.run()
    assert len(seen) == 6
    assert seen[-1] == states.SUCCESS


def test_a_listener_may_write_another_flow_into_the_same_store(connection: Connection) -> None:
    loaded = api.load(connection, line(Step("a", [])))
    loaded.atom_notifier.register(
        states.SUCCESS, lambda _state, _details: api.run(connection, linear_flow.Flow("other").add(Step("x", [])))
    )
    loaded.run()
    assert [flow.state for flow in connection.find_flows()] == [states.SUCCESS, states.SUCCESS]


def test_a_listener_that_raises_kills_nothing(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_state: str, _details: Any) -> None:
        raise RuntimeError("this listener is broken")

    log: Log = []
    loaded = api.load(connection, line(Step("a", log), Step("b", log)))
    loaded.atom_notifier.register("*", broken)
    loaded.notifier.register("*", broken)
    loaded.run()
    assert log == ["a", "b"]
    assert loaded.storage.get_flow_state() == states.SUCCESS
    assert "this listener is broken" in caplog.text


# -- the store ----------------------------------------------------------------------------------------------------


def test_deleting_a_logbook_leaves_no_rows_behind(connection: Connection, path: Path) -> None:
    def rows() -> dict[str, int]:
        with closing(sqlite3.connect(path)) as raw:
            tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            counts = {name: raw.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
        return {name: count for name, count in counts.items() if "version" not in name and "sqlite" not in name}

    loaded = api.load(connection, line(Step("a", []), retry=retry.Times(1, name="r")), store={"x": 1})
    loaded.run()
    assert sorted(rows().values()) == [1, 1, 3]
    (book,) = connection.get_logbooks(lazy=True)
    connection.destroy_logbook(book.uuid)
    assert set(rows().values()) == {0}


def test_connecting_again_builds_no_table_anew(connection: Connection, path: Path) -> None:
    def schema() -> tuple[int, list[Any]]:
        with closing(sqlite3.connect(path)) as raw:
            (version,) = raw.execute("PRAGMA schema_version").fetchone()
            return version, raw.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()

    before = schema()
    for _ in range(3):
        again = api.connect(f"sqlite:///{path}")
        api.run(again, line(Step("a", [])))
        again.close()
    assert schema() == before


def test_a_claim_is_renewed_as_long_as_the_flow_runs(connection: Connection) -> None:
    expiries: list[int] = []

    def outlive_the_lease() -> None:
        while len(expiries) < 4:
            expires_at = connection.get_flow_details(loaded.storage.flow_uuid, lazy=True).lease_expires_at
            assert expires_at is not None
            if not expiries or expires_at > expiries[-1]:
                expiries.append(expires_at)

    loaded = api.load(connection, line(Step("a", [], outlive_the_lease)), lease_seconds=0.4)
    loaded.run()
    assert expiries == sorted(set(expiries))
    assert connection.get_flow_details(loaded.storage.flow_uuid, lazy=True).lease_expires_at is None


# -- growth -------------------------------------------------------------------------------------------------------


def operations(act: Callable[[], Any]) -> int:
    """How many functions are called, of Python and of C."""
    counted = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(before)
    return counted


def _long(count: int) -> Flow:
    return line(*(Step(f"t{number}", []) for number in range(count)))


def _wide(count: int) -> Flow:
    return unordered_flow.Flow("f").add(*(Step(f"t{number}", []) for number in range(count)))


def _deep(count: int) -> Flow:
    flow = line(Step("t", []))
    for number in range(count):
        flow = linear_flow.Flow(f"f{number}").add(flow)
    return flow


def _chained(count: int) -> Flow:
    flow = graph_flow.Flow("f")
    for number in range(count):
        flow.add(Step(f"t{number}", [], provides=f"x{number}", requires=[f"x{number - 1}"] if number else []))
    return flow


def _fails_last(count: int) -> Flow:
    return line(*(Step(f"t{number}", []) for number in range(count - 1)), Step("last", [], fail))


def _retried(count: int) -> Flow:
    def once(number: int) -> None:
        if number == 1:
            raise ValueError

    return line(
        *(Step(f"t{number}", []) for number in range(count)),
        Step("last", [], once, requires=["number"]),
        retry=retry.Times(2, name="r", provides="number"),
    )


@pytest.mark.parametrize("make", [_long, _wide, _deep, _chained, _fails_last, _retried])
def test_the_work_of_a_run_grows_with_the_number_of_atoms_and_no_faster(make: Callable[[int], Flow]) -> None:
    def whole(count: int) -> None:
        loaded = api.load(None, make(count))
        if make is _fails_last:
            with pytest.raises(ValueError):
                loaded.run()
        else:
            loaded.run()

    whole(10)  # what is made once per class
    small, large = (operations(lambda size=size: whole(size)) for size in (200, 800))  # type: ignore[misc]
    assert large < small * 4.4
