# SPDX-License-Identifier: Apache-2.0
"""Items ordered by what they need of each other, and by explicit links."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pluggableflow.atom import Atom
from pluggableflow.exceptions import AmbiguousDependency, DefinitionError, DependencyFailure
from pluggableflow.flow import (
    LINK_DECIDER,
    LINK_DECIDER_DEPTH,
    LINK_MANUAL,
    LINK_REASONS,
    Depth,
    Item,
    Link,
    Summary,
    check_item,
    needs_and_offers,
    summary,
)
from pluggableflow.flow import Flow as _Flow
from pluggableflow.retry import Retry

#: Whether it was made by ``link``, the names it was inferred from, decider, depth. A plain tuple of plain things,
#: so that the garbage collector has nothing to follow.
LinkData = tuple[bool, tuple[str, ...], Callable[..., Any] | None, Depth | None]


class _Journal:
    """What one ``add`` has changed so far, for taking it back."""

    __slots__ = ("added", "linked", "waiting", "unresolved", "ranks", "ends")

    def __init__(self, ends: tuple[int, int]) -> None:
        self.added: list[Item] = []
        self.linked: list[tuple[Item, Item]] = []
        self.waiting: list[tuple[str, dict[Item, None]]] = []  # as it was before some of it were linked
        self.unresolved: list[tuple[str, Item]] = []  # requires of what is added with resolve_requires=False
        self.ranks: dict[Item, int] = {}  # of items that were moved, before the first move
        self.ends = ends


class Flow(_Flow):
    """Runs an item when all that it is linked from is done.

    ``add`` links a new item from the item that provides what it requires, and to those that require what it
    provides. Cycles and ambiguity are refused at once, and leave the flow as it was.
    """

    def __init__(self, name: str, retry: Retry | None = None, time_limit_seconds: float | None = None) -> None:
        super().__init__(name, retry, time_limit_seconds)
        self._before: dict[Item, dict[Item, LinkData]] = {}
        self._after: dict[Item, list[Item]] = {}  # only items that have successors
        self._rank: dict[Item, int] = {}  # every link goes from a lower to a higher rank
        self._first_rank, self._last_rank = 0, 0
        self._providers: dict[str, list[Item]] = {}
        self._waiting: dict[str, dict[Item, None]] = {}  # required name to items that nothing is linked for yet
        self._as_added: dict[Item, Summary] = {}  # of flows; they may change

    def __len__(self) -> int:
        return len(self._rank)

    def __iter__(self) -> Iterator[Item]:
        return iter(sorted(self._rank, key=self._rank.__getitem__))

    def iter_links(self) -> Iterator[Link]:
        for item in self._rank:
            for later in self._after.get(item, ()):
                manual, reasons, decider, depth = self._before[later][item]
                data: dict[str, Any] = {LINK_MANUAL: True} if manual else {}
                if reasons:
                    data[LINK_REASONS] = set(reasons)
                if decider is not None:
                    data[LINK_DECIDER], data[LINK_DECIDER_DEPTH] = decider, depth
                yield item, later, data

    def _put_link(self, item: Item, later: Item, data: LinkData) -> None:
        before = self._before[later]
        if item not in before:
            self._after.setdefault(item, []).append(later)
        before[item] = data

    # -- adding ---------------------------------------------------------------------------------------------------

    def add(self, *items: Item, resolve_requires: bool = True, resolve_existing: bool = True) -> Flow:
        """Add tasks or flows; one that is there already is left as it is.

        :param resolve_requires: link them from what provides their inputs
        :param resolve_existing: link them to what lacks what they provide
        :raises AmbiguousDependency: an input has several providers
        :raises DependencyFailure: there would be a cycle
        """
        journal = _Journal((self._first_rank, self._last_rank))
        try:
            for item in items:
                check_item(self, item)
                if item not in self._rank:
                    self._insert(item, resolve_requires, resolve_existing, journal)
            for name, item in journal.unresolved:
                self._waiting.setdefault(name, {})[item] = None
        except DefinitionError:
            self._undo(journal)
            raise
        finally:
            self._changed()
        return self

    def _insert(self, item: Item, resolve_requires: bool, resolve_existing: bool, journal: _Journal) -> None:
        known = None if isinstance(item, Atom) else summary(item)
        needs, offers = (item.requires, item.provides) if known is None else known[:2]
        retry_offers = self.retry.provides if self.retry is not None else frozenset()
        sources: list[tuple[Item, str]] = []
        unlinked: list[str] = []
        for name in sorted(needs) if len(needs) > 1 else needs:
            if name in retry_offers:
                continue
            providers = self._providers.get(name)
            if not providers or not resolve_requires:
                unlinked.append(name)
            elif len(providers) > 1:
                names = ", ".join(repr(each.name) for each in providers)
                raise AmbiguousDependency(
                    f"flow {self.name!r}: {item.name!r} requires {name!r}, which {names} provide; rename one of them"
                )
            else:
                sources.append((providers[0], name))
        targets: list[tuple[Item, str]] = []
        for name in sorted(offers) if len(offers) > 1 else offers:
            waiting = self._waiting.get(name) if resolve_existing else None
            if waiting:
                journal.waiting.append((name, dict(waiting)))
                targets += [(each, name) for each in waiting]
        # The place in the order: last if it only has predecessors, first if it only has successors.
        journal.added.append(item)
        self._before[item] = {}
        if known is not None:
            self._as_added[item] = known
        if targets and not sources:
            self._first_rank -= 1
            self._rank[item] = self._first_rank
        else:
            self._last_rank += 1
            self._rank[item] = self._last_rank
        for name in offers:
            self._providers.setdefault(name, []).append(item)
        for name in unlinked:
            if resolve_requires:
                self._waiting.setdefault(name, {})[item] = None
            else:  # what is added beside it is not to be linked to it either
                journal.unresolved.append((name, item))
        for source, name in sources:
            self._connect(source, item, name, journal)
        for target, name in targets:
            self._connect(item, target, name, journal)

    def _connect(self, item: Item, later: Item, reason: str, journal: _Journal) -> None:
        self._order(item, later, journal.ranks)
        data = self._before[later].get(item)
        if data is None:
            self._put_link(item, later, (False, (reason,), None, None))
            journal.linked.append((item, later))
        else:
            self._put_link(item, later, (data[0], (*data[1], reason), *data[2:]))
        waiting = self._waiting.get(reason)
        if waiting is not None:
            waiting.pop(later, None)

    def _undo(self, journal: _Journal) -> None:
        for item, later in reversed(journal.linked):  # each has an end that was added, so all of the link goes
            del self._before[later][item]
            self._after[item].pop()
            if not self._after[item]:
                del self._after[item]
        for name, waiting in reversed(journal.waiting):
            self._waiting[name] = waiting
        self._rank.update(journal.ranks)
        self._first_rank, self._last_rank = journal.ends
        for item in reversed(journal.added):
            needs, offers = needs_and_offers(item)
            for name in offers:
                self._providers[name].pop()
            for name in needs:
                self._waiting.get(name, {}).pop(item, None)
            del self._rank[item], self._before[item]
            self._as_added.pop(item, None)

    def _out_of_reach(self, items: list[Item], found: Mapping[int, Summary]) -> set[str]:
        own = self.retry.provides if self.retry is not None else frozenset()
        unlinked = [name for name, waiting in self._waiting.items() if waiting and name in self._providers]
        if not unlinked:
            return set()
        here = set(items)  # a targeted flow leaves others out
        gained: set[str] = set()  # for which links are inferred when it is compiled
        for inside, then in self._as_added.items():
            if inside in here:
                gained |= found[id(inside)].offers - then.offers
        return {
            name
            for name in unlinked
            if name not in own and name not in gained
            for item in self._waiting[name]
            if item in here and self._providers[name] != [item] and not self._follows_provider(item, name, found)
        }

    def _follows_provider(self, item: Item, name: str, found: Mapping[int, Summary]) -> bool:
        seen, stack = {item}, [item]
        while stack:
            for before in self._before[stack.pop()]:
                if name in (before.provides if isinstance(before, Atom) else found[id(before)].offers):
                    return True
                if before not in seen:
                    seen.add(before)
                    stack.append(before)
        return False

    # -- linking --------------------------------------------------------------------------------------------------

    def link(
        self, u: Item, v: Item, decider: Callable[..., bool] | None = None, decider_depth: Depth | str | None = None
    ) -> Flow:
        """Let ``v`` come after ``u``.

        :param decider: called as ``decider(history=results by name)`` when ``u`` is done; ``v`` runs if it is true
        :param decider_depth: how far a no reaches, default :attr:`Depth.ALL`
        :raises DefinitionError: an item is not in the flow, or the decider is not one
        :raises DependencyFailure: there would be a cycle
        """
        for item, way in (u, "from"), (v, "to"):
            if item not in self._rank:
                raise DefinitionError(f"Node {item!r} not found to link {way}; add it to flow {self.name!r} first")
        if decider is not None and not callable(decider):
            raise DefinitionError(f"flow {self.name!r}: a decider must be callable, not {decider!r}")
        if decider is None and decider_depth is not None:
            raise DefinitionError(f"flow {self.name!r}: a depth says nothing without a decider")
        depth = None if decider is None else Depth.translate(Depth.ALL if decider_depth is None else decider_depth)
        self._order(u, v, {})
        _manual, reasons, *known = self._before[v].get(u) or (False, (), None, None)
        self._put_link(u, v, (True, reasons, *((decider, depth) if decider is not None else known)))
        for name in needs_and_offers(u)[1]:
            if name in self._waiting:
                self._waiting[name].pop(v, None)
        self._changed()
        return self

    def _order(self, item: Item, later: Item, moved: dict[Item, int]) -> None:
        """Make room for a link by reordering the region between the two.

        After Pearce and Kelly, "A dynamic topological sort algorithm for directed acyclic graphs" (2006).

        :param moved: is given the ranks that items had before they were moved for the first time
        :raises DependencyFailure: ``item`` comes after ``later``; nothing was changed
        """
        rank = self._rank
        low, high = rank[later], rank[item]
        if high < low:
            return
        came_from: dict[Item, Item | None] = {later: None}
        stack = [later]
        while stack:
            each = stack.pop()
            for after in self._after.get(each, ()):
                if after is item or each is item:
                    came_from.setdefault(after, each)
                    self._refuse_cycle(item, came_from)
                if rank[after] < high and after not in came_from:
                    came_from[after] = each
                    stack.append(after)
        if later is item:
            self._refuse_cycle(item, came_from)
        forward = sorted(came_from, key=rank.__getitem__)
        seen = {item}
        stack = [item]
        while stack:
            for before in self._before[stack.pop()]:
                if rank[before] > low and before not in seen:
                    seen.add(before)
                    stack.append(before)
        backward = sorted(seen, key=rank.__getitem__)
        places = sorted(rank[each] for each in (*backward, *forward))
        for each, place in zip((*backward, *forward), places, strict=True):
            moved.setdefault(each, rank[each])
            rank[each] = place

    def _refuse_cycle(self, item: Item, came_from: dict[Item, Item | None]) -> None:
        path: list[str] = []
        at: Item | None = item
        while at is not None:
            path.append(repr(at.name))
            at = came_from.get(at)
        cycle = " -> ".join([path[0], *reversed(path)] if len(path) > 1 else [path[0], path[0]])
        raise DependencyFailure(f"No path leads through flow {self.name!r}: {cycle} is a cycle")


class TargetedFlow(Flow):
    """A graph flow of which only what a target needs is run."""

    def __init__(self, name: str, retry: Retry | None = None, time_limit_seconds: float | None = None) -> None:
        super().__init__(name, retry, time_limit_seconds)
        self._target: Item | None = None

    def set_target(self, target_node: Item) -> None:
        """Run only ``target_node`` and what it needs.

        :raises DefinitionError: it is not in the flow
        """
        if target_node not in self._rank:
            raise DefinitionError(
                f"Node {target_node!r} not found in flow {self.name!r}; add it before it is the target"
            )
        self._target = target_node
        self._changed()

    def reset_target(self) -> None:
        """Run everything again."""
        self._target = None
        self._changed()

    def _needed(self) -> set[Item]:
        if self._target is None:
            return set(self._rank)
        needed = {self._target}
        stack = [self._target]
        while stack:
            for before in self._before[stack.pop()]:
                if before not in needed:
                    needed.add(before)
                    stack.append(before)
        return needed

    def __len__(self) -> int:
        return len(self._needed())

    def __iter__(self) -> Iterator[Item]:
        needed = self._needed()
        return (item for item in super().__iter__() if item in needed)

    def iter_links(self) -> Iterator[Link]:
        needed = self._needed()
        return (link for link in super().iter_links() if link[0] in needed and link[1] in needed)
