# SPDX-License-Identifier: Apache-2.0
"""What is told of a failure: enough to understand it, no more than a person reads, and nothing that is to be hidden."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pluggableflow import api, formatters, states
from pluggableflow.engine import Engine
from pluggableflow.failure import Failure
from pluggableflow.flow import Flow
from pluggableflow.formatters import FailureFormatter
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow
from pluggableflow.secret import Secret
from pluggableflow.task import FunctorTask, Task


class Give(Task):
    """Returns a value."""

    def __init__(self, name: str, value: Any = None, **declared: Any) -> None:
        super().__init__(name, **declared)
        self.value = value

    def execute(self, **kwargs: Any) -> Any:
        return self.value


class Break(Task):
    def execute(self, **kwargs: Any) -> None:
        raise RuntimeError("broken")


def failed(flow: Flow, store: dict[str, Any] | None = None) -> Engine:
    """An engine whose flow has failed, with everything as it was at that moment."""
    engine = api.load(None, flow, store=store, never_resolve=True)
    with pytest.raises(RuntimeError, match="broken"):
        engine.run()
    return engine


def text_of(engine: Engine, name: str = "break", **options: Any) -> str:
    failure = engine.storage.get_execute_failures()[name]
    exc_info, text = FailureFormatter(engine, **options).format(failure, name)
    assert exc_info is failure.exc_info
    return text


def calls_of(function: Any) -> int:
    """How many functions are called, of Python and of C."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def layered(wide: int, deep: int) -> Flow:
    """Layers of tasks, each of which needs all tasks of the layer before."""
    flow = graph_flow.Flow("layers")
    before: list[str] = []
    for layer in range(deep):
        names = [f"{layer}-{column}" for column in range(wide)]
        flow.add(*(Give(name, 1, provides=name, requires=before) for name in names))
        before = names
    return flow.add(Break("break", requires=before))


def test_what_ran_before_is_listed_once_each_nearest_first() -> None:
    flow = linear_flow.Flow("flow")
    flow.add(
        Give("a", 1, provides="x"),
        unordered_flow.Flow("inner").add(Give("b", 2, provides="y", requires="x"), Give("c", 3, requires="x")),
        Break("break", requires=["x", "y"]),
        Give("never"),
    )
    lines = text_of(failed(flow)).splitlines()
    assert lines[0] == "3 atom(s) came before 'break' (nearest first):"
    assert sorted(lines[1:3]) == [
        "  'b' SUCCESS; requires {'x': 1}; provides 2",
        "  'c' SUCCESS; requires {'x': 1}; provides 3",
    ]
    assert lines[3:] == ["  'a' SUCCESS; provides 1"]


def test_nothing_is_listed_once_all_has_been_undone() -> None:
    engine = api.load(None, linear_flow.Flow("flow").add(Give("a"), Break("break")))
    with pytest.raises(RuntimeError):
        engine.run()
    assert engine.storage.get_atom_state("break") == states.REVERTED
    assert text_of(engine) == ""


def test_a_listener_of_the_failure_is_shown_what_led_to_it_although_it_will_be_undone() -> None:
    engine = api.load(None, linear_flow.Flow("flow").add(Give("a", 1), Break("break")))
    heard: list[str] = []
    formatter = FailureFormatter(engine)
    engine.atom_notifier.register(
        states.FAILURE, lambda _state, details: heard.append(formatter.format(details["result"], "break")[1])
    )
    with pytest.raises(RuntimeError):
        engine.run()
    assert heard == ["1 atom(s) came before 'break' (nearest first):\n  'a' SUCCESS; provides 1"]


def test_a_failure_without_its_exception_brings_its_traceback_as_text() -> None:
    engine = failed(linear_flow.Flow("flow").add(Break("break")))
    stored = Failure.from_dict(engine.storage.get_execute_failures()["break"].to_dict())
    exc_info, text = FailureFormatter(engine).format(stored, "break")
    assert exc_info is None
    assert text.startswith("Failure: RuntimeError: broken\nTraceback (most recent call last):\n")


def test_an_engine_that_was_not_compiled_and_an_unknown_atom_have_nothing_to_tell() -> None:
    engine = api.load(None, linear_flow.Flow("flow").add(Break("break")))
    failure = Failure.from_exception(RuntimeError("x"))
    assert FailureFormatter(engine).format(failure, "break") == (failure.exc_info, "")
    engine.compile()
    assert FailureFormatter(engine).format(failure, "break") == (failure.exc_info, "")
    assert FailureFormatter(engine).format(failure, "unknown") == (failure.exc_info, "")


