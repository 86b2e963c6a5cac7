# SPDX-License-Identifier: Apache-2.0
"""What all flow patterns have in common."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from pluggableflow.atom import Atom, check_limit, check_name
from pluggableflow.exceptions import DefinitionError, WrongType
from pluggableflow.retry import Retry

if TYPE_CHECKING:
    import networkx

Item = Any  # a Task or a Flow
Link = tuple[Item, Item, dict[str, Any]]

LINK_MANUAL, LINK_REASONS, LINK_INVARIANT = "manual", "reasons", "invariant"
LINK_DECIDER, LINK_DECIDER_DEPTH = "decider", "decider_depth"


class Depth(enum.Enum):
    """How far the no of a decider reaches."""

    #: Everything that comes after, in this flow and in those around it.
    ALL = "ALL"
    #: The target and the later tasks of the same flow; a flow among its successors runs.
    FLOW = "FLOW"
    #: The target and the tasks that directly follow it.
    NEIGHBORS = "NEIGHBORS"
    #: The target alone.
    ATOM = "ATOM"

    @classmethod
    def translate(cls, depth: Depth | str) -> Depth:
        """The depth of that name, in any case.

        :raises DefinitionError: there is none
        """
        if isinstance(depth, Depth):
            return depth
        if not isinstance(depth, str):
            raise WrongType(f"a decider's depth is a Depth or its name, not {depth!r}")
        try:
            return cls[depth.upper()]
        except KeyError:
            names = ", ".join(each.name for each in cls)
            raise DefinitionError(f"a decider's depth is one of {names}, not {depth!r}") from None


class Summary(NamedTuple):
    """The names that a flow needs from outside, that it offers, and that anything in it takes, at any depth."""

    needs: frozenset[str]
    offers: frozenset[str]
    takes: frozenset[str]


class Flow(ABC):
    """A named pattern of tasks and flows, perhaps controlled by a retry.

    :ivar retry: the retry, or ``None``
    :ivar time_limit_seconds: how long a run of it may take, suspensions included; then it is reverted and cancelled.
        Only for the flow that an engine is given: one inside takes a retry with a limit
    """

    #: Whether an item may need what an earlier one provides.
    _siblings_provide = True
    #: A summary holds as long as its era lasts. A flow that has one ends the era when it changes, for those of flows
    #: around it are made of its own.
    _era: ClassVar[object] = object()
    _kept: tuple[object, Summary] | None = None  # era and summary

    def __init__(self, name: str, retry: Retry | None = None, time_limit_seconds: float | None = None) -> None:
        self.name = check_name(name)
        self.time_limit_seconds: float | None = None
        if time_limit_seconds is not None:
            self.time_limit_seconds = check_limit(f"flow {name!r}", time_limit_seconds)
        if retry is not None and not isinstance(retry, Retry):
            raise WrongType(f"flow {name!r}: {retry!r} is not a retry")
        if retry is not None:
            retry.controls(name)
        self.retry = retry

    @abstractmethod
    def __len__(self) -> int:
        """How many items it has, those of flows inside not counted."""

    @abstractmethod
    def __iter__(self) -> Iterator[Item]:
        """Its items, in an order in which they could run."""

    @abstractmethod
    def add(self, *items: Item) -> Flow:
        """Add tasks or flows, and return this flow."""

    @abstractmethod
    def iter_links(self) -> Iterator[Link]:
        """``(item, later item, data of the link)``.

        The data has :data:`LINK_INVARIANT` if the pattern orders them, :data:`LINK_MANUAL` if a call of ``link`` does,
        :data:`LINK_REASONS` with the names that the later one needs of the other, and what its decider is, each only
        where there is something to say.
        """

    def iter_nodes(self) -> Iterator[tuple[Item, dict[str, Any]]]:
        """``(item, data)``."""
        for item in self:
            yield item, {}

    @property
    def provides(self) -> frozenset[str]:
        """All names that something in it provides, at any depth."""
        return summary(self).offers

    @property
    def requires(self) -> frozenset[str]:
        """The names that it needs from outside."""
        return summary(self).needs

    def _out_of_reach(self, items: list[Item], found: Mapping[int, Summary]) -> set[str]:
        """The names that one of its items needs and that only those provide which it does not come after.

        :param items: its own, in their order
        :param found: ``id`` of a flow inside to its summary
        """
        return set()

    def _changed(self) -> None:
        """To be called after every change of its items, their order among it."""
        if self._kept is not None:
            self._kept = None
            Flow._era = object()

    def to_networkx(self) -> networkx.DiGraph[Item]:
        """Its items and links as a graph; the retry is a graph attribute."""
        import networkx

        graph: networkx.DiGraph[Item] = networkx.DiGraph(name=self.name, retry=self.retry)
        graph.add_nodes_from(self.iter_nodes())
        graph.add_edges_from(self.iter_links())
        return graph

    def __str__(self) -> str:
        module = type(self).__module__.rpartition(".")[2]
        return f'"{module}.{type(self).__name__}: {self.name}(len={len(self)})"'

    def __repr__(self) -> str:
        return f"<{self}>"


_Listed = TypeVar("_Listed", bound="ListedFlow")


class ListedFlow(Flow):
    """A flow whose items stay in the order in which they were added."""

    def __init__(self, name: str, retry: Retry | None = None, time_limit_seconds: float | None = None) -> None:
        super().__init__(name, retry, time_limit_seconds)
        self._items: list[Item] = []

    def add(self: _Listed, *items: Item) -> _Listed:
        for item in items:
            check_item(self, item)
        self._items.extend(items)
        self._changed()
        return self

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)


def check_item(flow: Flow, item: Item) -> None:
    """Refuse what cannot be in a flow.

    :raises DefinitionError: it is not a task or flow
    """
    if isinstance(item, Retry):
        raise WrongType(f"flow {flow.name!r}: {item!r} is a retry; give it to a flow as its retry")
    if not isinstance(item, (Atom, Flow)):
        raise WrongType(f"flow {flow.name!r}: {item!r} is neither a task nor a flow")
    if item is flow:
        raise DefinitionError(f"flow {flow.name!r} cannot contain itself")


def needs_and_offers(item: Item) -> tuple[frozenset[str], frozenset[str]]:
    """What an item requires from outside and what it provides."""
    return (item.requires, item.provides) if isinstance(item, Atom) else summary(item)[:2]


def summary(top: Flow) -> Summary:
    """Of a flow, whatever the depth of nesting: flows inside come first, and those whose summary holds are left out."""
    era = Flow._era
    found: dict[int, Summary] = {}
    order: list[tuple[Flow, list[Item]]] = []
    seen: set[int] = set()
    stack = [top]
    while stack:
        flow = stack.pop()
        if id(flow) in seen:
            continue
        seen.add(id(flow))
        kept = flow._kept
        if kept is not None and kept[0] is era:
            found[id(flow)] = kept[1]
        else:
            items = list(flow)
            order.append((flow, items))
            stack.extend(item for item in items if isinstance(item, Flow))
    for flow, items in reversed(order):
        found[id(flow)] = _summarize(flow, items, found)
        flow._kept = era, found[id(flow)]
    return found[id(top)]


def _summarize(flow: Flow, items: list[Item], found: dict[int, Summary]) -> Summary:
    needs: set[str] = set()
    offers: set[str] = set()
    takes: set[str] = set()
    if flow.retry is not None:
        needs |= flow.retry.requires
        offers |= flow.retry.provides
        takes |= taken(flow.retry)
        takes.update([name for _parameter, name, _optional in flow.retry.on_failure_inputs])
    satisfied = set(offers)
    for item in items:
        if isinstance(item, Atom):
            part = Summary(item.requires, item.provides, taken(item))
        else:
            part = found.get(id(item), _NOTHING)  # nothing: it contains itself
        needs |= part.needs - satisfied
        offers |= part.offers
        takes |= part.takes
        if flow._siblings_provide:
            satisfied |= part.offers
    needs |= flow._out_of_reach(items, found)
    return Summary(frozenset(needs), frozenset(offers), frozenset(takes))


_NOTHING = Summary(frozenset(), frozenset(), frozenset())


def taken(atom: Atom) -> frozenset[str]:
    """The names that execute or revert take, those that may be missing among them."""
    return frozenset([name for _parameter, name, _optional in (*atom.execute_inputs, *atom.revert_inputs)])
