# SPDX-License-Identifier: Apache-2.0
"""What a plan says: who can take whose values, in which order nodes are numbered, what is missing."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pluggableflow import retry, task
from pluggableflow.compiler import compile
from pluggableflow.flow import Depth, Flow
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow
from pluggableflow.plan import END, RETRY, START, TASK, Link, Plan

Linear, Unordered, Graph = linear_flow.Flow, unordered_flow.Flow, graph_flow.Flow
PATTERNS = pytest.mark.parametrize("pattern", [Linear, Unordered, Graph], ids=["linear", "unordered", "graph"])


def step(name: str, requires: str = "", provides: str = "", **options: Any) -> task.Task:
    return task.FunctorTask(
        lambda **kwargs: None, name=name, requires=requires.split(), provides=tuple(provides.split()), **options
    )


def maybe(name: str, provides: str = "") -> task.Task:
    """A task that takes x if there is one."""
    return task.FunctorTask(lambda x=None: None, name=name, provides=tuple(provides.split()))


def again(name: str, requires: str = "", provides: str | None = None) -> retry.Retry:
    return retry.Times(3, name=name, requires=requires.split(), provides=provides)


def sources(plan: Plan, atom: str, name: str = "x") -> list[str]:
    """The atoms that an input can come from, nearest first."""
    found = []
    for _parameter, needed, _optional, places in plan.execute_inputs[plan.index[atom]]:
        if needed == name:
            while places is not None:
                found.append(plan.names[places[0]])
                places = places[2]
    return found


# -- scoping ----------------------------------------------------------------------------------------------------------


def test_the_nearest_of_those_before_wins_and_the_others_follow() -> None:
    flow = Linear("flow").add(step("a", "", "x"), step("b", "x", "x"), step("c", "x"), step("d", "", "x"))
    plan = compile(flow)
    assert sources(plan, "b") == ["a"]
    assert sources(plan, "c") == ["b", "a"]


def test_what_nested_earlier_siblings_provide_is_seen_at_any_depth() -> None:
    nest = Linear("1").add(Unordered("2").add(Linear("3").add(step("deep", "", "x"))), Graph("4").add(step("g")))
    plan = compile(Linear("flow").add(nest, step("after", "x"), Linear("5").add(Unordered("6").add(step("in", "x")))))
    assert sources(plan, "after") == ["deep"]
    assert sources(plan, "in") == ["deep"]


def test_later_siblings_are_never_seen() -> None:
    inner = Linear("inner").add(step("a", "x"))
    plan = compile(Linear("flow").add(inner, step("b", "", "x")))
    assert sources(plan, "a") == []


def test_a_task_does_not_see_itself() -> None:
    assert sources(compile(Linear("flow").add(step("a", "x", "x"))), "a") == []


@PATTERNS
def test_items_see_their_own_retry_and_those_around_nearest_first(pattern: type[Flow]) -> None:
    inner = pattern("inner", retry=again("near", "x", "x")).add(step("a", "x"))
    middle = pattern("middle").add(inner)
    outer = pattern("outer", retry=again("far", "w", "x")).add(middle)
    plan = compile(Linear("flow").add(step("before", "", "x w"), outer))
    assert sources(plan, "a") == ["near", "far", "before"]
    assert sources(plan, "near") == ["far", "before"]
    assert sources(plan, "far", "w") == ["before"]


@PATTERNS
def test_what_the_retry_of_a_flow_provides_is_seen_after_it_but_not_beside_it(pattern: type[Flow]) -> None:
    inner = pattern("inner", retry=again("r", provides="x")).add(step("a"))
    flow = Linear("flow").add(Unordered("both").add(inner, step("beside", "x")), step("after", "x"))
    plan = compile(flow)
    assert sources(plan, "after") == ["r"]
    assert sources(plan, "beside") == []


@PATTERNS
def test_unordered_siblings_never_see_each_other_at_any_depth(pattern: type[Flow]) -> None:
    left = pattern("left").add(step("a", "", "x"))
    right = pattern("right", retry=again("r", "x")).add(step("b", "x"))
    beside = Unordered("beside").add(step("c", "", "x"), left, right, step("d", "x"))
    plan = compile(Linear("flow").add(beside, step("after", "x")))
    for name in ("b", "r", "d"):
        assert sources(plan, name) == []
    assert sorted(sources(plan, "after")) == ["a", "c"]


@PATTERNS
def test_unordered_siblings_see_what_comes_before_their_flow(pattern: type[Flow]) -> None:
    beside = Unordered("beside").add(step("a", "x", "x"), pattern("inner").add(step("b", "x", "x")), step("c", "x"))
    plan = compile(Linear("flow").add(step("before", "", "x"), beside))
    for name in ("a", "b", "c"):
        assert sources(plan, name) == ["before"]


def test_graph_items_see_their_ancestors_but_no_others() -> None:
    flow = Graph("flow")
    a, b, c, d = step("a", "", "y"), step("b", "y", "z"), maybe("c"), step("d", "", "x")
    flow.add(a, b, c, d, step("e", "z y", "w"))
    plan = compile(flow)
    assert sources(plan, "e", "z") == ["b"]
    assert sources(plan, "e", "y") == ["a"]
    assert sources(plan, "c") == []
    flow.link(d, a).link(b, c)
    assert sources(compile(flow), "c") == ["d"]  # through a and b


def test_ancestors_in_a_graph_are_nearer_than_what_is_around_it() -> None:
    graph = Graph("graph", retry=again("r", "x")).add(step("a", "", "y"), Linear("inner").add(step("b", "y x")))
    plan = compile(Linear("flow").add(step("y before", "", "y"), step("x before", "", "x"), graph))
    assert sources(plan, "b", "y") == ["a", "y before"]
    assert sources(plan, "b", "x") == ["x before"]
    assert sources(plan, "r", "x") == ["x before"]


def test_what_nested_flows_have_come_to_need_since_they_were_added_is_linked() -> None:
    inner, provider = Linear("inner"), Linear("provider")
    graph = Graph("graph").add(inner, provider)
    inner.add(step("b", "x"))
    provider.add(step("a", "", "x"))
    plan = compile(graph)
    assert sources(plan, "b") == ["a"]
    assert plan.index["a"] < plan.index["b"]


@pytest.mark.parametrize("provider", [step("a", "", "x"), Linear("provider").add(step("a", "", "x"))])
def test_a_nested_flow_that_was_added_without_resolving_what_it_requires_stays_unlinked(provider: Any) -> None:
    graph = Graph("graph").add(provider)
    graph.add(Linear("inner").add(step("b", "x")), resolve_requires=False)
    plan = compile(graph)
    assert sources(plan, "b") == []
    assert plan.predecessors[plan.flow_of[plan.index["b"]]] == (0,)


@pytest.mark.parametrize("consumer", [step("b", "x"), Linear("consumer").add(step("b", "x"))])
def test_a_nested_flow_that_was_added_without_resolving_what_lacks_its_outputs_stays_unlinked(consumer: Any) -> None:
    graph = Graph("graph").add(consumer)
    graph.add(Linear("inner").add(step("a", "", "x")), resolve_existing=False)
    assert sources(compile(graph), "b") == []


def test_only_what_an_unlinked_nested_flow_has_come_to_need_since_is_linked() -> None:
    inner = Linear("inner").add(step("b", "x"))
    graph = Graph("graph").add(step("x", "", "x"), step("y", "", "y"))
    graph.add(inner, resolve_requires=False)
    inner.add(step("c", "x y"))
    plan = compile(graph)
    assert sources(plan, "c", "y") == ["y"]
    assert sources(plan, "c") == sources(plan, "b") == []


def test_only_what_an_unlinked_nested_flow_has_come_to_offer_since_is_linked() -> None:
    inner = Linear("inner").add(step("a", "", "x"))
    graph = Graph("graph").add(step("b", "x"), step("c", "y"))
    graph.add(inner, resolve_existing=False)
    inner.add(step("d", "", "y"))
    plan = compile(graph)
    assert sources(plan, "c", "y") == ["d"]
    assert sources(plan, "b") == []


def test_an_item_that_was_left_unlinked_is_linked_from_the_nested_flow_that_offers_next() -> None:
    inner = Linear("inner")
    graph = Graph("graph").add(inner, step("b", "x"))
    graph.add(step("a", "", "x"), resolve_existing=False)
    inner.add(step("c", "", "x"))
    assert sources(compile(graph), "b") == ["c"]


def test_what_the_target_of_a_graph_leaves_out_is_not_linked() -> None:
    a, between, wanted = step("a", "", "x"), step("between"), Linear("wanted")
    graph = graph_flow.TargetedFlow("graph")
    graph.add(step("other", "", "x"), a, between, wanted)
    graph.link(a, between).link(between, wanted)
    graph.set_target(wanted)
    wanted.add(step("b", "x"))
    assert sources(compile(graph), "b") == ["a"]


def test_what_the_target_of_a_nested_flow_leaves_out_is_not_linked() -> None:
    inner, kept, consumer = graph_flow.TargetedFlow("inner"), step("kept"), Linear("consumer")
    inner.add(kept, step("left out", "", "x"))
    graph = Graph("graph").add(inner, step("a", "", "x"), consumer)
    inner.set_target(kept)
    consumer.add(step("b", "x"))
    assert sources(compile(graph), "b") == ["a"]


def test_what_the_retry_of_a_graph_provides_is_not_taken_from_a_nested_flow() -> None:
    provider, consumer = Linear("provider").add(step("a", "", "x")), Linear("consumer").add(step("b", "x"))
    plan = compile(Graph("graph", retry=again("r", provides="x")).add(consumer, provider))
    assert sources(plan, "b") == ["r"]
    assert plan.predecessors[plan.flow_of[plan.index["b"]]] == (plan.index["r"],)


def test_the_end_of_a_graph_comes_after_those_alone_that_nothing_comes_after() -> None:
    plan = compile(Graph("graph").add(step("a", "", "x"), step("b", "x", "y"), step("c", "x"), step("d", "y")))
    assert sorted(plan.names[node] for node in plan.predecessors[plan.end_of[0]]) == ["c", "d"]
    assert plan.predecessors[plan.index["a"]] == (0,)


def test_a_value_is_a_part_of_what_its_provider_returns() -> None:
    parts = task.FunctorTask(lambda: None, name="a", provides=("x", "y"))
    keys = task.FunctorTask(lambda: None, name="b", provides={"k"})
    whole = task.FunctorTask(lambda: None, name="c", provides="z")
    plan = compile(Linear("flow").add(parts, keys, whole, step("d", "x y k z")))
    found = {name: places for _parameter, name, _optional, places in plan.execute_inputs[plan.index["d"]]}
    assert found == {"x": (1, 0, None), "y": (1, 1, None), "k": (2, "k", None), "z": (3, None, None)}
    assert plan.providers == {"x": ((1, 0),), "y": ((1, 1),), "k": ((2, "k"),), "z": ((3, None),)}


# -- random flows -----------------------------------------------------------------------------------------------------


def random_flow(chance: random.Random, count: list[int], depth: int, graphs: bool) -> Flow:
    count[0] += 1
    at = count[0]
    names = [] if graphs else ["x", "y", "z"]  # with graphs: links alone
    control = None
    if chance.random() < 0.4:
        requires = chance.sample(names, min(len(names), chance.randint(0, 2)))
        control = again(f"r{at}", " ".join(requires), chance.choice([None, *names]))
    if graphs and chance.random() < 0.4:
        graph = Graph(f"f{at}", retry=control)
        for _ in range(chance.randint(0, 4)):
            nested = depth and chance.random() < 0.5
            graph.add(random_flow(chance, count, depth - 1, graphs) if nested else step(f"t{at}-{len(graph)}"))
        items = list(graph)
        for later in range(1, len(items)):
            if chance.random() < 0.6:
                graph.link(items[chance.randrange(later)], items[later])
        return graph
    flow: Flow = chance.choice([Linear, Unordered])(f"f{at}", retry=control)
    for _ in range(chance.randint(0, 4)):
        if depth and chance.random() < 0.5:
            flow.add(random_flow(chance, count, depth - 1, graphs))
        else:
            requires = chance.sample(names, min(len(names), chance.randint(0, 3)))
            provides = chance.sample(names, min(len(names), chance.randint(0, 2)))
            flow.add(step(f"t{at}-{len(flow)}", " ".join(requires), " ".join(provides)))
    return flow


Environment = dict[str, list[str]]


def seen(environment: Environment, offers: list[tuple[str, str]]) -> Environment:
    """What can be taken, with what has been provided since on top."""
    result = {name: list(each) for name, each in environment.items()}
    for name, provider in offers:
        result.setdefault(name, []).insert(0, provider)
    return result


def visible(flow: Flow, environment: Environment, found: dict[str, Environment]) -> list[tuple[str, str]]:
    """The rules of scoping once more, as simply as they can be said."""
    offers: list[tuple[str, str]] = []
    if flow.retry is not None:
        found[flow.retry.name] = environment
        offers += [(name, flow.retry.name) for name in flow.retry.provides]
        environment = seen(environment, offers)
    for item in flow:
        if isinstance(item, Flow):
            added = visible(item, environment, found)
        else:
            found[item.name] = environment
            added = [(name, item.name) for name in item.provides]
        offers += added
        if isinstance(flow, Linear):
            environment = seen(environment, added)
    return offers


@pytest.mark.parametrize("seed", range(100))
def test_each_input_can_come_from_where_the_rules_say(seed: int) -> None:
    flow = random_flow(random.Random(seed), [0], 4, graphs=False)
    expected: dict[str, Environment] = {}
    visible(flow, {}, expected)
    plan = compile(flow)
    assert plan.index.keys() == expected.keys()
    missing = set()
    for atom, environment in expected.items():
        for _parameter, name, optional, _places in plan.execute_inputs[plan.index[atom]]:
            assert sources(plan, atom, name) == environment.get(name, [])
            if not optional and not environment.get(name):
                missing.add((atom, name))
    assert {(each.atom, each.name) for each in plan.missing([])} == missing


def assert_well_numbered(flow: Flow, plan: Plan) -> None:
    at = 0

    def node(kind: int, name: str, above: int, control: int) -> int:
        nonlocal at
        assert (plan.kinds[at], plan.names[at]) == (kind, name)
        assert (plan.flow_of[at], plan.retry_of[at]) == (above, control)
        at += 1
        return at - 1

    def walk(inner: Flow, above: int, control: int) -> None:
        start = node(START, inner.name, above, control)
        own = control
        if inner.retry is not None:
            own = node(RETRY, inner.retry.name, start, control)
            assert plan.start_of_retry[own] == start
            assert plan.atoms[own] is inner.retry
        for item in inner:
            if isinstance(item, Flow):
                walk(item, start, own)
            else:
                assert plan.atoms[node(TASK, item.name, start, own)] is item
        assert node(END, inner.name, above, control) == plan.end_of[start]

    walk(flow, -1, -1)
    assert at == len(plan.kinds)


@pytest.mark.parametrize("seed", range(100))
def test_numbers_are_contiguous_for_each_flow_and_in_an_order_to_run(seed: int) -> None:
    flow = random_flow(random.Random(seed), [0], 4, graphs=True)
    plan = compile(flow)
    assert_well_numbered(flow, plan)
    for node, before in enumerate(plan.predecessors):
        assert all(each < node for each in before)
        assert len(set(before)) == len(before)
        assert bool(before) == (node != 0)
        assert all(node in plan.successors[each] for each in before)
    assert sum(map(len, plan.predecessors)) == sum(map(len, plan.successors))
    for start, end in plan.end_of.items():
        inside = range(start, end + 1)
        assert all(each in inside for node in inside[1:] for each in plan.predecessors[node])
        assert all(each in inside for node in inside[:-1] for each in plan.successors[node])
        assert all(plan.successors[node] for node in inside[:-1])  # all of a flow is done before its end


def test_a_plan_becomes_a_networkx_graph() -> None:
    graph = compile(Linear("flow", retry=again("r")).add(step("a"))).to_networkx()
    assert graph.name == "flow"
    kinds = [(data["name"], data["kind"]) for _node, data in graph.nodes(data=True)]
    assert kinds == [("flow", "START"), ("r", "RETRY"), ("a", "TASK"), ("flow", "END")]
    assert list(graph.edges) == [(0, 1), (1, 2), (2, 3)]


def test_deciders_stand_at_the_beginning_of_their_target_and_name_the_end_of_their_source() -> None:
    first, second, third = Linear("first").add(step("a")), step("b"), Linear("third").add(step("c"))
    flow = Graph("flow")
    flow.add(first, second, third)
    flow.link(first, second, decider=bool).link(second, third, decider=any, decider_depth="flow")
    plan = compile(flow)
    ends = {plan.names[start]: (start, end) for start, end in plan.end_of.items()}
    b = plan.index["b"]
    assert plan.deciders == {
        b: (Link(ends["first"][1], bool, Depth.ALL),),
        ends["third"][0]: (Link(b, any, Depth.FLOW),),
    }


# -- what is missing --------------------------------------------------------------------------------------------------


def missing(flow: Flow, *given: str) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [(each.atom, each.argument, each.name, each.candidates) for each in compile(flow).missing(given)]


def test_all_missing_inputs_are_told_in_the_order_of_the_flow() -> None:
    inner = Unordered("inner", retry=again("r", "z")).add(step("b", "x"))
    flow = Linear("flow").add(step("a", "x y"), inner)
    assert sorted(missing(flow)[:2]) == [("a", "x", "x", ()), ("a", "y", "y", ())]
    assert missing(flow)[2:] == [("r", "z", "z", ()), ("b", "x", "x", ())]


def test_what_is_given_injected_optional_or_provided_is_not_missing() -> None:
    flow = Linear("flow").add(step("a", "x y", inject={"y": 1}), maybe("b"), step("c", "", "z"), step("d", "z y"))
    assert missing(flow, "x") == [("d", "y", "y", ())]
    assert missing(flow, "x", "y") == []


def test_an_input_is_looked_up_under_the_name_it_is_bound_to() -> None:
    flow = Linear("flow").add(task.FunctorTask(lambda path: None, name="a", rebind={"path": "home"}))
    assert missing(flow) == [("a", "path", "home", ())]
    assert missing(flow, "path") == [("a", "path", "home", ())]
    assert missing(flow, "home") == []


def test_providers_that_do_not_come_before_are_candidates_but_not_the_atom_itself() -> None:
    beside = Unordered("beside").add(step("a", "x", "x"), step("b", "", "x"))
    flow = Linear("flow").add(beside, step("c", "", "x"))
    assert missing(flow) == [("a", "x", "x", ("b", "c"))]
    (told,) = compile(flow).missing([])
    assert str(told) == "'a' needs 'x', which only 'b', 'c' provides, and that does not come before it"


def test_what_only_revert_needs_is_missing_too_and_each_name_is_told_once() -> None:
    both = task.FunctorTask(lambda x: None, name="a", revert=lambda x, y, result, flow_failures: None)
    assert missing(Linear("flow").add(both)) == [("a", "x", "x", ()), ("a", "y", "y", ())]


def test_what_a_retry_needs_to_decide_is_missing_too() -> None:
    class Asks(retry.Retry):
        def execute(self, history: Any) -> None:
            return None

        def on_failure(self, limit: Any, history: Any) -> retry.Decision:  # type: ignore[override]
            return retry.REVERT

    flow = Linear("flow", retry=Asks("r")).add(step("limiter", "", "limit"))
    assert missing(flow) == [("r", "limit", "limit", ("limiter",))]
    assert missing(flow, "limit") == []
    assert missing(Linear("outer").add(step("before", "", "limit"), Linear("flow", retry=Asks("s")))) == []
    graph = Graph("graph")
    graph.add(step("before", "", "limit"), Linear("flow", retry=Asks("t")))
    graph.link(*graph)
    assert missing(graph) == []