def test_the_work_grows_with_the_flow_and_no_faster() -> None:
    counts = {}
    for deep in (12, 50, 100, 200):
        engine = failed(layered(4, deep))
        counts[deep] = calls_of(lambda engine=engine: text_of(engine))
    # Twelve layers have almost as many atoms as are listed; all that is added by further ones is finding them.
    assert counts[50] < counts[12] + 38 * 4 * 40
    assert counts[200] - counts[100] < 2.2 * (counts[100] - counts[50])


def test_the_text_is_bounded_whatever_the_flow_and_its_values_are() -> None:
    assert len(text_of(failed(layered(4, 50)))) < 20_000
    huge: Any = ["x" * 100_000] * 10_000
    nested: Any = [huge]
    for _level in range(30):
        nested = [nested] * 30
    flow = linear_flow.Flow("flow").add(
        *(Give(f"{number}", nested, provides=f"v{number}", requires=[f"v{number - 1}"] if number else ())
          for number in range(200)),
        Break("break"),
    )  # fmt: skip
    engine = failed(flow)
    text = text_of(engine)
    assert len(text) < 80_000
    assert f"... and {200 - formatters.ATOMS_LIMIT} more" in text
    assert calls_of(lambda: text_of(engine)) < 200_000


def test_named_inputs_are_masked_by_parameter_name_or_key() -> None:
    flow = linear_flow.Flow("flow").add(
        Give("a", rebind={"password": "pw"}, inject={"conf": {"nested": [{"key": "s3", "open": 1}]}}, requires="conf"),
        Give("b", rebind={"other": "pw"}),
        Break("break"),
    )
    engine = failed(flow, {"pw": "s1"})
    assert "'password': 's1'" in text_of(engine)
    assert "s3" in text_of(engine)
    masked = text_of(engine, mask_inputs_keys=["pw", "key"])
    assert "s1" not in masked
    assert "s3" not in masked
    assert "'open': 1" in masked
    by_parameter = text_of(engine, mask_inputs_keys=["password"])
    assert "'password': ***" in by_parameter
    assert "'other': 's1'" in by_parameter


@pytest.mark.parametrize(
    ("provides", "value", "shown"),
    [
        ("password", "s1", "***"),
        (("user", "password"), ("bob", "s1"), "('bob', '***')"),
        ({"user", "password"}, {"user": "bob", "password": "s1"}, "{'user': 'bob', 'password': ***}"),
        ("other", {"deep": {"password": "s1"}}, "{'deep': {'password': ***}}"),
        ("other", [{"password": "s1"}], "[{'password': ***}]"),
        ("other", "plain", "'plain'"),
    ],
)
def test_named_outputs_are_masked_wherever_the_name_stands(provides: Any, value: Any, shown: str) -> None:
    engine = failed(linear_flow.Flow("flow").add(Give("a", value, provides=provides), Break("break")))
    assert f"provides {shown}" in text_of(engine, mask_outputs_keys=["password"])


def test_the_values_of_some_atoms_are_not_even_fetched() -> None:
    class Watched:
        def __repr__(self) -> str:
            raise AssertionError("it was looked at")

    engine = failed(linear_flow.Flow("flow").add(Give("a", Watched(), provides="x"), Break("break", requires="x")))
    assert text_of(engine, hide_inputs_outputs_of=["a"]).endswith("'a' SUCCESS")
    assert "<Watched, whose __repr__ raised AssertionError>" in text_of(engine)


def test_secrets_are_shown_neither_as_inputs_nor_where_they_were_copied_to() -> None:
    def leak(token: str) -> dict[str, str]:
        return {"copy": "x" * 90 + token + "x" * 300}

    def broken(token: str) -> None:
        raise RuntimeError("broken")

    flow = linear_flow.Flow("flow").add(FunctorTask(leak, name="leak"), FunctorTask(broken, name="break"))
    text = text_of(failed(flow, {"token": Secret("hunter2-long-enough")}))
    assert "'token': Secret(***)" in text
    assert "x***x" in text
    assert "hunter" not in text
