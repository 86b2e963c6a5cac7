# SPDX-License-Identifier: Apache-2.0
"""The statements that all products share, built once per connection."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    Select,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    insert,
    literal_column,
    or_,
    select,
    union_all,
    update,
)

from pluggableflow_sqlalchemy.database import Database
from pluggableflow_sqlalchemy.types import Number, ShortText

#: Of how many flows a scan takes the first that no other scan has locked.
_CANDIDATES = 16


class Statements:
    """Their parameter ``key`` is a uuid, ``mine`` a token. Rows of flows that are locked carry the time as ``now``."""

    def __init__(self, database: Database) -> None:
        books, flows, atoms = database.tables.logbooks, database.tables.flows, database.tables.atoms
        self._flows = flows
        key, mine = bindparam("key", type_=ShortText), bindparam("mine", type_=ShortText)
        clock = database.clock
        held = and_(flows.c.uuid == key, flows.c.token == mine)
        flow_and_now = select(flows, clock.label("now"))

        self.now = select(clock)
        self.book = select(books).where(books.c.uuid == key)
        self.books = select(books).order_by(*_age(books))
        self.locked_book = self.book.with_for_update()
        self.add_book = insert(books)
        self.change_book = update(books).where(books.c.uuid == key)
        self.delete_book = delete(books).where(books.c.uuid == key)
        self.delete_books = delete(books)

        self.flow = select(flows).where(flows.c.uuid == key)
        self.locked_flow = flow_and_now.where(flows.c.uuid == key).with_for_update()
        self.flows_of_book = select(flows).where(flows.c.parent_uuid == key).order_by(*_age(flows))
        # In the order of uuids, so that two who lock the flows of a book do not wait for each other.
        self.locked_flows = flow_and_now.where(flows.c.parent_uuid == key).order_by(flows.c.uuid).with_for_update()
        self.add_flow = insert(flows)
        self.change_flow = update(flows).where(flows.c.uuid == key)

        self.held_flow = select(flows).where(held)
        self.flow_of_token = flow_and_now.where(flows.c.token == mine).with_for_update()
        place, since = database.claim_place, database.claim_from
        order = (-flows.c.priority, *_age(flows))
        # Comparisons with a number, since SQLite would walk over all NULLs of an index to find what IS NOT NULL.
        lowest = literal_column(f"-{2**63 - 1}", Number)
        free = select(flows.c.uuid).where(place >= lowest).order_by(place, *_age(flows)).limit(_CANDIDATES)
        due = (
            select(flows.c.uuid)
            .where(since >= lowest, since <= database.index_clock)
            .order_by(*order)
            .limit(_CANDIDATES)
        )
        #: The first of those that a scan may claim: of the free ones, and of those whose lease or sleep is over.
        self.runnable = union_all(select(free.subquery().c.uuid), select(due.subquery().c.uuid))
        self.next_runnable = (
            flow_and_now.where(flows.c.uuid.in_(select(self.runnable.subquery().c.uuid)))
            .where(or_(place >= lowest, and_(since >= lowest, since <= clock)))
            .order_by(*order)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        longer = clock + bindparam("microseconds", type_=Number)
        self.extend_lease = update(flows).where(held).values(lease_expires_at=longer)
        self.give_up_lease = update(flows).where(held).values(token=None, lease_expires_at=None)

        self.atom = select(atoms).where(atoms.c.uuid == key)
        self.atoms_of_flow = select(atoms).where(atoms.c.parent_uuid == key).order_by(atoms.c.id)
        self.uuids_of_flow = select(atoms.c.uuid).where(atoms.c.parent_uuid == key)
        self.add_atoms = insert(atoms)
        self.delete_atoms = delete(atoms).where(atoms.c.parent_uuid.in_(bindparam("keys", expanding=True)))
        self.delete_stray_atoms = delete(atoms).where(~exists().where(flows.c.uuid == atoms.c.parent_uuid))
        self.change_atom = update(atoms).where(atoms.c.uuid == key)

    def found(
        self,
        states: Collection[str] | None,
        name: str | None,
        owner: str | None,
        created_before: int | None,
        limit: int,
        last: Any,
    ) -> Select[Any]:
        """The flows that a search finds beyond the row ``last``."""
        flows = self._flows.c
        query = select(self._flows).order_by(*_age(self._flows)).limit(limit)
        if states is not None:
            query = query.where(flows.state.in_(list(states)))
        if name is not None:
            query = query.where(flows.name == name)
        if owner is not None:
            query = query.where(flows.owner == owner)
        if created_before is not None:
            query = query.where(flows.created_at < created_before)
        if last is not None:
            # MariaDB uses no index for a comparison of pairs.
            same_time = and_(flows.created_at == last["created_at"], flows.uuid > last["uuid"])
            query = query.where(flows.created_at >= last["created_at"])
            query = query.where(or_(flows.created_at > last["created_at"], same_time))
        return query


def _age(table: Table) -> tuple[Any, Any]:
    return table.c.created_at, table.c.uuid
