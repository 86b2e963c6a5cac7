# SPDX-License-Identifier: Apache-2.0
"""The options of engines, and what they raise."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, retry, states, task
from pluggableflow.connection import Connection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import MissingDependencies, OptionError, WrappedFailure
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow, unordered_flow


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


def _ends(loaded: Engine) -> None:
    with pytest.raises((ValueError, WrappedFailure)):
        loaded.run()


# -- options ------------------------------------------------------------------------------------------------------


def _inner_fails(log: list[str]) -> Flow:
    inner = linear_flow.Flow("inner", retry=retry.AlwaysRevert(name="r")).add(Step("b", log, fails=ValueError("no")))
    return linear_flow.Flow("f").add(Step("a", log), inner)


def test_a_revert_decision_undoes_the_flow_of_its_retry_alone() -> None:
    log: list[str] = []
    loaded = api.load(None, _inner_fails(log))
    _ends(loaded)
    assert log == ["a", "b", "-b"]
    assert loaded.storage.get_atom_state("a") == states.SUCCESS


def test_defer_reverts_undoes_everything_where_no_retry_is_around() -> None:
    log: list[str] = []
    loaded = api.load(None, _inner_fails(log), defer_reverts=True)
    _ends(loaded)
    assert log == ["a", "b", "-b", "-a"]
    assert loaded.storage.get_flow_state() == states.REVERTED


def test_never_resolve_leaves_the_failure_where_it_happened(connection: Connection) -> None:
    log: list[str] = []
    flow = linear_flow.Flow("f", retry=retry.Times(3, name="r")).add(
        Step("a", log), Step("b", log, fails=ValueError("no"))
    )
    loaded = api.load(connection, flow, never_resolve=True)
    with pytest.raises(ValueError, match="no"):
        loaded.run()
    assert log == ["a", "b"]
    assert loaded.storage.get_flow_state() == states.FAILURE
    assert {name: loaded.storage.get_atom_state(name) for name in "ab"} == {"a": states.SUCCESS, "b": states.FAILURE}


@pytest.mark.parametrize("transient", [True, False])
def test_values_that_an_atom_injects_are_stored_only_if_that_is_asked_for(
    connection: Connection, transient: bool
) -> None:
    class Needs(task.Task):
        def execute(self, secret: str) -> str:
            return secret

    flow = linear_flow.Flow("f").add(Needs("a", inject={"secret": "s3cret"}, provides="x"))
    loaded = api.load(connection, flow, inject_transient=transient)
    loaded.run()
    assert loaded.storage.fetch("x") == "s3cret"
    meta = connection.get_atom_details(loaded.storage.get_atom_uuid("a")).meta
    assert ("s3cret" in str(meta)) is not transient


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_an_unknown_option_is_refused_with_those_that_there_are(engine: str) -> None:
    with pytest.raises(OptionError, match="no option 'max_wokers'") as refused:
        api.load(None, linear_flow.Flow("f"), engine=engine, max_wokers=3)
    for name in ("defer_reverts", "never_resolve", "inject_transient", "lease_seconds", "force", "on_mismatch"):
        assert name in str(refused.value)
    assert ("prefetch" in str(refused.value)) is (engine == "parallel")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_workers", 0),
        ("max_workers", True),
        ("prefetch", -1),
        ("lease_seconds", 0),
        ("lease_seconds", True),
        ("lease_seconds", "30"),
        ("never_resolve", "no"),
        ("on_mismatch", "ignore"),
        ("executor", 7),
    ],
)
def test_an_impossible_value_of_an_option_is_refused(option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=option):
        api.load(None, linear_flow.Flow("f"), engine="parallel", **{option: value})


def test_an_engine_that_exists_takes_no_options() -> None:
    loaded = api.load(None, linear_flow.Flow("f"))
    assert api.load(None, loaded.flow, engine=loaded) is loaded
    with pytest.raises(OptionError, match="force"):
        api.load(None, loaded.flow, engine=loaded, force=True)


# -- failures -----------------------------------------------------------------------------------------------------


def test_one_failure_is_raised_as_itself_with_its_traceback(connection: Connection) -> None:
    error = ValueError("deep inside")

    def deep_inside() -> None:
        raise error

    flow = linear_flow.Flow("f").add(task.FunctorTask(deep_inside))
    with pytest.raises(ValueError) as raised:
        api.run(connection, flow)
    assert raised.value is error
    assert "deep_inside" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]


def test_several_failures_are_raised_together(connection: Connection) -> None:
    barrier = threading.Barrier(2, timeout=60)

    class Fails(task.Task):
        def execute(self) -> None:
            barrier.wait()
            raise ValueError(self.name)

    flow = unordered_flow.Flow("f").add(Fails("a"), Fails("b"))
    with pytest.raises(WrappedFailure) as raised:
        api.run(connection, flow, engine="parallel", max_workers=2)
    assert sorted(failure.exception_str for failure in raised.value) == ["a", "b"]
    assert raised.value.check(KeyError, ValueError) is ValueError


def test_the_failure_of_a_revert_is_raised_with_the_one_that_led_to_it() -> None:
    flow = linear_flow.Flow("f").add(Step("a", unrevertable=True), Step("b", fails=ValueError("no")))
    with pytest.raises(WrappedFailure) as raised:
        api.run(None, flow)
    assert [failure.exception_str for failure in raised.value] == ["no", "a stays"]


def test_missing_inputs_are_listed_together_before_anything_runs(connection: Connection) -> None:
    class Needs(task.Task):
        def execute(self, width: int, height: int) -> None:
            raise AssertionError("never")

    log: list[str] = []
    flow = linear_flow.Flow("f").add(Step("first", log), Needs("a"), Step("b", log, requires=["depth"]))
    loaded = api.load(connection, flow, store={"height": 1})
    with pytest.raises(MissingDependencies) as raised:
        loaded.run()
    assert [(each.atom, each.name) for each in raised.value.missing] == [("a", "width"), ("b", "depth")]
    assert log == []
    assert connection.get_flow_details(loaded.storage.flow_uuid).state == states.PENDING
    again = api.load(connection, flow, loaded.storage.flow_detail)
    again.prepare()  # the lease was given up
    again.close()
