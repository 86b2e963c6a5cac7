# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a flow is found when it is compiled, and told all together."""

from __future__ import annotations

import pytest

from pluggableflow import api, retry, task
from pluggableflow.compiler import compile
from pluggableflow.exceptions import (
    AmbiguousDependency,
    CompilationFailure,
    DefinitionError,
    DependencyFailure,
    Duplicate,
    MissingDependencies,
)
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow

Linear, Unordered, Graph = linear_flow.Flow, unordered_flow.Flow, graph_flow.Flow
PATTERNS = pytest.mark.parametrize("pattern", [Linear, Unordered, Graph], ids=["linear", "unordered", "graph"])


def step(name: str, requires: str = "", provides: str = "") -> task.Task:
    return task.FunctorTask(
        lambda **kwargs: None, name=name, requires=requires.split(), provides=tuple(provides.split())
    )


def maybe(name: str, provides: str = "") -> task.Task:
    """A task that takes x if there is one."""
    return task.FunctorTask(lambda x=None: None, name=name, provides=tuple(provides.split()))


def again(name: str) -> retry.Retry:
    return retry.Times(3, name=name)


def refused(flow: Flow) -> CompilationFailure:
    with pytest.raises(CompilationFailure) as caught:
        compile(flow)
    assert caught.value.flow_name == flow.name
    for fault in caught.value.faults:
        assert f"\n  - {fault}" in str(caught.value)
    assert f"{len(caught.value.faults)} fault(s)" in str(caught.value)
    return caught.value


def ambiguous() -> Flow:
    left, right = Linear("left"), Linear("right")
    flow = Graph("ambiguous").add(left, right, step("consumer", "x"))
    left.add(step("of left", "", "x"))
    right.add(step("of right", "", "x"))
    return flow


@PATTERNS
def test_two_atoms_of_one_name_are_refused_wherever_they_are(pattern: type[Flow]) -> None:
    inner = pattern("inner").add(step("a"))
    faults = refused(pattern("outer").add(step("a"), inner)).faults
    assert [type(fault) for fault in faults] == [Duplicate]
    assert str(faults[0]) == "two atoms are named 'a', in flow 'outer' and in flow 'inner'"


def test_a_retry_and_a_task_of_one_name_are_refused() -> None:
    (fault,) = refused(Linear("flow", retry=again("a")).add(step("a"))).faults
    assert isinstance(fault, Duplicate)


def test_flows_may_share_their_name_with_others_and_with_atoms() -> None:
    plan = compile(Linear("a").add(Linear("a").add(step("a")), Linear("a")))
    assert plan.index == {"a": 2}


def test_faults_of_all_kinds_are_reported_together() -> None:
    one, two = Linear("one"), Linear("two")
    cyclic = Graph("cyclic").add(one, two)
    one.add(step("o", "u", "v"))
    two.add(step("t", "v", "u"))
    flow = Linear("all").add(step("a"), step("a"), ambiguous(), cyclic, step("b"), Unordered("last").add(step("b")))
    faults = refused(flow).faults
    assert [type(fault) for fault in faults] == [Duplicate, AmbiguousDependency, DependencyFailure, Duplicate]
    assert str(faults[1]) == "flow 'ambiguous': 'consumer' requires 'x', which 'left', 'right' provide"
    assert str(faults[2]) == "flow 'cyclic': 'one', 'two' need each other, so no order exists"


@PATTERNS
def test_every_item_that_stands_in_two_places_is_reported(pattern: type[Flow]) -> None:
    shared, nested, control = step("shared"), Linear("nested"), again("r")
    first = pattern("first", retry=control).add(shared, nested)
    second = pattern("second", retry=control).add(shared, nested)
    faults = refused(Linear("flow").add(first, second)).faults
    assert len(faults) == 3
    for name in ("shared", "nested", "r"):
        (fault,) = [each for each in faults if f"{name!r} stands in flow" in str(each)]
        assert "'first'" in str(fault) and "'second'" in str(fault)


@pytest.mark.parametrize("pattern", [Linear, Unordered])
def test_an_item_that_stands_twice_in_one_flow_is_reported(pattern: type[Flow]) -> None:
    shared = step("shared")
    (fault,) = refused(pattern("flow").add(shared, shared)).faults
    assert str(fault) == "'shared' stands in flow 'flow' and in flow 'flow'; make a second one"


@PATTERNS
def test_a_flow_that_contains_itself_through_another_is_refused(pattern: type[Flow]) -> None:
    outer, inner = pattern("outer"), pattern("inner")
    outer.add(inner)
    inner.add(outer)
    (fault,) = refused(outer).faults
    assert str(fault) == "flow 'outer' contains itself, through flow 'inner'"


