# SPDX-License-Identifier: Apache-2.0
"""Flow to plan: numbers the nodes, links them, and finds out where each input can come from.

One walk with an explicit stack, so nesting may be as deep as memory allows. The environment of a node (name to
places) is a dict of linked lists that share their tails: a linear flow adds to it item by item; the items of other
patterns see it as it was before the flow, and their additions are taken back and put in together at the flow's end.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

from pluggableflow.atom import Atom, Input
from pluggableflow.exceptions import (
    AmbiguousDependency,
    CompilationFailure,
    DefinitionError,
    DependencyFailure,
    Duplicate,
)
from pluggableflow.flow import Depth, Flow, Item
from pluggableflow.patterns import graph_flow, linear_flow
from pluggableflow.plan import END, RETRY, START, TASK, BoundInput, Link, Places, Plan
from pluggableflow.retry import Retry

_NO_INPUTS: tuple[BoundInput, ...] = ()
_Offers = list[tuple[str, int, Any]]


def compile(flow: Flow) -> Plan:
    """The plan of a flow.

    :raises CompilationFailure: lists every fault of the definition; missing inputs are found by ``Plan.missing``
    """
    return _Compiler(flow).plan()


class _Frame:
    """A flow that is being walked through."""

    __slots__ = ("flow", "start", "items", "ends", "undo", "offers", "graph", "previous", "leaf")

    def __init__(self, flow: Flow, start: int) -> None:
        self.flow = flow
        self.start = start
        self.items: Iterator[Item] = iter(())
        self.ends: dict[int, int] = {}  # id of an item that is done to the node after which others may come
        self.undo: list[tuple[str, Places]] = []
        self.offers: _Offers = []
        self.leaf: dict[int, None] = {}
        self.graph: _Graph | None = None
        self.previous = start


class _Compiler:
    def __init__(self, top: Flow) -> None:
        self.top = top
        self.faults: list[DefinitionError] = []
        self.kinds = bytearray()
        self.names: list[str] = []
        self.atoms: list[Atom | None] = []
        self.predecessors: list[tuple[int, ...]] = []
        self.retry_of = array("q")
        self.flow_of = array("q")
        self.end_of: dict[int, int] = {}
        self.start_of_retry: dict[int, int] = {}
        self.deciders: dict[int, list[Link]] = {}
        self.execute_inputs: list[tuple[BoundInput, ...]] = []
        self.revert_inputs: list[tuple[BoundInput, ...]] = []
        self.on_failure_inputs: dict[int, tuple[BoundInput, ...]] = {}
        self.providers: dict[str, tuple[tuple[int, Any], ...]] = {}
        self.shared: dict[str, list[tuple[int, Any]]] = {}  # names that several provide
        self.index: dict[str, int] = {}
        self.places: dict[str, Places] = {}
        self.retries: list[int] = [-1]
        self.frames: list[_Frame] = []
        self.summaries: dict[int, tuple[frozenset[str], frozenset[str], frozenset[str]]] = {}

    def plan(self) -> Plan:
        if self._is_tree():
            self._summarize()
            self._walk()
        if self.faults:
            raise CompilationFailure(self.top.name, self.faults)
        return Plan(
            flow_name=self.top.name,
            kinds=bytes(self.kinds),
            names=tuple(self.names),
            atoms=tuple(self.atoms),
            successors=self._successors(),
            predecessors=tuple(self.predecessors),
            retry_of=self.retry_of,
            flow_of=self.flow_of,
            end_of=self.end_of,
            start_of_retry=self.start_of_retry,
            deciders={target: tuple(links) for target, links in self.deciders.items()},
            execute_inputs=tuple(self.execute_inputs),
            revert_inputs=tuple(self.revert_inputs),
            on_failure_inputs=self.on_failure_inputs,
            providers=self.providers | {name: tuple(each) for name, each in self.shared.items()},
            index=self.index,
        )

    # -- before the walk ------------------------------------------------------------------------------------------

    def _is_tree(self) -> bool:
        """Whether every flow and task stands in one place; if not, walking on could have no end."""
        seen: dict[int, str] = {id(self.top): ""}
        stack = [self.top]
        above: dict[int, Flow] = {}
        fine = True
        while stack:
            flow = stack.pop()
            for item in (flow.retry, *flow) if flow.retry is not None else flow:
                if id(item) in seen:
                    fine = False
                    self.faults.append(self._twice(item, flow, above, seen[id(item)]))
                    continue
                seen[id(item)] = flow.name
                if isinstance(item, Flow):
                    above[id(item)] = flow
                    stack.append(item)
        return fine

    @staticmethod
    def _twice(item: Item, flow: Flow, above: dict[int, Flow], first: str) -> DefinitionError:
        at: Flow | None = flow
        while at is not None:
            if at is item:
                return DefinitionError(f"flow {item.name!r} contains itself, through flow {flow.name!r}")
            at = above.get(id(at))
        return DefinitionError(f"{item.name!r} stands in flow {first!r} and in flow {flow.name!r}; make a second one")

    def _summarize(self) -> None:
        """Requires, provides and all names used, of each flow inside a graph flow, from the inside out."""
        order: list[Flow] = [self.top]
        for flow in order:
            order.extend(item for item in flow if isinstance(item, Flow))
        if not any(isinstance(flow, graph_flow.Flow) for flow in order) or len(order) == 1:
            return
        for flow in reversed(order):
            requires: set[str] = set()
            provides: set[str] = set()
            used: set[str] = set()
            if flow.retry is not None:
                requires |= flow.retry.requires
                provides |= flow.retry.provides
                used |= _used(flow.retry)
            satisfied = set(provides)
            for item in flow:
                if isinstance(item, Flow):
                    needs, offers, uses = self.summaries[id(item)]
                else:
                    needs, offers, uses = item.requires, item.provides, _used(item)
                requires |= needs - satisfied
                provides |= offers
                used |= uses
                if flow._siblings_provide:
                    satisfied |= offers
            self.summaries[id(flow)] = frozenset(requires), frozenset(provides), frozenset(used)

    # -- the walk -------------------------------------------------------------------------------------------------

    def _walk(self) -> None:
        self._open(self.top)
        while self.frames:
            frame = self.frames[-1]
            for item in frame.items:
                self._before_item(frame, item)
                if isinstance(item, Flow):
                    self._open(item)
                    break
                self._task(frame, item)
            else:
                self._close(frame)

    def _node(self, kind: int, name: str, atom: Atom | None) -> int:
        node = len(self.kinds)
        self.kinds.append(kind)
        self.names.append(name)
        self.atoms.append(atom)
        self.predecessors.append(())
        self.retry_of.append(self.retries[-1])
        self.flow_of.append(self.frames[-1].start if self.frames else -1)
        self.execute_inputs.append(_NO_INPUTS)
        self.revert_inputs.append(_NO_INPUTS)
        return node

    def _successors(self) -> tuple[tuple[int, ...], ...]:
        found: list[tuple[int, ...] | list[int]] = [()] * len(self.predecessors)
        for node, before in enumerate(self.predecessors):
            for each in before:
                known = found[each]
                if not known:
                    found[each] = (node,)  # most have one: no list is made for those
                elif isinstance(known, tuple):
                    found[each] = [*known, node]
                else:
                    known.append(node)
        return tuple([each if isinstance(each, tuple) else tuple(each) for each in found])

    def _open(self, flow: Flow) -> None:
        outer = self.frames[-1] if self.frames else None
        start = self._node(START, flow.name, None)
        if outer is not None:
            self._connect(outer, flow, start)
        frame = _Frame(flow, start)
        self.frames.append(frame)
        retry = flow.retry
        if retry is not None:
            node = self._node(RETRY, retry.name, retry)
            self.start_of_retry[node] = start
            self._bind(node, retry)
            self.on_failure_inputs[node] = self._bound(retry.on_failure_inputs)
            self.predecessors[node] = (start,)
            frame.previous = node
            self._offer(frame, node, retry)
            self.retries.append(node)
        else:
            self.retries.append(self.retries[-1])
        if isinstance(flow, graph_flow.Flow):
            frame.graph = _Graph(flow, self.summaries, self.faults)
            frame.items = iter(frame.graph.order)
        else:
            frame.items = iter(flow)

    def _before_item(self, frame: _Frame, item: Item) -> None:
        if frame.graph is not None:
            self._show_ancestors(frame, frame.graph, item)

    def _show_ancestors(self, frame: _Frame, graph: _Graph, item: Item) -> None:
        """Put what the ancestors of a node of a graph flow provide into the environment."""
        if isinstance(item, Flow):
            names = self.summaries[id(item)][2]
        else:
            names = frozenset([name for _parameter, name, _optional in (*item.execute_inputs, *item.revert_inputs)])
        before = graph.before[item]
        for name in names:
            offered = graph.offered.get(name)
            if not offered:
                continue
            if len(offered) == 1 and graph.order[offered[0][0]] in before:
                _source, node, part = offered[0]
                places = self.places.get(name)
                frame.undo.append((name, places))
                self.places[name] = (node, part, places)
                continue
            every = {position: graph.order[position] for position, _node, _part in offered}
            sources = [position for position, source in every.items() if graph.precedes(source, item)]
            if len(sources) > 1:
                which = ", ".join(repr(every[position].name) for position in sources)
                self.faults.append(
                    AmbiguousDependency(f"flow {frame.flow.name!r}: {item.name!r} gets {name!r} from {which}")
                )
            if sources:
                frame.undo.append((name, self.places.get(name)))
                for position, node, part in offered:
                    if position == sources[0]:
                        self.places[name] = (node, part, self.places.get(name))

    def _task(self, frame: _Frame, item: Item) -> None:
        node = self._node(TASK, item.name, item)
        self._connect(frame, item, node)
        self._bind(node, item)
        offers = self._register(node, item)
        self._done(frame, item, node, offers)

    def _connect(self, frame: _Frame, item: Item, node: int) -> None:
        """Let a node come after what its flow says."""
        graph = frame.graph
        if graph is None:
            self.predecessors[node] = (frame.previous,)
            return
        before = graph.before.get(item)
        if not before:
            self.predecessors[node] = (frame.previous,)
            return
        self.predecessors[node] = tuple([frame.ends[id(source)] for source in before])
        for end, data in zip(self.predecessors[node], before.values(), strict=True):
            frame.leaf.pop(end, None)
            _manual, _reasons, decider, depth = data
            if decider is not None:
                self.deciders.setdefault(node, []).append(Link(end, decider, depth or Depth.ALL))

    def _done(self, frame: _Frame, item: Item, node: int, offers: _Offers) -> None:
        """An item is complete: what comes after it may see what it offers."""
        if frame.graph is not None:
            frame.ends[id(item)] = node
            frame.leaf[node] = None
            self._roll_back(frame)
            for name, provider, part in offers:
                offered = frame.graph.offered
                offered[name] = (*offered.get(name, ()), (frame.graph.at, provider, part))
            frame.graph.at += 1
            frame.offers += offers
        elif isinstance(frame.flow, linear_flow.Flow):
            frame.previous = node
            for name, provider, part in offers:
                self.places[name] = (provider, part, self.places.get(name))
            frame.offers += offers
        else:
            frame.leaf[node] = None
            frame.offers += offers

    def _roll_back(self, frame: _Frame) -> None:
        while frame.undo:
            name, places = frame.undo.pop()
            self.places[name] = places

    def _offer(self, frame: _Frame, node: int, retry: Retry) -> None:
        for name, provider, part in self._register(node, retry):
            self.places[name] = (provider, part, self.places.get(name))
            frame.offers.append((name, provider, part))

    def _close(self, frame: _Frame) -> None:
        self.frames.pop()
        self.retries.pop()
        flow = frame.flow
        end = self._node(END, flow.name, None)
        self.end_of[frame.start] = end
        if isinstance(flow, linear_flow.Flow) or not frame.leaf:
            self.predecessors[end] = (frame.previous,)
        else:
            self.predecessors[end] = tuple(frame.leaf)
        if not self.frames:
            return
        outer = self.frames[-1]
        # What this flow's items offered stands on top of the environment: all of it after a linear flow, what the
        # retry offered after any other. The flow around decides who sees it from here on.
        if isinstance(flow, linear_flow.Flow):
            if isinstance(outer.flow, linear_flow.Flow):
                outer.previous = end
                outer.offers += frame.offers
                return
            shown = frame.offers
        else:
            shown = frame.offers[: len(flow.retry.save_as)] if flow.retry is not None else []
        for name, _provider, _part in reversed(shown):
            places = self.places[name]
            assert places is not None
            self.places[name] = places[2]
        self._done(outer, flow, end, frame.offers)

    # -- inputs and outputs ---------------------------------------------------------------------------------------

    def _register(self, node: int, atom: Atom) -> _Offers:
        if atom.name in self.index:
            first = self.index[atom.name]
            flows = [self.names[self.flow_of[each]] for each in (first, node)]
            self.faults.append(
                Duplicate(f"two atoms are named {atom.name!r}, in flow {flows[0]!r} and in flow {flows[1]!r}")
            )
        else:
            self.index[atom.name] = node
        if not atom.save_as:
            return []
        offers = [(name, node, part) for name, part in atom.save_as.items()]
        for name, _node, part in offers:
            if name not in self.providers:
                self.providers[name] = ((node, part),)
            else:
                self.shared.setdefault(name, list(self.providers[name])).append((node, part))
        return offers

    def _bind(self, node: int, atom: Atom) -> None:
        inputs = atom.execute_inputs
        if inputs:
            self.execute_inputs[node] = self._bound(inputs)
        reverse = atom.revert_inputs
        if reverse:
            self.revert_inputs[node] = self.execute_inputs[node] if reverse == inputs else self._bound(reverse)

    def _bound(self, inputs: tuple[Input, ...]) -> tuple[BoundInput, ...]:
        places = self.places
        return tuple([(parameter, name, optional, places.get(name)) for parameter, name, optional in inputs])


def _used(atom: Atom) -> frozenset[str]:
    names = {name for _parameter, name, _optional in (*atom.execute_inputs, *atom.revert_inputs)}
    if isinstance(atom, Retry):
        names |= {name for _parameter, name, _optional in atom.on_failure_inputs}
    return frozenset(names)


class _Graph:
    """The items of a graph flow in order, with the links that its nested flows have come to need since."""

    def __init__(
        self,
        flow: graph_flow.Flow,
        summaries: dict[int, tuple[frozenset[str], frozenset[str], frozenset[str]]],
        faults: list[DefinitionError],
    ) -> None:
        self.offered: dict[str, tuple[tuple[int, int, Any], ...]] = {}  # by position of the item in ``order``
        self.at = 0
        self._reached: dict[int, set[int]] = {}
        self.order: list[Item] = list(flow)
        kept = {id(item) for item in self.order}
        self.before: dict[Item, dict[Item, graph_flow.LinkData]] = {
            item: {source: data for source, data in flow._before[item].items() if id(source) in kept}
            if len(kept) < len(flow._before)
            else flow._before[item]
            for item in self.order
        }
        if any(isinstance(item, Flow) for item in self.order) and self._link_nested(flow, summaries, faults):
            self.order = self._sorted(flow, faults)

    def _link_nested(
        self,
        flow: graph_flow.Flow,
        summaries: dict[int, tuple[frozenset[str], frozenset[str], frozenset[str]]],
        faults: list[DefinitionError],
    ) -> bool:
        """Infer links for what nested flows require or provide now; returns whether there were any."""
        offers: dict[str, list[Item]] = {}
        for item in self.order:
            for name in summaries[id(item)][1] if isinstance(item, Flow) else item.provides:
                offers.setdefault(name, []).append(item)
        own = flow.retry.provides if flow.retry is not None else frozenset()
        inferred: list[tuple[Item, Item]] = []
        for item in self.order:
            needs = summaries[id(item)][0] if isinstance(item, Flow) else item.requires
            for name in sorted(needs - own):
                sources = [source for source in offers.get(name, ()) if source is not item]
                nested = isinstance(item, Flow) or any(isinstance(source, Flow) for source in sources)
                if not nested or any(source in self.before[item] for source in sources):
                    continue
                sources = [source for source in sources if not self.precedes(item, source)]
                if len(sources) > 1:
                    which = ", ".join(repr(source.name) for source in sources)
                    faults.append(
                        AmbiguousDependency(
                            f"flow {flow.name!r}: {item.name!r} requires {name!r}, which {which} provide"
                        )
                    )
                elif sources:
                    inferred.append((sources[0], item))
        if inferred:
            self.before = {each: dict(sources) for each, sources in self.before.items()}
            self._reached.clear()
            for source, item in inferred:
                self.before[item][source] = (False, (), None, None)
        return bool(inferred)

    def _sorted(self, flow: graph_flow.Flow, faults: list[DefinitionError]) -> list[Item]:
        waiting = {id(item): len(self.before[item]) for item in self.order}
        after: dict[int, list[Item]] = {}
        for item in self.order:
            for source in self.before[item]:
                after.setdefault(id(source), []).append(item)
        ordered = [item for item in self.order if not waiting[id(item)]]
        for item in ordered:
            for later in after.get(id(item), ()):
                waiting[id(later)] -= 1
                if not waiting[id(later)]:
                    ordered.append(later)
        if len(ordered) < len(self.order):
            stuck = ", ".join(repr(item.name) for item in self.order if waiting[id(item)])
            faults.append(DependencyFailure(f"flow {flow.name!r}: {stuck} need each other, so no order exists"))
            return []
        return ordered

    def precedes(self, source: Item, item: Item) -> bool:
        """Whether ``source`` comes before ``item``, directly or not."""
        before = self.before[item]
        if source in before:
            return True
        if not before:
            return False
        reached = self._reached.get(id(item))
        if reached is None:
            reached = set()
            stack = list(before)
            while stack:
                each = stack.pop()
                if id(each) not in reached:
                    reached.add(id(each))
                    stack.extend(self.before[each])
            self._reached[id(item)] = reached
        return id(source) in reached
