# SPDX-License-Identifier: Apache-2.0
"""Flows as the reference knows them: atoms of scripted behaviour, what they answer, and questions about the structure.

Nothing of this changes while a flow runs. Failures are texts, ``"type: message"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

RETRY, REVERT, REVERT_ALL = "RETRY", "REVERT", "REVERT_ALL"
DEPTHS = ("ATOM", "NEIGHBORS", "FLOW", "ALL")  # from narrow to wide
EVERYTHING = None  # the scope that is the whole flow

History = list[tuple[Any, dict[str, str]]]


@dataclass(frozen=True)
class Task:
    """A task; a script says for each attempt what happens, its last entry also for all later attempts.

    :ivar fails: whether execute raises
    :ivar revert_fails: whether revert raises
    :ivar needs: atoms whose results it requires
    :ivar wants: atoms whose results it takes if it can see them
    """

    name: str
    fails: tuple[bool, ...] = (False,)
    revert_fails: tuple[bool, ...] = (False,)
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Retry:
    """A retry: one of the classes of the package, or one that follows a script.

    :ivar kind: the name of the class, or ``"script"``
    :ivar needs: of ParameterizedForEach, the atom whose result holds its values, if they are not ``values``
    :ivar fails: of a script, for each attempt whether execute raises; later ones do not
    :ivar revert_fails: of a script, whether revert raises
    :ivar decisions: of a script, for each attempt the answer to its first, second, ... failure; the last one also to
        later ones. ``"raise"`` and ``"nonsense"`` (no decision) are answers, too; in later attempts it is REVERT
    """

    name: str
    kind: str = "script"
    attempts: int = 1
    values: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()
    revert_all: bool = False
    fails: tuple[bool, ...] = ()
    revert_fails: bool = False
    decisions: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Link:
    """A link of a graph flow.

    :ivar answers: of its decider for each attempt of the source (``True``, ``False``, ``"raise"``; a flow as source
        has only the first); empty if it has no decider
    """

    source: str
    target: str
    answers: tuple[bool | str, ...] = ()
    depth: str | None = None


@dataclass(frozen=True)
class Flow:
    """A flow; ``pattern`` is ``"linear"``, ``"unordered"`` or ``"graph"``."""

    name: str
    pattern: str
    items: tuple[Flow | Task, ...] = ()
    retry: Retry | None = None
    links: tuple[Link, ...] = ()


Item = Flow | Task
Atom = Task | Retry


def scripted(script: tuple[bool, ...], attempt: int) -> bool:
    """The entry of a script for an attempt, counted from 1."""
    return script[min(attempt, len(script)) - 1] if script else False


def value_of(name: str, attempt: int) -> str:
    """What an atom provides."""
    return f"{name}#{attempt}"


def attempt_of(retry: Retry, number: int, values: tuple[Any, ...]) -> tuple[Any, str]:
    """What a retry provides for an attempt, counted from 1, and the failure that it ends with instead, if any.

    :param values: of ForEach and ParameterizedForEach
    """
    if retry.kind == "script":
        fails = number <= len(retry.fails) and retry.fails[number - 1]
        return value_of(retry.name, number), f"ValueError: {retry.name} cannot execute" if fails else ""
    if retry.kind == "Times":
        return number, ""
    if retry.kind in ("ForEach", "ParameterizedForEach"):
        if number <= len(values):
            return values[number - 1], ""
        return None, f"pluggableflow.exceptions.NotFound: No elements left for retry {retry.name!r} to try"
    return None, ""


def decision_of(retry: Retry, history: History, values: tuple[Any, ...]) -> str:
    """What a retry answers to a failure that is in its history already."""
    if retry.kind == "AlwaysRevert":
        return REVERT
    if retry.kind == "AlwaysRevertAll":
        return REVERT_ALL
    if retry.kind == "script":
        return scripted_answer(retry, history)
    most = retry.attempts if retry.kind == "Times" else len(values)
    if len(history) < most:
        return RETRY
    return REVERT_ALL if retry.revert_all else REVERT


def scripted_answer(retry: Retry, history: History) -> str:
    """The answer in the script of a retry."""
    if len(history) > len(retry.decisions):
        return REVERT
    answers = retry.decisions[len(history) - 1]
    return answers[min(len(history[-1][1]), len(answers)) - 1]


class Tree:
    """Questions about a flow's structure, which never changes."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.items: dict[str, Item] = {}
        self.atoms: dict[str, Atom] = {}
        self.around: dict[str, Flow] = {}  # item or retry to the flow it is an item (or the retry) of
        self._collect(flow)

    def _collect(self, flow: Flow) -> None:
        self.items[flow.name] = flow
        if flow.retry:
            self.atoms[flow.retry.name] = flow.retry
            self.around[flow.retry.name] = flow
        for item in flow.items:
            self.items[item.name] = item
            self.around[item.name] = flow
            if isinstance(item, Flow):
                self._collect(item)
            else:
                self.atoms[item.name] = item

    def inside(self, item: Item) -> list[str]:
        """The atoms of an item, in the order of its definition."""
        if isinstance(item, Task):
            return [item.name]
        first = [item.retry.name] if item.retry else []
        return first + [name for each in item.items for name in self.inside(each)]

    @cached_property
    def _edges(self) -> dict[str, set[tuple[str, str]]]:
        return {each.name: self._edges_of(each) for each in self.items.values() if isinstance(each, Flow)}

    def _edges_of(self, flow: Flow) -> set[tuple[str, str]]:
        names = [item.name for item in flow.items]
        if flow.pattern == "linear":
            return set(zip(names, names[1:], strict=False))
        if flow.pattern == "unordered":
            return set()
        edges = {(link.source, link.target) for link in flow.links}
        for target in flow.items:
            for name in self.inside(target):
                needs = getattr(self.atoms[name], "needs", ())
                edges |= {
                    (each.name, target.name) for each in flow.items for need in needs if need in self.inside(each)
                }
        return {(source, target) for source, target in edges if source != target}

    def predecessors(self, item: Item) -> list[Item]:
        """The items of the same flow that come right before one."""
        if item is self.flow:
            return []
        flow = self.around[item.name]
        return [each for each in flow.items if (each.name, item.name) in self._edges[flow.name]]

    def path(self, name: str) -> list[Flow]:
        """The flows around an atom or item, from the inside out. A retry lies in its own flow."""
        path = []
        while name in self.around:
            path.append(self.around[name])
            name = path[-1].name
        return path

    @cached_property
    def after(self) -> dict[str, set[str]]:
        """To each atom, those that run only after it."""
        return {one: {two for two in self.atoms if self._before(one, two)} for one in self.atoms}

    def _before(self, one: str, two: str) -> bool:
        if one == two:
            return False
        common = next(flow for flow in self.path(one) if flow in self.path(two))
        if common.retry and one == common.retry.name:
            return True
        if common.retry and two == common.retry.name:
            return False
        first = next(item for item in common.items if one in self.inside(item))
        second = next(item for item in common.items if two in self.inside(item))
        return self._leads_to(first, second)

    def _leads_to(self, first: Item, second: Item) -> bool:
        return any(each is first or self._leads_to(first, each) for each in self.predecessors(second))

    def retries_around(self, name: str) -> list[str]:
        """The retries that decide about a failure of an atom or item, the nearest first."""
        path = self.path(name)
        if isinstance(self.atoms.get(name), Retry):
            path = path[1:]
        return [flow.retry.name for flow in path if flow.retry]

    def scope(self, retry: str | None) -> list[str]:
        """The atoms of a scope, its retry among them."""
        return self.inside(self.flow if retry is EVERYTHING else self.around[retry])
