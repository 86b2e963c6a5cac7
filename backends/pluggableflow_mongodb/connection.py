# SPDX-License-Identifier: Apache-2.0
"""The storage contract on MongoDB. The package's docstring tells the form of the documents and the protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

from pymongo import MongoClient, ReturnDocument
from pymongo.database import Database
from pymongo.errors import PyMongoError

from pluggableflow import states as flow_states
from pluggableflow.connection import (
    Changes,
    Claim,
    Connection,
    Lease,
    Renewal,
    Request,
    check_request_kind,
    commit_faults,
    pending_request,
)
from pluggableflow.exceptions import InvalidState, LeaseLost, NotFound, StorageFailure, ValueTooLarge
from pluggableflow.middleware import AtomDetail, FlowDetail, LogBook
from pluggableflow_mongodb import books, operations, schema, updates
from pluggableflow_mongodb.client import Document, Store, options_of
from pluggableflow_mongodb.commits import COMMIT_BYTES, VALUE_BYTES, Commits, refuse_if_too_large
from pluggableflow_mongodb.flows import (
    LEASED,
    NOW,
    NOW_END,
    READY_AT,
    flow_detail,
    flow_record,
    ordered,
    refuse_if_leased,
    snapshot,
    with_now,
)
from pluggableflow_mongodb.journal import apply, atom_detail, discard_if_gone


class MongoDBConnection(Connection):
    """Logbooks, flows and atoms as documents of three collections, on a replica set or a standalone server alike.

    Commits are atomic without transactions. Writes wait until a majority has them in its journal; reads go to the
    primary and see what a majority has. A client that is passed in should have no limit on its pool that is below
    the number of threads that use it, or a renewal waits for one of them.

    :param database: an embedder's, left open by :meth:`close`
    :param prefix: of all collection names
    """

    contract_version = 1
    config_module = "pluggableflow_mongodb.config"
    durable = True
    shared = True
    largest_value_bytes = VALUE_BYTES
    largest_commit_bytes = COMMIT_BYTES

    def __init__(self, database: Database[Any], *, prefix: str = "pluggableflow_") -> None:
        self._start(Store(prefix, database=database))

    def _start(self, store: Store) -> None:
        self._store, self._commits = store, Commits(store)

    @classmethod
    def from_url(cls, url: str) -> MongoDBConnection:
        """The store that a URL names: ``mongodb://host:port/database?prefix=mine_``, ``mongodb+srv://host/database``.

        :raises OptionError: a parameter is unknown or has an impossible value
        """
        prefix, driver_url, options = options_of(url)
        made = cls.__new__(cls)
        made._start(Store(prefix, url=driver_url, options=options))
        return made

    @classmethod
    def from_client(cls, client: Any) -> MongoDBConnection | None:
        """A connection over an embedder's client, in its default database or ``pluggableflow``, or over a database."""
        if isinstance(client, MongoClient):
            client = client.get_default_database("pluggableflow")
        return cls(client) if isinstance(client, Database) else None

    # -- life -----------------------------------------------------------------------------------------------------

    def upgrade(self) -> None:
        with self._store.errors():
            schema.upgrade(self._store)

    def validate(self) -> None:
        with self._store.errors():
            schema.validate(self._store)

    def close(self) -> None:
        self._store.close()

    def clear_all(self) -> None:
        with self._store.errors():
            for book in list(self._store.books.find({}, {"_id": 1})):
                with contextlib.suppress(NotFound):
                    books.destroy_book(self._store, book["_id"], force=True)

    # -- logbooks -------------------------------------------------------------------------------------------------

    def save_logbook(self, book: LogBook) -> None:
        flows = [(detail, detail.to_record(), [atom.to_record() for atom in detail]) for detail in book]
        with self._store.errors():
            books.save_book(self._store, book, flows)

    def get_logbook(self, book_uuid: str, lazy: bool = False) -> LogBook:
        with self._store.errors():
            return books.read_book(self._store, book_uuid, lazy)

    def get_logbooks(self, lazy: bool = False) -> list[LogBook]:
        with self._store.errors():
            return books.read_books(self._store, lazy)

    def destroy_logbook(self, book_uuid: str, force: bool = False) -> None:
        with self._store.errors():
            books.destroy_book(self._store, book_uuid, force)

    # -- flows ----------------------------------------------------------------------------------------------------

    def get_flow_details(self, flow_uuid: str, lazy: bool = False) -> FlowDetail:
        with self._store.errors():
            if lazy:
                document = operations.visible_flow(self._store, flow_uuid, {"journal": 0})
                return FlowDetail.from_record(flow_record(document))
            return flow_detail(*self._snapshot(flow_uuid))

    def _snapshot(self, flow_uuid: str, atom: str | None = None) -> tuple[Document, dict[str, Document]]:
        return snapshot(self._store, lambda: operations.visible_flow(self._store, flow_uuid), atom)

    def get_flows_for_book(self, book_uuid: str, lazy: bool = False) -> list[FlowDetail]:
        with self._store.errors():
            return books.read_flows(self._store, book_uuid, lazy)

    def update_flow_details(self, detail: FlowDetail) -> None:
        record, atoms = detail.to_record(), [atom.to_record() for atom in detail]
        refuse_if_too_large([record, *atoms])
        with self._store.errors():
            updates.update_flow(self._store, record, atoms)

    def find_flows(
        self,
        *,
        states: Collection[str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        created_before: int | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[FlowDetail]:
        conditions: list[Document] = []
        for column, value in (("name", name), ("owner", owner)):
            if value is not None:
                conditions.append({column: value})
        if states is not None:
            conditions.append({"state": {"$in": sorted(states)}})
        if created_before is not None:
            conditions.append({"created_at": {"$lt": created_before}})
        with self._store.errors():
            beyond: list[Document] = []
            if after is not None:
                beyond = [_older_than(operations.visible_flow(self._store, after, {"journal": 0}))]
            found: list[Document] = []
            while True:
                every: Document = {"$and": [*conditions, *beyond]} if conditions or beyond else {}
                page = self._store.flows.find(every, {"journal": 0}).sort([("created_at", 1), ("_id", 1)])
                documents = list(page.limit(limit - len(found)))
                found += operations.visible(self._store, documents)
                if len(found) >= limit or not documents:
                    return [FlowDetail.listed(flow_record(document)) for document in found]
                beyond = [_older_than(documents[-1])]

    # -- atoms ----------------------------------------------------------------------------------------------------

    def get_atom_details(self, atom_uuid: str) -> AtomDetail:
        with self._store.errors():
            flow_uuid = updates.flow_of_atom(self._store, atom_uuid)
            _flow, atoms = self._snapshot(flow_uuid, atom_uuid)
            return atom_detail(atoms[atom_uuid], flow_uuid)

    def get_atoms_for_flow(self, flow_uuid: str) -> list[AtomDetail]:
        with self._store.errors():
            _flow, atoms = self._snapshot(flow_uuid)
            return ordered(atoms, flow_uuid)

    def update_atom_details(self, detail: AtomDetail) -> None:
        record = detail.to_record()
        refuse_if_too_large([record])
        with self._store.errors():
            updates.update_atom(self._store, record)

    # -- hot path -------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        fault = commit_faults(self, changes)
        if fault is not None:
            raise ValueTooLarge(fault)
        with self._store.errors():
            return self._commits.commit(lease, revision, changes)

    # -- ownership ------------------------------------------------------------------------------------------------

    def claim(
        self,
        *,
        token: str,
        owner: str,
        lease_seconds: float,
        flow_uuid: str | None = None,
        evict_epoch: int | None = None,
    ) -> Claim | None:
        length = int(lease_seconds * 1e6)
        is_mine = {"$eq": ["$token", {"$literal": token}]}
        taken = {
            "epoch": {"$cond": [is_mine, "$epoch", {"$add": ["$epoch", 1]}]},
            "token": {"$literal": token},
            "owner": {"$literal": owner},
            "lease_expires_at": {"$add": [NOW, length]},
            "ready_at": {"$add": [NOW, length]},
        }
        update: Any = [{"$set": taken}]
        with self._store.errors():
            if flow_uuid is None:
                flow = self._claim_next(token, update)
            else:
                flow = self._claim_named(flow_uuid, token, evict_epoch, update)
            if flow is None:
                return None
            self._commits.forget(flow["_id"])
            if flow["journal"]:
                self._store.repeated(lambda: apply(self._store, flow["life"], flow["journal"]))
                updates.trim(self._store, flow)
        expires_at = int(flow["lease_expires_at"])
        lease = Lease(flow["_id"], token, int(flow["epoch"]), owner, expires_at)
        return Claim(lease, int(flow["revision"]), expires_at - length, pending_request(flow_record(flow)))

    def _take(self, condition: Document, update: Any, **options: Any) -> Document | None:
        flows = self._store.flows
        return self._store.repeated(
            lambda: flows.find_one_and_update(condition, update, return_document=ReturnDocument.AFTER, **options)
        )

    def _claim_named(self, flow_uuid: str, token: str, evict_epoch: int | None, update: Any) -> Document:
        free: list[Document] = [{"token": token}, {"$expr": {"$not": LEASED}}]
        if evict_epoch is not None:
            free.append({"epoch": evict_epoch})
        while True:
            flow = self._take({"_id": flow_uuid, "op": None, "$or": free}, update)
            if flow is not None:
                return flow
            if not operations.settle(self._store, flow_uuid):
                raise NotFound(f"there is no flow {flow_uuid}")
            for found in with_now(self._store, {"_id": flow_uuid, "op": None}):
                if found["token"] != token and (evict_epoch is None or found["epoch"] != evict_epoch):
                    refuse_if_leased(found)

    def _claim_next(self, token: str, update: Any) -> Document | None:
        mine = self._take({"token": token, "op": None}, update)
        if mine is not None:
            return mine
        self._move_up_due()
        readable = {"epoch": {"$type": "number"}, "revision": {"$type": "number"}}
        free = {"$and": [{"$not": LEASED}, {"$not": {"$gt": ["$wake_at", NOW]}}]}
        condition = {"runnable": True, "ready_at": 0, "op": None, **readable, "$expr": free}
        order = [("priority", -1), ("created_at", 1), ("_id", 1)]
        return self._take(condition, update, sort=order, hint=schema.SCAN_INDEX)

    def _move_up_due(self) -> None:
        """Let the index show the flows whose lease or time to sleep is over among those that can be taken."""
        past = {"runnable": True, "ready_at": {"$gt": 0}, "$expr": {"$lte": ["$ready_at", NOW_END]}}
        flows = self._store.flows
        due = list(flows.find(past, {"op": 1, "parent_uuid": 1}, hint=schema.SCAN_INDEX))
        marked = {flow["parent_uuid"] for flow in due if flow.get("op") is not None}
        if marked:
            operations.sweep(self._store)
            for book_uuid in marked:
                operations.tidy(self._store, book_uuid)
        if any(flow.get("op") is None for flow in due):
            flows.update_many({**past, "op": None}, [{"$set": {"ready_at": READY_AT}}], hint=schema.SCAN_INDEX)

    def renew(self, lease: Lease, lease_seconds: float) -> Renewal:
        length = int(lease_seconds * 1e6)
        expires: Document = {"$add": [NOW, length]}
        update = [{"$set": {"lease_expires_at": expires, "ready_at": expires}}]
        with self._store.errors():
            mine = {"_id": lease.flow_uuid, "token": lease.token}
            flow = self._take(mine, update, projection={"journal": 0, "meta": 0, "factory": 0})
        if flow is None:
            raise LeaseLost(lease.flow_uuid)
        lease.expires_at = int(flow["lease_expires_at"])
        return Renewal(lease.expires_at, lease.expires_at - length, pending_request(flow_record(flow)))

    def release(self, lease: Lease) -> None:
        held = self._commits.forget(lease.flow_uuid)
        given_up: Document = {"token": None, "lease_expires_at": None, "ready_at": {"$ifNull": ["$wake_at", 0]}}
        with self._store.errors():
            if held is not None:
                # What cannot be applied now stays in the journal, where readers and the next holder find it.
                with held.lock, contextlib.suppress(PyMongoError):
                    if held.token == lease.token and held.journal:
                        apply(self._store, held.life, held.journal)
                        given_up |= updates.trimmed(held.revision)
            mine = {"_id": lease.flow_uuid, "token": lease.token}
            done = self._store.repeated(lambda: self._store.flows.update_one(mine, [{"$set": given_up}]))
            if held is not None and held.life and not done.matched_count:
                discard_if_gone(self._store, lease.flow_uuid, held.life)

    def request(self, flow_uuid: str, kind: str, by: str) -> Request:
        check_request_kind(kind)
        unfinished = {"_id": flow_uuid, "op": None, "state": {"$in": sorted(flow_states.UNFINISHED)}}
        update = {"$set": {"request": kind, "request_by": by}, "$inc": {"request_sequence": 1}}
        with self._store.errors():
            for _ in range(books.OPERATION_ATTEMPTS):
                flow = self._store.flows.find_one_and_update(
                    unfinished, update, {"request_sequence": 1}, return_document=ReturnDocument.AFTER
                )
                if flow is not None:
                    return Request(kind, by, int(flow["request_sequence"]))
                if not operations.settle(self._store, flow_uuid):
                    raise NotFound(f"there is no flow {flow_uuid}")
                stored = operations.visible_flow(self._store, flow_uuid, {"journal": 0})
                if stored["state"] not in flow_states.UNFINISHED:
                    raise InvalidState(f"flow {flow_uuid} has finished: it is {stored['state']}")
        raise StorageFailure(f"flow {flow_uuid} is being changed by others all the time; ask again")


def _older_than(document: Document) -> Document:
    created_at = document["created_at"]
    same = {"created_at": created_at, "_id": {"$gt": document["_id"]}}
    return {"$or": [{"created_at": {"$gt": created_at}}, same]}
