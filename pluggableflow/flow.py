# SPDX-License-Identifier: Apache-2.0
"""What all flow patterns have in common."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pluggableflow.atom import Atom, check_name
from pluggableflow.exceptions import DefinitionError
from pluggableflow.retry import Retry

if TYPE_CHECKING:
    import networkx

Item = Any  # a Task or a Flow
Link = tuple[Item, Item, dict[str, Any]]

LINK_MANUAL, LINK_REASONS = "manual", "reasons"
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
        try:
            return cls[str(depth).upper()]
        except KeyError:
            names = ", ".join(each.name for each in cls)
            raise DefinitionError(f"a decider's depth is one of {names}, not {depth!r}") from None


class Flow(ABC):
    """A named pattern of tasks and flows, perhaps controlled by a retry.

    :ivar retry: the retry, or ``None``
    """

    #: Whether an item may need what an earlier one provides.
    _siblings_provide = True

    def __init__(self, name: str, retry: Retry | None = None) -> None:
        self.name = check_name(name)
        if retry is not None and not isinstance(retry, Retry):
            raise DefinitionError(f"flow {name!r}: {retry!r} is not a retry")
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
        """``(item, later item, data of the link)``."""

    def iter_nodes(self) -> Iterator[tuple[Item, dict[str, Any]]]:
        """``(item, data)``."""
        for item in self:
            yield item, {}

    @property
    def provides(self) -> frozenset[str]:
        """All names that something in it provides, at any depth."""
        return _summary(self)[1]

    @property
    def requires(self) -> frozenset[str]:
        """The names that it needs from outside."""
        return _summary(self)[0]

    def to_networkx(self) -> networkx.DiGraph[Item]:
        """Its items and links as a graph; the retry is a graph attribute."""
        import networkx

        graph: networkx.DiGraph[Item] = networkx.DiGraph(name=self.name, retry=self.retry)
        graph.add_nodes_from(self.iter_nodes())
        graph.add_edges_from(self.iter_links())
        return graph

    def __str__(self) -> str:
        module = type(self).__module__.rpartition(".")[2]
        return f"{module}.{type(self).__name__}: {self.name}(len={len(self)})"

    def __repr__(self) -> str:
        return f"<{self}>"


def check_item(flow: Flow, item: Item) -> None:
    """Refuse what cannot be in a flow.

    :raises DefinitionError: it is not a task or flow
    """
    if isinstance(item, Retry):
        raise DefinitionError(f"flow {flow.name!r}: {item!r} is a retry; give it to a flow as its retry")
    if not isinstance(item, (Atom, Flow)):
        raise DefinitionError(f"flow {flow.name!r}: {item!r} is neither a task nor a flow")
    if item is flow:
        raise DefinitionError(f"flow {flow.name!r} cannot contain itself")


def needs_and_offers(item: Item) -> tuple[frozenset[str], frozenset[str]]:
    """What an item requires from outside and what it provides."""
    return (item.requires, item.provides) if isinstance(item, Atom) else _summary(item)


def _summary(top: Flow) -> tuple[frozenset[str], frozenset[str]]:
    """Requires and provides of a flow, whatever the depth of nesting: flows inside come first."""
    order: list[Flow] = []
    seen: set[int] = set()
    stack = [top]
    while stack:
        flow = stack.pop()
        if id(flow) not in seen:
            seen.add(id(flow))
            order.append(flow)
            stack.extend(item for item in flow if isinstance(item, Flow))
    found: dict[int, tuple[frozenset[str], frozenset[str]]] = {}
    for flow in reversed(order):
        requires: set[str] = set()
        provides: set[str] = set()
        if flow.retry is not None:
            requires |= flow.retry.requires
            provides |= flow.retry.provides
        satisfied = set(provides)
        for item in flow:
            if isinstance(item, Atom):
                needs, offers = item.requires, item.provides
            else:
                needs, offers = found.get(id(item), (frozenset(), frozenset()))
            requires |= needs - satisfied
            provides |= offers
            if flow._siblings_provide:
                satisfied |= offers
        found[id(flow)] = frozenset(requires), frozenset(provides)
    return found[id(top)]
