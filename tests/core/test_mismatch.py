# SPDX-License-Identifier: Apache-2.0
"""Flows that are resumed with another definition than they began with: what has begun may not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, retry, states, task
from pluggableflow.connection import Connection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import FlowMismatch, WrappedFailure
from pluggableflow.flow import Flow
from pluggableflow.middleware import TaskDetail
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow


class Step(task.Task):
    """Notes its calls; suspends its engine or fails if told to."""

    log: list[str] = []

    def __init__(self, name: str, act: Callable[[], Any] | None = None, version: Any = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.act = act
        if version is not None:
            self.version = version

    def execute(self, **kwargs: Any) -> str:
        self.log.append(self.name)
        if self.act is not None:
            self.act()
        return self.name

    def revert(self, **kwargs: Any) -> None:
        self.log.append(f"-{self.name}")


@pytest.fixture(autouse=True)
def log() -> list[str]:
    del Step.log[:]
    return Step.log


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    made = api.connect(f"sqlite:///{tmp_path}/flows.db")
    yield made
    made.close()


def line(*steps: Any, **kwargs: Any) -> Flow:
    return linear_flow.Flow("f", **kwargs).add(*steps)


def begin(connection: Connection, flow: Flow, until: str = "b", store: Any = None) -> str:
    """Run a flow until an atom has succeeded, and suspend it; returns its uuid."""
    loaded = api.load(connection, flow, store=store)

    def stop(_state: str, details: Any) -> None:
        if details.get("task_name") == until:
            loaded.suspend()

    loaded.atom_notifier.register(states.SUCCESS, stop)
    loaded.run()
    assert loaded.storage.get_flow_state() == states.SUSPENDED
    del Step.log[:]
    return loaded.storage.flow_uuid


def resume(connection: Connection, flow: Flow, uuid: str, **kwargs: Any) -> Engine:
    loaded = api.load(connection, flow, connection.get_flow_details(uuid), **kwargs)
    loaded.run()
    assert connection.get_flow_details(uuid).state == states.SUCCESS
    return loaded


def refused(connection: Connection, flow: Flow, uuid: str, **kwargs: Any) -> FlowMismatch:
    """The mismatch that resuming raises, which runs nothing, changes nothing and gives the lease up."""
    before = connection.get_flow_details(uuid)
    with pytest.raises(FlowMismatch) as raised:
        api.load(connection, flow, before.copy(), **kwargs).run()
    assert Step.log == []
    after = connection.get_flow_details(uuid)
    assert list(after) == list(before)
    assert (after.state, after.revision, after.token) == (before.state, before.revision, None)
    return raised.value


def first() -> Flow:
    return line(Step("a", provides="x"), Step("b", requires=["x"], provides="y"), Step("c", requires=["y"]))


# -- what is refused ----------------------------------------------------------------------------------------------


def test_an_atom_added_before_one_that_has_begun_is_refused(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")))
    mismatch = refused(connection, line(Step("a"), Step("new"), Step("b"), Step("c")), uuid)
    assert mismatch.added == ("new",)
    assert mismatch.removed == ()
    assert mismatch.changed == {"b": ("what comes before it",)}
    assert mismatch.flow_uuid == uuid


def test_an_atom_that_has_begun_may_not_be_removed(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")))
    mismatch = refused(connection, line(Step("a"), Step("c")), uuid)
    assert (mismatch.added, mismatch.removed, mismatch.changed) == ((), ("b",), {})


def test_an_atom_that_has_begun_may_not_be_renamed(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")), until="a")
    mismatch = refused(connection, line(Step("other"), Step("b"), Step("c")), uuid)
    assert mismatch.removed == ("a",)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda: Step("b", requires=["x", "z"], provides="y"), id="another input"),
        pytest.param(lambda: Step("b", provides="y"), id="an input less"),
        pytest.param(lambda: Step("b", rebind={"x": "z"}, provides="y"), id="another name for an input"),
    ],
)
def test_the_inputs_of_what_has_begun_may_not_change(connection: Connection, changed: Callable[[], Step]) -> None:
    uuid = begin(connection, first(), store={"z": 1})
    mismatch = refused(connection, line(Step("a", provides="x"), changed(), Step("c", requires=["y"])), uuid)
    assert mismatch.changed == {"b": ("its inputs",)}


def test_the_provider_of_an_input_of_what_has_begun_may_not_change(connection: Connection) -> None:
    def flow(*provides: str | None) -> Flow:
        steps = [Step(name, provides=each) for name, each in zip("ab", provides, strict=True)]
        return line(*steps, Step("c", requires=["x"]), Step("d"))

    uuid = begin(connection, flow("x", None), until="c")
    assert refused(connection, flow(None, "x"), uuid).changed == {"c": ("its inputs",)}


def test_the_retry_of_what_has_begun_may_not_change(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c"), retry=retry.Times(2, name="r")))
    mismatch = refused(connection, line(Step("a"), Step("b"), Step("c"), retry=retry.Times(2, name="other")), uuid)
    assert mismatch.removed == ("r",)
    assert "its retry" in mismatch.changed["a"]
    assert "its retry" in mismatch.changed["b"]
    assert "c" not in mismatch.changed


def test_a_retry_put_around_what_has_begun_is_refused(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")))
    mismatch = refused(connection, line(Step("a"), Step("b"), Step("c"), retry=retry.Times(2, name="r")), uuid)
    assert mismatch.added == ("r",)
    assert set(mismatch.changed) == {"a", "b"}


def test_the_order_of_what_has_begun_may_not_change(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")))
    mismatch = refused(connection, line(Step("b"), Step("a"), Step("c")), uuid)
    assert mismatch.changed == {"a": ("what comes before it",), "b": ("what comes before it",)}


def _decided(decider: Any = None, depth: Any = None) -> Flow:
    flow = graph_flow.Flow("f")
    a, b, c = Step("a"), Step("b"), Step("c")
    flow.add(a, b, c)
    flow.link(a, b, decider=decider, decider_depth=depth)
    flow.link(b, c)
    return flow


@pytest.mark.parametrize("depth", ["ATOM", None])
def test_the_decider_in_front_of_what_has_begun_may_not_change_its_depth_or_go(
    connection: Connection, depth: str | None
) -> None:
    uuid = begin(connection, _decided(lambda history: True, "ALL"))
    changed = _decided(lambda history: True, depth) if depth else _decided()
    assert refused(connection, changed, uuid).changed == {"b": ("its deciders",)}


def test_the_kind_of_what_has_begun_may_not_change(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")), until="a")
    inner = linear_flow.Flow("inner", retry=retry.Times(1, name="a")).add(Step("b"), Step("c"))
    assert "its kind" in refused(connection, line(inner), uuid).changed["a"]


def test_the_major_version_of_what_has_begun_may_not_change(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b", version=(1, 3)), Step("c")))
    mismatch = refused(connection, line(Step("a"), Step("b", version=(2, 0)), Step("c")), uuid)
    assert mismatch.changed == {"b": ("its major version, 1 then and 2 now",)}


def test_everything_that_differs_is_listed_together(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c"), Step("d")), until="c")
    mismatch = refused(connection, line(Step("new"), Step("b"), Step("c", version=(2, 0)), Step("d")), uuid)
    assert (mismatch.added, mismatch.removed) == (("new",), ("a",))
    assert set(mismatch.changed) == {"b", "c"}
    for name in ("new", "a", "b", "c"):
        assert repr(name) in str(mismatch)


def test_a_detail_made_for_one_flow_is_refused_with_another_that_has_begun_atoms_in_common(
    connection: Connection,
) -> None:
    detail = api.create_flow_detail(first(), connection=connection)
    loaded = api.load(connection, first(), detail)
    loaded.run()
    with pytest.raises(FlowMismatch):
        api.load(connection, line(Step("c"), Step("b"), Step("a")), detail).run()


# -- what is fine -------------------------------------------------------------------------------------------------


def test_a_flow_of_the_same_definition_goes_on_where_it_was(connection: Connection) -> None:
    resume(connection, first(), begin(connection, first()))
    assert Step.log == ["c"]


def test_the_minor_version_may_change(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b", version=(1, 3)), Step("c")))
    resume(connection, line(Step("a"), Step("b", version=(1, 9)), Step("c")), uuid)
    assert Step.log == ["c"]


@pytest.mark.parametrize(
    ("changed", "ran"),
    [
        pytest.param(lambda: line(Step("a"), Step("b"), Step("new"), Step("c")), ["new", "c"], id="added"),
        pytest.param(lambda: line(Step("a"), Step("b")), [], id="removed"),
        pytest.param(lambda: line(Step("a"), Step("b"), Step("c", version=(7, 0))), ["c"], id="version"),
        pytest.param(lambda: line(Step("a"), Step("b"), Step("c", rebind={"q": "z"})), ["c"], id="inputs"),
        pytest.param(
            lambda: line(Step("a"), Step("b"), linear_flow.Flow("g", retry=retry.Times(2, name="r")).add(Step("c"))),
            ["c"],
            id="retry",
        ),
    ],
)
def test_what_has_not_begun_may_change(connection: Connection, changed: Callable[[], Flow], ran: list[str]) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")), store={"z": 1})
    resume(connection, changed(), uuid)
    assert Step.log == ran


def test_an_order_that_means_nothing_may_change(connection: Connection) -> None:
    uuid = begin(connection, unordered_flow.Flow("f").add(Step("a"), Step("b"), Step("c")), until="a")
    resume(connection, unordered_flow.Flow("f").add(Step("c"), Step("b"), Step("a")), uuid)
    assert sorted(Step.log) == ["b", "c"]


def test_a_flow_may_be_wrapped_into_another(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")))
    resume(connection, linear_flow.Flow("around").add(line(Step("a"), Step("b")), line(Step("c"))), uuid)
    assert Step.log == ["c"]


def test_an_atom_that_was_reverted_already_may_be_removed(connection: Connection) -> None:
    def fail() -> None:
        raise ValueError("no")

    flow = line(
        Step("a"), linear_flow.Flow("g", retry=retry.AlwaysRevert(name="r")).add(Step("k"), Step("b"), Step("c", fail))
    )
    beside = unordered_flow.Flow("both").add(flow, Step("x"))
    loaded = api.load(connection, beside)

    def stop(_state: str, details: Any) -> None:
        if details.get("task_name") == "b":
            loaded.suspend()

    loaded.atom_notifier.register(states.REVERTED, stop)
    loaded.run()
    uuid = loaded.storage.flow_uuid
    states_then = {atom.name: atom.state for atom in connection.get_atoms_for_flow(uuid)}
    assert (states_then["b"], states_then["c"]) == (states.REVERTED, states.REVERTED)
    del Step.log[:]
    changed = line(Step("a"), linear_flow.Flow("g", retry=retry.AlwaysRevert(name="r")).add(Step("k")))
    again = api.load(connection, unordered_flow.Flow("both").add(changed, Step("x")), connection.get_flow_details(uuid))
    with pytest.raises(WrappedFailure, match="no"):
        again.run()
    assert Step.log == ["-k"]


def test_the_version_with_which_an_atom_begins_anew_counts(connection: Connection) -> None:
    def fail() -> None:
        raise ValueError("no")

    def flow(version: Any, act: Any) -> Flow:
        inner = linear_flow.Flow("g", retry=retry.AlwaysRevert(name="r")).add(
            Step("b", version=version), Step("c", act)
        )
        return line(Step("a"), inner)

    loaded = api.load(connection, flow((1, 0), fail))
    with pytest.raises(ValueError):
        loaded.run()
    uuid = loaded.storage.flow_uuid
    loaded.reset()
    resume(connection, flow((2, 0), None), uuid)
    resume(connection, flow((2, 1), None), uuid)
    with pytest.raises(FlowMismatch, match="major version"):
        api.load(connection, flow((1, 0), None), connection.get_flow_details(uuid)).run()


def test_a_detail_made_by_hand_is_matched_by_name_and_adopts_the_signatures(connection: Connection) -> None:
    book, detail = api.temporary_flow_detail()
    by_hand = TaskDetail("a")
    by_hand.state, by_hand.results = states.SUCCESS, "made by hand"
    detail.add(by_hand)
    detail.state = states.SUSPENDED
    connection.save_logbook(book)
    uuid = detail.uuid
    loaded = resume(connection, line(Step("a", provides="x"), Step("b", requires=["x"])), uuid)
    assert Step.log == ["b"]
    assert loaded.storage.fetch("x") == "made by hand"
    assert all(atom.signature for atom in connection.get_atoms_for_flow(uuid))
    changed = api.load(connection, line(Step("b"), Step("a")), connection.get_flow_details(uuid))
    with pytest.raises(FlowMismatch):
        changed.run()


def test_a_detail_that_has_not_begun_takes_any_flow(connection: Connection) -> None:
    detail = api.create_flow_detail(first(), connection=connection)
    resume(connection, line(Step("p"), Step("q")), detail.uuid)
    assert Step.log == ["p", "q"]


# -- the store of initial arguments -------------------------------------------------------------------------------


def test_another_value_for_a_stored_name_is_refused(connection: Connection) -> None:
    flow = line(Step("a", requires=["z"]), Step("b"), Step("c"))
    uuid = begin(connection, flow, store={"z": 1})
    mismatch = refused(connection, flow, uuid, store={"z": 2})
    assert "'z'" in str(mismatch)


def test_the_same_value_for_a_stored_name_is_fine(connection: Connection) -> None:
    flow = line(Step("a", requires=["z"]), Step("b"), Step("c"))
    uuid = begin(connection, flow, store={"z": (1, 2)})
    loaded = resume(connection, flow, uuid, store={"z": (1, 2)})
    assert loaded.storage.fetch("z") == (1, 2)


def test_new_names_are_added_to_the_store(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")), store={"z": 1})
    changed = line(Step("a"), Step("b"), Step("c", requires=["w", "z"]))
    resume(connection, changed, uuid, store={"w": 2})
    fresh = api.load(connection, changed, connection.get_flow_details(uuid))
    assert (fresh.storage.fetch("z"), fresh.storage.fetch("w")) == (1, 2)


def test_another_value_can_be_accepted(connection: Connection) -> None:
    flow = line(Step("a"), Step("b"), Step("c", requires=["z"]))
    uuid = begin(connection, flow, store={"z": 1})
    loaded = resume(connection, flow, uuid, store={"z": 2}, on_mismatch="accept")
    assert loaded.storage.fetch("z") == 2


# -- accepting ----------------------------------------------------------------------------------------------------


def test_a_mismatch_can_be_accepted(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")))
    resume(connection, line(Step("a"), Step("new"), Step("b"), Step("c")), uuid, on_mismatch="accept")
    assert Step.log == ["new", "c"]
    fresh = line(Step("a"), Step("new"), Step("b"), Step("c"))
    resume(connection, fresh, uuid)  # accepted once, it is the definition from now on


def test_a_callable_gets_the_mismatch_and_decides(connection: Connection) -> None:
    uuid = begin(connection, line(Step("a"), Step("b"), Step("c")))
    changed = line(Step("a"), Step("b", version=(2, 0)), Step("c"))
    asked: list[FlowMismatch] = []

    def answer(value: bool) -> Callable[[FlowMismatch], bool]:
        return lambda mismatch: asked.append(mismatch) or value  # type: ignore[func-returns-value]

    refused(connection, changed, uuid, on_mismatch=answer(False))
    resume(connection, changed, uuid, on_mismatch=answer(True))
    assert [list(mismatch.changed) for mismatch in asked] == [["b"], ["b"]]
    assert Step.log == ["c"]


def test_a_stored_value_that_does_not_equal_itself_is_the_same_value(connection: Connection) -> None:
    flow = line(Step("a"), Step("b"), Step("c"))
    uuid = begin(connection, flow, store={"z": float("nan")})
    resume(connection, flow, uuid, store={"z": float("nan")})
    assert Step.log == ["c"]


def test_a_reverted_flow_begins_anew_with_whatever_it_has_become(connection: Connection, log: list[str]) -> None:
    def fail() -> None:
        raise ValueError("no")

    detail = api.create_flow_detail(line(Step("a"), Step("b")), connection=connection)
    with pytest.raises(ValueError, match="no"):
        api.run(connection, line(Step("a", provides="x"), Step("b", fail, requires=["x"])), detail)
    stored = connection.get_flow_details(detail.uuid)
    assert stored.state == states.REVERTED
    del log[:]
    api.run(connection, line(Step("new"), Step("b", provides="y"), Step("a", requires=["y"])), stored)
    assert log == ["new", "b", "a"]
    assert connection.get_flow_details(detail.uuid).state == states.SUCCESS