def test_an_optional_input_that_comes_from_two_that_are_linked_is_ambiguous() -> None:
    a, b, c = step("a", "", "x"), step("b", "", "x"), maybe("c")
    flow = Graph("flow")
    flow.add(a, b, c)
    flow.link(a, c).link(b, c)
    (fault,) = refused(flow).faults
    assert isinstance(fault, AmbiguousDependency)
    assert str(fault) == "flow 'flow': 'c' gets 'x' from 'a', 'b'"


def test_a_flow_that_was_refused_compiles_when_it_was_mended() -> None:
    inner = Linear("inner").add(step("a"))
    flow = Linear("flow").add(inner, step("b", "", "x"))
    inner.add(step("b"))
    refused(flow)
    inner._items.pop()
    assert sorted(compile(flow).index) == ["a", "b"]


@PATTERNS
def test_what_else_is_wrong_is_told_with_an_item_that_stands_in_two_places(pattern: type[Flow]) -> None:
    shared, control = Linear("shared").add(step("inside", "", "x")), again("r")
    first = pattern("first", retry=control).add(shared, step("a"))
    second = pattern("second", retry=control).add(step("a"), shared)
    faults = refused(Linear("flow").add(first, second, ambiguous(), step("b"), step("b"))).faults
    assert sorted(map(str, faults)) == [
        "'r' stands in flow 'first' and in flow 'second'; make a second one",
        "'shared' stands in flow 'first' and in flow 'second'; make a second one",
        "flow 'ambiguous': 'consumer' requires 'x', which 'left', 'right' provide",
        "two atoms are named 'a', in flow 'first' and in flow 'second'",
        "two atoms are named 'b', in flow 'flow' and in flow 'flow'",
    ]


@PATTERNS
def test_what_else_is_wrong_is_told_with_a_flow_that_contains_itself(pattern: type[Flow]) -> None:
    outer, inner = pattern("outer"), pattern("inner")
    outer.add(step("a"), inner, ambiguous())
    inner.add(step("a"), outer, step("b"), Linear("deep").add(step("b")))
    assert sorted(map(str, refused(outer).faults)) == [
        "flow 'ambiguous': 'consumer' requires 'x', which 'left', 'right' provide",
        "flow 'outer' contains itself, through flow 'inner'",
        "two atoms are named 'a', in flow 'outer' and in flow 'inner'",
        "two atoms are named 'b', in flow 'inner' and in flow 'deep'",
    ]


def test_a_flow_that_contains_itself_is_no_second_provider() -> None:
    outer, inner, consumer = Graph("outer"), Graph("inner"), Linear("consumer")
    outer.add(step("a", "", "x"), inner, consumer)
    inner.add(outer)
    consumer.add(step("b", "x"))
    (fault,) = refused(outer).faults
    assert str(fault) == "flow 'outer' contains itself, through flow 'inner'"


def test_items_that_come_after_one_that_stands_elsewhere_are_looked_at() -> None:
    shared, after = step("shared", "", "x"), Linear("after").add(step("a", "x"), step("b"))
    flow = Linear("flow").add(shared, Graph("graph").add(after, shared), step("b"))
    assert sorted(map(str, refused(flow).faults)) == [
        "'shared' stands in flow 'flow' and in flow 'graph'; make a second one",
        "two atoms are named 'b', in flow 'after' and in flow 'flow'",
    ]


def test_what_is_wrong_inside_flows_that_need_each_other_is_told_too() -> None:
    one, two = Linear("one"), Linear("two")
    cyclic = Graph("cyclic").add(one, two, step("after", "v"), Linear("third").add(step("a"), ambiguous()))
    one.add(step("o", "u", "v"), step("a"))
    two.add(step("t", "v", "u"), step("a"))
    faults = [str(fault) for fault in refused(cyclic).faults]
    assert [fault for fault in faults if "two atoms are named 'a', in flow" in fault] == [
        "two atoms are named 'a', in flow 'one' and in flow 'two'",
        "two atoms are named 'a', in flow 'one' and in flow 'third'",
    ]
    assert "flow 'ambiguous': 'consumer' requires 'x', which 'left', 'right' provide" in faults
    assert any("need each other, so no order exists" in fault for fault in faults)
    assert len(faults) == 4


def test_inputs_that_nothing_provides_are_told_with_the_other_faults() -> None:
    flow = Linear("flow").add(step("a", "given lost late"), step("a"), step("b", "", "late"))
    found: list[DefinitionError] = []
    for run in (lambda: api.run(None, flow, store={"given": 1}), lambda: compile(flow, {"given"})):
        with pytest.raises(CompilationFailure) as caught:
            run()
        found += caught.value.faults
    assert [type(fault) for fault in found] == [Duplicate, MissingDependencies] * 2
    missing = found[1]
    assert isinstance(missing, MissingDependencies)
    # "late" has a provider in the wrong place; while the flow has other faults that may be due to those.
    assert [(each.atom, each.name) for each in missing.missing] == [("a", "lost")]
