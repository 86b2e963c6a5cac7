# SPDX-License-Identifier: Apache-2.0
"""Flow to plan: numbers the nodes, links them, and finds out where each input can come from.

One walk with an explicit stack, so nesting may be as deep as memory allows. An item that stands in a second place is
a fault, and not walked again; the walk goes on, so that all faults are found. The environment of a node (name to
places) is a dict of linked lists that share their tails: a linear flow adds to it item by item; the items of other
patterns see it as it was before the flow, and their additions are taken back and put in together at the flow's end.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter
from typing import Any

from pluggableflow.atom import Atom, Input
from pluggableflow.exceptions import (
    AmbiguousDependency,
    CompilationFailure,
    DefinitionError,
    DependencyFailure,
    Duplicate,
    MissingDependencies,
)
from pluggableflow.flow import Depth, Flow, Item, needs_and_offers, summary, taken
from pluggableflow.patterns import graph_flow, linear_flow
from pluggableflow.plan import END, RETRY, START, TASK, BoundInput, Link, Places, Plan

_NO_INPUTS: tuple[BoundInput, ...] = ()


def compile(flow: Flow, given: Collection[str] | None = None) -> Plan:
    """The plan of a flow.

    :param given: names that the flow's store has; with it, inputs that nothing at all provides are listed with the
        other faults. Alone they are no fault of the flow, as they may still be given: ``Plan.missing`` finds them
    :raises CompilationFailure: lists every fault of the definition
    """
    return _Compiler(flow).plan(given)


class _Frame:
    """A flow that is being walked through."""

    __slots__ = ("flow", "start", "linear", "first_offer", "own", "items", "starts", "ends", "undo", "graph",
                 "previous", "leaf")  # fmt: skip

    def __init__(self, flow: Flow, start: int, first_offer: int) -> None:
        self.flow = flow
        self.start = start
        self.linear = isinstance(flow, linear_flow.Flow)
        self.first_offer = first_offer
        self.own: Collection[str] = ()  # what its retry offers
        self.items: Iterator[Item] = iter(())
        self.starts: list[int] = []  # first nodes of the items of a graph flow, as far as it is walked
        self.ends: dict[int, int] = {}  # id of an item that is done to the node after which others may come
        self.undo: list[tuple[str, Places]] = []
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
        self.providers: dict[str, tuple[tuple[int, Any], ...] | list[tuple[int, Any]]] = {}  # lists: several
        self.offers: list[tuple[str, int, Any]] = []  # of all nodes, in their order, so those of a flow are a range
        self.index: dict[str, int] = {}
        self.places: dict[str, Places] = {}
        self.retries: list[int] = [-1]
        self.frames: list[_Frame] = []
        self.stands_in: dict[int, str] = {id(top): ""}  # id of an item or retry to the name of the flow around it

    def plan(self, given: Collection[str] | None) -> Plan:
        self._walk()
        plan = Plan(
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
            providers={name: tuple(each) for name, each in self.providers.items()},
            index=self.index,
        )
        if self.faults:
            missing = [] if given is None else [each for each in plan.missing(given) if not each.candidates]
            if missing:
                self.faults.append(MissingDependencies(self.top.name, missing))
            raise CompilationFailure(self.top.name, self.faults)
        return plan

    # -- the walk -------------------------------------------------------------------------------------------------

    def _walk(self) -> None:
        self._open(self.top)
        while self.frames:
            frame = self.frames[-1]
            for item in frame.items:
                if frame.graph is not None:
                    self._show_ancestors(frame, frame.graph, item)
                    frame.starts.append(len(self.kinds))
                if not isinstance(item, Atom):
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
        frame = _Frame(flow, start, len(self.offers))
        self.frames.append(frame)
        retry = flow.retry
        if retry is not None and self._placed(retry, flow):
            node = self._node(RETRY, retry.name, retry)
            self.start_of_retry[node] = start
            self._bind(node, retry)
            self.on_failure_inputs[node] = self._bound(retry.on_failure_inputs)
            self.predecessors[node] = (start,)
            frame.previous = node
            frame.own = retry.save_as
            self._register(node, retry)
            self._show(frame.first_offer)
            self.retries.append(node)
        else:
            self.retries.append(self.retries[-1])
        items = [item for item in flow if self._placed(item, flow)]
        if isinstance(flow, graph_flow.Flow):
            if flow._as_added:
                summary(self.top)  # before those of flows inside, so that one that contains itself ends there
            frame.graph = _Graph(flow, items, self.faults)
            items = frame.graph.order
        frame.items = iter(items)
        if flow.time_limit_seconds is not None and flow is not self.top:
            self.faults.append(
                DefinitionError(
                    f"flow {flow.name!r} stands in another and has a time limit, which only the flow that an engine is"
                    " given can have; give it a retry with time_limit_seconds"
                )
            )

    def _placed(self, item: Item, flow: Flow) -> bool:
        """Give an item its place. It is a fault if it has one already; to walk it again could have no end."""
        first = self.stands_in.get(id(item))
        if first is None:
            self.stands_in[id(item)] = flow.name
            return True
        if any(frame.flow is item for frame in self.frames):
            fault = f"flow {item.name!r} contains itself, through flow {flow.name!r}"
        else:
            fault = f"{item.name!r} stands in flow {first!r} and in flow {flow.name!r}; make a second one"
        self.faults.append(DefinitionError(fault))
        return False

    def _show_ancestors(self, frame: _Frame, graph: _Graph, item: Item) -> None:
        """Put what the ancestors of a node of a graph flow provide into the environment."""
        before = graph.before[item]
        if not before:
            return
        starts = frame.starts
        for name in taken(item) if isinstance(item, Atom) else summary(item).takes:
            offered: Sequence[tuple[int, Any]] | None = self.providers.get(name)
            if offered is None or offered[-1][0] < starts[0]:
                continue  # nothing inside this flow provides it
            if len(offered) > 1:
                offered = self._offered_to(item, name, frame, graph, offered)
            else:
                source = graph.order[bisect_right(starts, offered[0][0]) - 1]
                if source not in before and not graph.precedes(source, item):
                    continue
            places = self.places.get(name)
            frame.undo.append((name, places))
            for node, part in offered:
                places = (node, part, places)
            self.places[name] = places

    def _offered_to(
        self, item: Item, name: str, frame: _Frame, graph: _Graph, offered: Sequence[tuple[int, Any]]
    ) -> list[tuple[int, Any]]:
        """Those of several that provide a name which lie in ancestors, nearest last; these must have an order."""
        found: dict[Item, list[tuple[int, Any]]] = {}
        for each in offered[bisect_left(offered, frame.starts[0], key=itemgetter(0)) :]:
            source = graph.order[bisect_right(frame.starts, each[0]) - 1]
            if graph.precedes(source, item):
                found.setdefault(source, []).append(each)
        sources = list(found)
        if not all(graph.precedes(source, later) for source, later in zip(sources, sources[1:], strict=False)):
            which = ", ".join(repr(source.name) for source in sources)
            self.faults.append(
                AmbiguousDependency(f"flow {frame.flow.name!r}: {item.name!r} gets {name!r} from {which}")
            )
        return [each for source in sources for each in found[source]]

    def _task(self, frame: _Frame, item: Item) -> None:
        node = self._node(TASK, item.name, item)
        self._connect(frame, item, node)
        self._bind(node, item)
        first_offer = len(self.offers)
        self._register(node, item)
        self._done(frame, item, node, first_offer)

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

    def _done(self, frame: _Frame, item: Item, node: int, first_offer: int) -> None:
        """An item is complete: what comes after it may see what it offers."""
        if frame.linear:
            frame.previous = node
            self._show(first_offer)
            return
        frame.leaf[node] = None
        if frame.graph is not None:
            frame.ends[id(item)] = node
            while frame.undo:
                name, places = frame.undo.pop()
                self.places[name] = places

    def _show(self, first_offer: int) -> None:
        for name, node, part in self.offers[first_offer:]:
            self.places[name] = (node, part, self.places.get(name))

    def _close(self, frame: _Frame) -> None:
        self.frames.pop()
        self.retries.pop()
        flow = frame.flow
        end = self._node(END, flow.name, None)
        self.end_of[frame.start] = end
        self.predecessors[end] = tuple(frame.leaf) or (frame.previous,)
        if not self.frames:
            return
        outer = self.frames[-1]
        # What this flow's items offered stands on top of the environment: all of it after a linear flow, what the
        # retry offered after any other. The flow around decides who sees it from here on.
        if frame.linear and outer.linear:
            outer.previous = end
            return
        for name in [offer[0] for offer in self.offers[frame.first_offer :]] if frame.linear else frame.own:
            places = self.places[name]
            assert places is not None
            self.places[name] = places[2]
        self._done(outer, flow, end, frame.first_offer)

    # -- inputs and outputs ---------------------------------------------------------------------------------------

    def _register(self, node: int, atom: Atom) -> None:
        if atom.name in self.index:
            first = self.index[atom.name]
            flows = [self.names[self.flow_of[each]] for each in (first, node)]
            self.faults.append(
                Duplicate(f"two atoms are named {atom.name!r}, in flow {flows[0]!r} and in flow {flows[1]!r}")
            )
        else:
            self.index[atom.name] = node
        for name, part in atom.save_as.items():
            self.offers.append((name, node, part))
            known = self.providers.get(name)
            if known is None:
                self.providers[name] = ((node, part),)
            elif isinstance(known, tuple):
                self.providers[name] = [*known, (node, part)]
            else:
                known.append((node, part))

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


class _Graph:
    """The items of a graph flow in order, with links for what its nested flows have come to need or offer since."""

    def __init__(self, flow: graph_flow.Flow, items: list[Item], faults: list[DefinitionError]) -> None:
        self._reached: dict[int, set[int]] = {}
        self.order = items
        self.before = flow._before
        if len(items) < len(flow._before):
            kept = {id(item) for item in items}
            self.before = {
                item: {source: data for source, data in flow._before[item].items() if id(source) in kept}
                for item in items
            }
        inferred = self._links(flow, faults) if flow._as_added else []
        if inferred:
            linked = {item: dict(self.before[item]) for item in items}
            for source, item in inferred:
                linked[item][source] = (False, (), None, None)
            ordered = self._sorted(linked)
            if len(ordered) < len(items):
                free = set(ordered)
                stuck = ", ".join(repr(item.name) for item in items if item not in free)
                faults.append(DependencyFailure(f"flow {flow.name!r}: {stuck} need each other, so no order exists"))
            else:
                self.order, self.before = ordered, linked
                self._reached.clear()

    def _links(self, flow: graph_flow.Flow, faults: list[DefinitionError]) -> list[tuple[Item, Item]]:
        """The links for names that nested flows have gained since they were added, as if these were added now."""
        own = flow.retry.provides if flow.retry is not None else frozenset()
        gained: dict[str, list[Item]] = {}  # offers
        asked: dict[tuple[Item, str], list[Item]] = {}  # item and name that it lacks to those that might serve it
        for item in self.order:
            then = flow._as_added.get(item)
            if then is not None:
                now = summary(item)
                for name in sorted(now.offers - then.offers):
                    gained.setdefault(name, []).append(item)
                for name in sorted(now.needs - then.needs - own):
                    asked[item, name] = list(flow._providers.get(name, ()))
        for (_item, name), sources in asked.items():
            sources += gained.get(name, ())
        for name, sources in gained.items():
            asked.update(((item, name), sources) for item in flow._waiting.get(name, ()))
        at = {item: position for position, item in enumerate(self.order)}  # a targeted flow has left others out
        found: list[tuple[Item, Item]] = []
        for item, name in sorted((each for each in asked if each[0] in at), key=lambda each: (at[each[0]], each[1])):
            if name not in needs_and_offers(item)[0]:
                continue
            sources = [each for each in asked[item, name] if each in at and name in needs_and_offers(each)[1]]
            sources.sort(key=at.__getitem__)
            if any(source in self.before[item] for source in sources):
                continue
            sources = [source for source in sources if source is not item and not self.precedes(item, source)]
            if len(sources) > 1:
                which = ", ".join(repr(source.name) for source in sources)
                faults.append(
                    AmbiguousDependency(f"flow {flow.name!r}: {item.name!r} requires {name!r}, which {which} provide")
                )
            elif sources:
                found.append((sources[0], item))
        return found

    def _sorted(self, before: dict[Item, dict[Item, graph_flow.LinkData]]) -> list[Item]:
        """The items in an order for these links; those that have none are left out."""
        waiting = {item: len(sources) for item, sources in before.items()}
        after: dict[Item, list[Item]] = {}
        for item, sources in before.items():
            for source in sources:
                after.setdefault(source, []).append(item)
        ordered = [item for item in self.order if not waiting[item]]
        for item in ordered:
            for later in after.get(item, ()):
                waiting[later] -= 1
                if not waiting[later]:
                    ordered.append(later)
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
