# SPDX-License-Identifier: Apache-2.0
"""The frozen, index-based result of compiling a flow."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pluggableflow.atom import Atom
from pluggableflow.exceptions import Missing
from pluggableflow.flow import Depth

if TYPE_CHECKING:
    import networkx

#: Kinds of nodes. START and END are gates: they stand for the boundaries of a flow and cost nothing to run.
START, END, TASK, RETRY = 0, 1, 2, 3

#: Where a value can come from, nearest first: ``(node, part of its result, the next place or None)``.
Places = tuple[int, Any, Any] | None
#: ``(parameter, name, whether it may be missing, places)``
BoundInput = tuple[str, str, bool, Places]


@dataclass(slots=True, frozen=True)
class Link:
    """A decider on a link: ``source`` is an atom, or the END of a flow."""

    source: int
    decider: Callable[..., Any]
    depth: Depth


@dataclass(slots=True, frozen=True)
class Plan:
    """Arrays over nodes, numbered in an order in which they could run.

    Every flow is one range of numbers: its START first, its retry (if any) right after, its END last.

    :ivar names: of atoms; of flows for their gates
    :ivar retry_of: the retry that decides about a failure of the node, or -1
    :ivar flow_of: START of the innermost flow that a node lies in (for gates: of the flow around), or -1
    :ivar end_of: START to END
    :ivar start_of_retry: retry to the START of its flow
    :ivar deciders: target (an atom, or the START of a flow) to the deciders on links to it
    :ivar providers: name to all that provide it, as ``(node, part)``
    :ivar index: atom name to node
    """

    flow_name: str
    kinds: bytes
    names: tuple[str, ...]
    atoms: tuple[Atom | None, ...]
    successors: tuple[tuple[int, ...], ...]
    predecessors: tuple[tuple[int, ...], ...]
    retry_of: array[int]
    flow_of: array[int]
    end_of: dict[int, int]
    start_of_retry: dict[int, int]
    deciders: dict[int, tuple[Link, ...]]
    execute_inputs: tuple[tuple[BoundInput, ...], ...]
    revert_inputs: tuple[tuple[BoundInput, ...], ...]
    on_failure_inputs: dict[int, tuple[BoundInput, ...]]
    providers: dict[str, tuple[tuple[int, Any], ...]]
    index: dict[str, int]

    def missing(self, given: Collection[str]) -> list[Missing]:
        """Inputs that are required, and that nothing before their atom provides.

        :param given: names that the flow's store has
        """
        found: list[Missing] = []
        seen: set[tuple[int, str]] = set()
        for node, atom in enumerate(self.atoms):
            if atom is None:
                continue
            inputs = self.execute_inputs[node] + self.revert_inputs[node] + self.on_failure_inputs.get(node, ())
            for parameter, name, is_optional, places in inputs:
                if places is not None or is_optional or name in given or name in atom.inject or (node, name) in seen:
                    continue
                seen.add((node, name))
                candidates = [self.names[each] for each, _part in self.providers.get(name, ()) if each != node]
                found.append(Missing(atom.name, parameter, name, candidates))
        return found

    def visible(self, atom_name: str) -> Iterator[str]:
        """Names of the atoms that an atom may get its inputs from, for each input the nearest first."""
        node = self.index[atom_name]
        for _parameter, _name, _optional, places in self.execute_inputs[node] + self.revert_inputs[node]:
            while places is not None:
                provider, _part, places = places
                yield self.names[provider]

    def to_networkx(self) -> networkx.DiGraph[int]:
        """Nodes with ``name`` and ``kind``, and their order, as a graph."""
        import networkx

        graph: networkx.DiGraph[int] = networkx.DiGraph(name=self.flow_name)
        for node, kind in enumerate(self.kinds):
            graph.add_node(node, name=self.names[node], kind=("START", "END", "TASK", "RETRY")[kind])
        graph.add_edges_from((node, after) for node, each in enumerate(self.successors) for after in each)
        return graph
