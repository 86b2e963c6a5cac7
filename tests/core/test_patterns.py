# SPDX-License-Identifier: Apache-2.0
"""How items are put together: what is linked to what, in which order they come, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from pluggableflow import retry, task
from pluggableflow.compiler import compile
from pluggableflow.exceptions import DefinitionError, DependencyFailure
from pluggableflow.flow import Flow, Item
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow

ALL_PATTERNS = [linear_flow.Flow, unordered_flow.Flow, graph_flow.Flow, graph_flow.TargetedFlow]
PATTERNS = pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=["linear", "unordered", "graph", "targeted"])


def step(name: str, requires: str = "", provides: str = "") -> task.Task:
    return task.FunctorTask(
        lambda **kwargs: None, name=name, requires=requires.split(), provides=tuple(provides.split())
    )


def names(flow: Flow) -> list[str]:
    return [item.name for item in flow]


def links(flow: Flow) -> list[tuple[str, str]]:
    return [(item.name, later.name) for item, later, _data in flow.iter_links()]


def everything(flow: Flow) -> Any:
    return list(flow), list(flow.iter_links()), list(flow.iter_nodes()), len(flow), flow.requires, flow.provides


# -- all patterns -----------------------------------------------------------------------------------------------------


@PATTERNS
def test_an_empty_flow_has_no_items_links_inputs_or_outputs(pattern: Callable[..., Flow]) -> None:
    flow = pattern("flow")
    assert everything(flow) == ([], [], [], 0, frozenset(), frozenset())


@PATTERNS
def test_add_returns_the_flow_and_items_come_in_the_order_of_adding(pattern: Callable[..., Flow]) -> None:
    flow = pattern("flow")
    items = [step("c"), pattern("b"), step("a")]
    assert flow.add(*items[:2]) is flow
    flow.add(items[2])
    assert list(flow) == items
    assert len(flow) == 3
    assert list(flow.iter_nodes()) == [(item, {}) for item in items]


@PATTERNS
@pytest.mark.parametrize("thing", [retry.AlwaysRevert("r"), "a task", None, step], ids=["retry", "text", "none", "def"])
def test_what_is_no_task_or_flow_is_refused_and_nothing_of_that_add_stays(
    pattern: Callable[..., Flow], thing: Any
) -> None:
    flow = pattern("flow").add(step("a", "y"))
    before = everything(flow)
    with pytest.raises(DefinitionError, match="'flow'"):
        flow.add(step("b", "x", "y"), thing)
    assert everything(flow) == before


@PATTERNS
def test_a_flow_cannot_be_put_into_itself(pattern: Callable[..., Flow]) -> None:
    flow = pattern("flow")
    with pytest.raises(DefinitionError, match="'flow' cannot contain itself"):
        flow.add(step("a"), flow)
    assert len(flow) == 0


@PATTERNS
def test_what_is_no_retry_is_refused_as_one(pattern: Callable[..., Flow]) -> None:
    with pytest.raises(DefinitionError, match="is not a retry"):
        pattern("flow", retry=step("a"))


@PATTERNS
@pytest.mark.parametrize("name", ["", "x" * 256, 7])
def test_the_name_of_a_flow_is_checked(pattern: Callable[..., Flow], name: Any) -> None:
    with pytest.raises(DefinitionError):
        pattern(name)


@PATTERNS
def test_a_retry_needs_from_outside_and_serves_the_items(pattern: Callable[..., Flow]) -> None:
    control = retry.Times(3, name="r", requires=["budget"], provides="attempt")
    flow = pattern("flow", retry=control).add(step("a", "attempt other", "result"))
    assert flow.retry is control
    assert flow.requires == {"budget", "other"}
    assert flow.provides == {"attempt", "result"}
    assert list(flow.iter_links()) == []


@PATTERNS
def test_a_flow_says_what_it_is(pattern: Callable[..., Flow]) -> None:
    flow = pattern("journey").add(step("a"), step("b"))
    kind = f"{pattern.__module__.rpartition('.')[2]}.{pattern.__name__}"
    assert str(flow) == f'"{kind}: journey(len=2)"'
    assert repr(flow) == f"<{flow}>"


@PATTERNS
def test_a_flow_becomes_a_networkx_graph_of_its_items_and_links(pattern: Callable[..., Flow]) -> None:
    control = retry.AlwaysRevert("r")
    flow = pattern("flow", retry=control).add(step("a", "", "x"), step("b", "x"))
    graph = flow.to_networkx()
    assert graph.graph == {"name": "flow", "retry": control}
    assert list(graph.nodes) == list(flow)
    assert list(graph.edges(data=True)) == list(flow.iter_links())


@PATTERNS
def test_five_thousand_nested_flows_are_no_problem(pattern: Callable[..., Flow]) -> None:
    top = inner = pattern("0")
    for number in range(1, 5000):
        outer, inner = inner, pattern(str(number))
        outer.add(inner)
    inner.add(step("deep", "x", "y"))
    assert top.requires == {"x"}
    assert top.provides == {"y"}
    plan = compile(top)
    assert len(plan.kinds) == 10_001
    assert plan.index == {"deep": 5000}
    assert [missing.name for missing in plan.missing([])] == ["x"]


@PATTERNS
def test_nested_flows_may_be_put_together_from_the_inside_out(pattern: Callable[..., Flow]) -> None:
    flow = pattern("0").add(step("deep", "x", "y"))
    for number in range(1, 1100):  # deeper than what Python recurses
        flow = pattern(str(number)).add(flow)
    assert flow.requires == {"x"}
    assert flow.provides == {"y"}
    assert compile(flow).index == {"deep": 1100}


# -- linear and unordered ---------------------------------------------------------------------------------------------


def test_a_linear_flow_links_each_item_to_the_next() -> None:
    flow = linear_flow.Flow("flow").add(step("c"), step("a"), step("b"))
    assert links(flow) == [("c", "a"), ("a", "b")]
    assert all(data == {"invariant": True} for _item, _later, data in flow.iter_links())


def test_items_of_a_linear_flow_serve_only_later_ones() -> None:
    flow = linear_flow.Flow("flow").add(step("a", "y", "x"), step("b", "x", "y"))
    assert flow.requires == {"y"}
    assert flow.provides == {"x", "y"}


def test_items_of_an_unordered_flow_have_no_links_and_do_not_serve_each_other() -> None:
    flow = unordered_flow.Flow("flow").add(step("a", "", "x"), step("b", "x", "y"))
    assert links(flow) == []
    assert flow.requires == {"x"}
    assert flow.provides == {"x", "y"}


# -- what changes after it was added ----------------------------------------------------------------------------------


@PATTERNS
@pytest.mark.parametrize("outer", ALL_PATTERNS)
def test_what_a_flow_needs_and_offers_is_told_anew_when_one_deep_inside_has_changed(
    pattern: Callable[..., Flow], outer: Callable[..., Flow]
) -> None:
    inner = pattern("inner")
    top = outer("top").add(outer("middle").add(inner))
    assert (top.requires, top.provides) == (set(), set())
    inner.add(step("a", "x", "y"))
    assert (top.requires, top.provides) == ({"x"}, {"y"})
    inner.add(pattern("last").add(step("b", "z", "w")))
    assert (top.requires, top.provides) == ({"x", "z"}, {"y", "w"})


def test_what_a_flow_needs_is_told_anew_when_items_inside_are_linked() -> None:
    a, b = step("a", "x"), step("b", "", "x")
    inner = graph_flow.Flow("inner").add(a).add(b, resolve_existing=False)
    top = linear_flow.Flow("top").add(inner)
    assert top.requires == {"x"}
    inner.link(b, a)
    assert top.requires == set()


def test_what_a_flow_needs_is_told_anew_when_a_target_inside_is_set_or_taken_back() -> None:
    a, b = step("a", "x"), step("b", "y")
    inner = graph_flow.TargetedFlow("inner")
    inner.add(a, b)
    top = linear_flow.Flow("top").add(inner)
    assert top.requires == {"x", "y"}
    inner.set_target(a)
    assert top.requires == {"x"}
    inner.reset_target()
    assert top.requires == {"x", "y"}


def needs_and_offers_of(flow: Flow) -> tuple[set[str], set[str]]:
    """Found out once more, as simply as it can be said."""
    needs: set[str] = set(flow.retry.requires) if flow.retry is not None else set()
    offers: set[str] = set(flow.retry.provides) if flow.retry is not None else set()
    satisfied = set(offers)
    for item in flow:
        inside = needs_and_offers_of(item) if isinstance(item, Flow) else (set(item.requires), set(item.provides))
        needs |= inside[0] - satisfied
        offers |= inside[1]
        if not isinstance(flow, unordered_flow.Flow):
            satisfied |= inside[1]
    return needs, offers


@pytest.mark.parametrize("seed", range(60))
def test_what_flows_need_and_offer_is_always_what_their_items_say(seed: int) -> None:
    chance = random.Random(seed)
    values = [f"v{number}" for number in range(8)]
    flows: list[Flow] = [graph_flow.Flow("0")]
    for number in range(1, 40):
        flow = chance.choice(flows)
        item: Item = step(f"t{number}", chance.choice(values), chance.choice(values))
        if chance.random() < 0.4:
            control = retry.Times(2, name=f"r{number}", provides=chance.choice(values))
            item = chance.choice(ALL_PATTERNS)(str(number), retry=chance.choice([None, control]))
        try:
            flow.add(item)
        except DependencyFailure:
            continue
        if isinstance(item, Flow):
            flows.append(item)
        for each in chance.sample(flows, min(3, len(flows))):
            assert (each.requires, each.provides) == needs_and_offers_of(each)
