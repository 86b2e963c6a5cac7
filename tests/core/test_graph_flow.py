# SPDX-License-Identifier: Apache-2.0
"""Graph flows: what is inferred, what is refused, explicit links, and targets."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pluggableflow import api, retry, task
from pluggableflow.compiler import compile
from pluggableflow.exceptions import AmbiguousDependency, DefinitionError, DependencyFailure
from pluggableflow.flow import Depth, Flow, Item
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow

GRAPHS = pytest.mark.parametrize("pattern", [graph_flow.Flow, graph_flow.TargetedFlow], ids=["graph", "targeted"])


def step(name: str, requires: str = "", provides: str = "") -> task.Task:
    return task.FunctorTask(
        lambda **kwargs: None, name=name, requires=requires.split(), provides=tuple(provides.split())
    )


def names(flow: Flow) -> list[str]:
    return [item.name for item in flow]


def links(flow: Flow) -> list[tuple[str, str]]:
    return [(item.name, later.name) for item, later, _data in flow.iter_links()]


def reasons(flow: Flow) -> dict[tuple[str, str], set[str]]:
    return {(item.name, later.name): data["reasons"] for item, later, data in flow.iter_links()}


def everything(flow: Flow) -> Any:
    return list(flow), list(flow.iter_links()), list(flow.iter_nodes()), len(flow), flow.requires, flow.provides


def assert_in_order(flow: Flow) -> None:
    at = {item: position for position, item in enumerate(flow)}
    for item, later, _data in flow.iter_links():
        assert at[item] < at[later]


def calls_of(work: Callable[[], Any]) -> int:
    calls = 0

    def counting(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(counting)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


# -- graph flow: what is inferred -------------------------------------------------------------------------------------


@GRAPHS
@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_links_are_inferred_whatever_the_order_of_adding(pattern: Any, order: str) -> None:
    made = {"a": step("a", "", "x y"), "b": step("b", "x y", "z"), "c": step("c", "z x")}
    together = pattern("flow").add(*[made[name] for name in order])
    one_by_one = pattern("flow")
    for name in order:
        one_by_one.add(made[name])
    for flow in (together, one_by_one):
        assert names(flow) == ["a", "b", "c"]
        assert reasons(flow) == {("a", "b"): {"x", "y"}, ("b", "c"): {"z"}, ("a", "c"): {"x"}}
        assert not any("manual" in data for _item, _later, data in flow.iter_links())
        assert flow.requires == frozenset()
    assert flow.provides == {"x", "y", "z"}


@GRAPHS
def test_nested_flows_are_linked_by_what_they_need_and_offer(pattern: Any) -> None:
    inner = linear_flow.Flow("inner").add(step("i", "x"), step("j", "", "y"))
    flow = pattern("flow").add(step("last", "y"), inner, step("first", "", "x"))
    assert names(flow) == ["first", "inner", "last"]
    assert reasons(flow) == {("first", "inner"): {"x"}, ("inner", "last"): {"y"}}


@GRAPHS
def test_an_item_that_is_added_again_stays_as_it_was(pattern: Any) -> None:
    provider, consumer = step("a", "", "x"), step("b", "x")
    flow = pattern("flow").add(consumer, provider, consumer)
    before = everything(flow)
    flow.add(provider, consumer)
    assert everything(flow) == before
    assert len(flow) == 2


def test_without_resolve_requires_an_item_is_not_linked_from_what_provides_its_inputs() -> None:
    flow = graph_flow.Flow("flow").add(step("a", "", "x"))
    flow.add(step("b", "x", "y"), resolve_requires=False)
    assert links(flow) == []
    flow.add(step("c", "y"))
    assert links(flow) == [("b", "c")]


def test_without_resolve_requires_several_providers_are_no_ambiguity() -> None:
    flow = graph_flow.Flow("flow").add(step("a", "", "x"), step("b", "", "x"))
    flow.add(step("c", "x"), resolve_requires=False)
    assert names(flow) == ["a", "b", "c"]
    assert links(flow) == []


def test_without_resolve_requires_items_that_are_added_together_are_not_linked_but_later_ones_link_to_them() -> None:
    flow = graph_flow.Flow("flow").add(step("a", "x", "x"), step("b", "x", "x"), resolve_requires=False)
    assert links(flow) == []
    flow.add(step("c", "", "x"))
    assert links(flow) == [("c", "a"), ("c", "b")]


def test_of_several_providers_that_are_linked_in_a_row_the_nearest_that_has_run_counts() -> None:
    atoms = [task.FunctorTask(lambda x: x + 1, name=name, provides="x") for name in "abc"]
    flow = graph_flow.Flow("flow").add(*atoms, resolve_requires=False)
    flow.link(atoms[0], atoms[1], decider=lambda history: history["a"] < 5, decider_depth="atom")
    flow.link(atoms[1], atoms[2])
    for given, expected in (1, 4), (7, 9):
        engine = api.load(None, flow)
        engine.storage.inject_atom_args("a", {"x": given})
        engine.run()
        assert engine.storage.get("c") == expected


def test_without_resolve_existing_an_item_is_not_linked_to_what_lacks_its_outputs() -> None:
    flow = graph_flow.Flow("flow").add(step("b", "x"), step("z", "", "w"))
    flow.add(step("a", "w", "x"), resolve_existing=False)
    assert links(flow) == [("z", "a")]


def test_an_item_that_was_left_unlinked_is_linked_by_the_next_that_provides() -> None:
    flow = graph_flow.Flow("flow").add(step("consumer", "x"))
    flow.add(step("a", "", "x"), resolve_existing=False)
    flow.add(step("b", "", "x"))
    assert links(flow) == [("b", "consumer")]


def test_an_item_that_has_its_inputs_is_not_linked_from_a_later_provider() -> None:
    flow = graph_flow.Flow("flow").add(step("consumer", "x"), step("a", "", "x"), step("b", "", "x"))
    assert links(flow) == [("a", "consumer")]


def test_what_the_retry_provides_is_not_taken_from_an_item() -> None:
    flow = graph_flow.Flow("flow", retry=retry.Times(2, name="r", provides="x"))
    flow.add(step("a", "", "x"), step("b", "x"))
    assert links(flow) == []


@pytest.mark.parametrize("backwards", [False, True])
def test_adding_one_by_one_takes_operations_in_proportion_to_the_items(backwards: bool) -> None:
    def operations(count: int) -> int:
        items = [step(str(number), f"v{number}" if number else "", f"v{number + 1}") for number in range(count)]
        flow = graph_flow.Flow("flow")

        def add() -> None:
            for item in reversed(items) if backwards else items:
                flow.add(item)

        calls = calls_of(add)
        assert list(flow) == items
        return calls

    assert operations(2000) <= 10.5 * operations(200)


@pytest.mark.parametrize("patterns", [[graph_flow], [graph_flow, linear_flow, unordered_flow]], ids=["graph", "mixed"])
def test_nesting_from_the_inside_out_takes_operations_in_proportion_to_the_depth(patterns: list[Any]) -> None:
    def nest(depth: int) -> Flow:
        flow: Flow = graph_flow.Flow("0").add(step("deep", "x", "y"))
        for number in range(1, depth):
            flow = patterns[number % len(patterns)].Flow(str(number)).add(flow)
            flow.add(step(f"beside {number}"))
        assert (flow.requires, flow.provides) == ({"x"}, {"y"})
        assert len(compile(flow).index) == depth
        return flow

    assert calls_of(lambda: nest(1000)) <= 10.5 * calls_of(lambda: nest(100))


@pytest.mark.parametrize("pattern", [graph_flow, linear_flow, unordered_flow])
def test_compiling_takes_operations_in_proportion_to_the_depth_if_each_flow_provides_something(pattern: Any) -> None:
    def operations(depth: int) -> int:
        flow = pattern.Flow("0").add(step("0"))
        for number in range(1, depth):
            flow = pattern.Flow(str(number)).add(flow, step(f"beside {number}", "", f"v{number}"))
        return calls_of(lambda: compile(flow))

    assert operations(500) <= 10.5 * operations(50)


# -- graph flow: what is refused --------------------------------------------------------------------------------------


@GRAPHS
def test_an_input_with_two_providers_is_refused_and_both_are_named(pattern: Any) -> None:
    flow = pattern("flow").add(step("a", "", "x"), step("b", "", "x"), step("d", "w"))
    before = everything(flow)
    with pytest.raises(AmbiguousDependency, match="'flow': 'c' requires 'x', which 'a', 'b' provide"):
        flow.add(step("c", "x", "w"))
    assert everything(flow) == before


@GRAPHS
def test_two_items_that_need_each_other_are_refused(pattern: Any) -> None:
    flow = pattern("flow").add(step("a", "y", "x"))
    before = everything(flow)
    with pytest.raises(DependencyFailure, match="is a cycle") as caught:
        flow.add(step("b", "x", "y"))
    assert "'a'" in str(caught.value) and "'b'" in str(caught.value)
    assert everything(flow) == before


@GRAPHS
def test_a_cycle_through_many_items_is_refused_and_named(pattern: Any) -> None:
    flow = pattern("flow").add(step("a", "z", "x"), step("other"), step("b", "x", "y"))
    before = everything(flow)
    with pytest.raises(DependencyFailure, match="'a' -> 'b' -> 'c' -> 'a'|'b' -> 'c' -> 'a' -> 'b'|'c' -> 'a' -> 'b'"):
        flow.add(step("c", "y", "z"))
    assert everything(flow) == before


@GRAPHS
def test_what_a_retry_needs_comes_from_outside_also_if_an_item_provides_it_once_more(pattern: Any) -> None:
    flow = pattern("flow", retry=retry.Times(2, name="r", requires=["x"])).add(step("a", "", "x"), step("b", "x"))
    assert (flow.requires, flow.provides) == ({"x"}, {"x"})
    assert links(flow) == [("a", "b")]
    (lacking,) = compile(flow).missing([])
    assert str(lacking) == "'r' needs 'x', which only 'a' provides, and that does not come before it"


@GRAPHS
def test_what_nothing_that_comes_before_an_item_provides_is_needed_from_outside(pattern: Any) -> None:
    a, b, c, d = step("a", "", "x"), step("b"), step("c", "x"), step("d", "x")
    flow = pattern("flow").add(a, b, c, d, resolve_requires=False)
    assert flow.requires == {"x"}
    flow.link(a, b).link(b, c)
    assert flow.requires == {"x"}
    flow.link(c, d)
    assert flow.requires == set()


@GRAPHS
def test_if_one_of_several_items_is_refused_those_that_were_moved_go_back(pattern: Any) -> None:
    flow = pattern("flow").add(step("a", "x"), step("b", "", "y"), step("c", "", "z"), step("d", "", "z"))
    before = everything(flow)
    assert names(flow) == ["a", "b", "c", "d"]
    with pytest.raises(AmbiguousDependency):
        flow.add(step("between", "y", "x"), step("refused", "z"))  # lets a come after b
    assert everything(flow) == before


@GRAPHS
def test_items_that_had_been_linked_by_a_refused_add_are_linked_again_in_the_same_order(pattern: Any) -> None:
    flow = pattern("flow").add(step("a", "x"), step("b", "x"), step("c", "x"), step("loop", "x w", "v"))
    before = everything(flow)
    with pytest.raises(DependencyFailure):
        flow.add(step("q", "v", "x"))
    with pytest.raises(DefinitionError):
        flow.add(step("p", "", "x"), None)
    assert everything(flow) == before
    flow.add(step("p", "", "x"))
    assert links(flow) == [("p", "a"), ("p", "b"), ("p", "c"), ("p", "loop")]


@GRAPHS
def test_a_refused_add_in_which_two_provided_the_same_leaves_none_linked(pattern: Any) -> None:
    flow = pattern("flow").add(step("a", "x"), step("b", "x"))
    with pytest.raises(DefinitionError):
        flow.add(step("p", "", "x"), step("q", "x"), step("r", "", "x"), None, resolve_requires=False)
    flow.add(step("s", "", "x"))
    assert links(flow) == [("s", "a"), ("s", "b")]


@GRAPHS
def test_a_manual_link_survives_a_refused_add(pattern: Any) -> None:
    a, b = step("a", "", "x"), step("b", "y")
    flow = pattern("flow").add(b, a)
    flow.link(a, b, decider=lambda history: True, decider_depth="flow")
    before = everything(flow)
    with pytest.raises(DefinitionError):
        flow.add(step("c", "x", "y"), None)
    assert everything(flow) == before


@GRAPHS
@pytest.mark.parametrize("seed", range(60))
def test_a_flow_never_shows_that_something_was_refused(pattern: Any, seed: int) -> None:
    """Against a twin that gets only what was not refused."""
    chance = random.Random(seed)
    values = [f"v{number}" for number in range(12)]
    flow, twin = pattern("flow"), pattern("flow")
    refused = 0
    for batch in range(25):
        items: list[Item] = []
        for number in range(chance.randint(1, 4)):
            requires = " ".join(chance.sample(values, chance.choice([0, 1, 1, 2, 3])))
            provides = " ".join(chance.sample(values, chance.choice([0, 0, 1, 1, 2])))
            items.append(step(f"{batch}.{number}", requires, provides))
        how = {
            "resolve_requires": chance.random() < 0.7,
            "resolve_existing": chance.random() < 0.8,
        }
        before = everything(flow)
        try:
            flow.add(*items, **how)
        except DependencyFailure:
            refused += 1
            assert everything(flow) == before
        else:
            twin.add(*items, **how)
        if len(flow) > 1:
            u, v = chance.sample(list(flow), 2)
            before = everything(flow)
            try:
                flow.link(u, v)
            except DependencyFailure:
                refused += 1
                assert everything(flow) == before
            else:
                twin.link(u, v)
        assert everything(flow) == everything(twin)
        assert_in_order(flow)
    assert refused


# -- graph flow: explicit links ---------------------------------------------------------------------------------------


def test_a_link_lets_an_item_come_after_another() -> None:
    a, b, c = step("a"), step("b"), step("c")
    flow = graph_flow.Flow("flow").add(a, b, c)
    assert flow.link(c, a) is flow
    assert names(flow).index("c") < names(flow).index("a")
    assert list(flow.iter_links()) == [(c, a, {"manual": True})]


def test_a_link_keeps_the_reasons_of_one_that_was_inferred() -> None:
    a, b = step("a", "", "x"), step("b", "x")
    flow = graph_flow.Flow("flow").add(a, b).link(a, b)
    assert list(flow.iter_links()) == [(a, b, {"manual": True, "reasons": {"x"}})]


def test_a_link_settles_which_of_two_provides() -> None:
    flow = graph_flow.Flow("flow")
    a, b, c = step("a", "", "x"), step("b", "", "x"), step("c", "x")
    flow.add(a, b).add(c, resolve_requires=False)
    flow.link(b, c)
    flow.add(step("d", "", "x"))
    assert links(flow) == [("b", "c")]


@pytest.mark.parametrize(
    "given, depth",
    [(None, Depth.ALL), ("flow", Depth.FLOW), ("Neighbors", Depth.NEIGHBORS), (Depth.ATOM, Depth.ATOM)],
)
def test_a_decider_stands_on_its_link_with_its_depth(given: Any, depth: Depth) -> None:
    def decide(history: Any) -> bool:
        return True

    a, b = step("a"), step("b")
    flow = graph_flow.Flow("flow").add(a, b)
    flow.link(a, b, decider=decide, decider_depth=given)
    assert [data for _item, _later, data in flow.iter_links()] == [
        {"manual": True, "decider": decide, "decider_depth": depth}
    ]


def test_linking_again_without_a_decider_keeps_the_first() -> None:
    a, b = step("a"), step("b")
    flow = graph_flow.Flow("flow").add(a, b)
    flow.link(a, b, decider=bool).link(a, b)
    assert [data["decider"] for _item, _later, data in flow.iter_links()] == [bool]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"decider": "yes"}, "must be callable"),
        ({"decider_depth": "ALL"}, "without a decider"),
        ({"decider": bool, "decider_depth": "far"}, "depth is one of ALL, FLOW, NEIGHBORS, ATOM, not 'far'"),
    ],
)
def test_a_wrong_decider_is_refused_and_nothing_is_linked(options: Any, message: str) -> None:
    a, b = step("a"), step("b")
    flow = graph_flow.Flow("flow").add(a, b)
    before = everything(flow)
    with pytest.raises(DefinitionError, match=message):
        flow.link(b, a, **options)
    assert everything(flow) == before


def test_items_that_are_not_in_the_flow_cannot_be_linked() -> None:
    a, b = step("a"), step("b")
    flow = graph_flow.Flow("flow").add(a)
    for pair in ((a, b), (b, a)):
        with pytest.raises(DefinitionError, match="not found to link"):
            flow.link(*pair)
    assert list(flow) == [a]


def test_a_link_that_makes_a_cycle_is_refused() -> None:
    a, b, c = step("a"), step("b"), step("c")
    flow = graph_flow.Flow("flow")
    flow.add(c, b, a)
    flow.link(a, b).link(b, c)
    before = everything(flow)
    for pair in ((c, a), (b, a), (a, a)):
        with pytest.raises(DependencyFailure, match="is a cycle"):
            flow.link(*pair)
        assert everything(flow) == before


# -- targeted flow ----------------------------------------------------------------------------------------------------


def targeted() -> tuple[graph_flow.TargetedFlow, dict[str, task.Task]]:
    made = {
        "a": step("a", "in", "x"),
        "b": step("b", "x", "y"),
        "c": step("c", "y", "z"),
        "d": step("d", "x other", "w"),
    }
    flow = graph_flow.TargetedFlow("flow")
    flow.add(*made.values())
    return flow, made


def test_without_a_target_all_is_run() -> None:
    flow, _made = targeted()
    assert names(flow) == ["a", "b", "c", "d"]
    assert flow.requires == {"in", "other"}


def test_only_the_target_and_what_it_needs_is_run() -> None:
    flow, made = targeted()
    flow.set_target(made["b"])
    assert names(flow) == ["a", "b"]
    assert links(flow) == [("a", "b")]
    assert len(flow) == 2
    assert flow.requires == {"in"}
    assert flow.provides == {"x", "y"}
    assert sorted(compile(flow).index) == ["a", "b"]


def test_the_target_can_be_changed_and_taken_back() -> None:
    flow, made = targeted()
    whole = everything(flow)
    flow.set_target(made["b"])
    flow.set_target(made["d"])
    assert names(flow) == ["a", "d"]
    flow.reset_target()
    assert everything(flow) == whole


def test_what_is_added_and_needed_after_the_target_was_set_is_run_too() -> None:
    flow, made = targeted()
    flow.set_target(made["b"])
    flow.add(step("before", "", "in"), step("aside"))
    assert names(flow) == ["before", "a", "b"]


def test_what_is_not_in_the_flow_cannot_be_its_target() -> None:
    flow, made = targeted()
    flow.set_target(made["b"])
    with pytest.raises(DefinitionError, match="not found in flow"):
        flow.set_target(step("b"))
    assert names(flow) == ["a", "b"]


def test_items_outside_the_target_still_count_when_others_are_added() -> None:
    flow, made = targeted()
    flow.set_target(made["a"])
    flow.add(made["c"], step("e", "z"))
    flow.reset_target()
    assert ("c", "e") in links(flow)
    assert len(flow) == 5
