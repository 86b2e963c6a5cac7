# SPDX-License-Identifier: Apache-2.0
"""Commits: one fenced update of the flow document each, with a journal of what the atom documents still lack."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from bson import encode
from bson.raw_bson import RawBSONDocument

from pluggableflow.connection import Changes, Lease
from pluggableflow.exceptions import LeaseLost, NotFound, PluggableFlowError, StorageFailure, ValueTooLarge
from pluggableflow.middleware import Record
from pluggableflow_mongodb.client import Document, Store
from pluggableflow_mongodb.flows import UNKNOWN_READY_AT, is_runnable
from pluggableflow_mongodb.journal import apply, atom_document, entry, of_life, overlay

#: The journal is applied before it would grow beyond either. Every commit makes the server rewrite the document that
#: holds it, every application costs a round trip.
JOURNAL_ENTRIES = 32
JOURNAL_BYTES = 2**16
#: A document has at most 16 MiB. The largest atom has six texts of VALUE_BYTES, the largest flow two, and one entry.
VALUE_BYTES = 2 * 2**20
COMMIT_BYTES = 4 * 2**20
ENTRY_BYTES = 11 * 2**20
#: Flows whose atoms' names are remembered at the same time.
REMEMBERED_FLOWS = 256


class Held:
    """What this process knows of a flow that it commits to: exactly the flow's state at ``revision``.

    That is no cache that can be outdated: a commit is refused by the server unless the flow still has this token and
    this revision, and only then is what follows from here written.

    :ivar names: atom name to uuid
    :ivar journal: what stands in the flow document
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.token: str | None = None
        self.revision = -1
        self.life = ""
        self.state: Any = None
        self.factory: Any = None
        self.names: dict[str, str] = {}
        self.uuids: set[str] = set()
        self.journal: list[Document] = []
        self.journal_bytes = 0


class Commits:
    """The hot path of one connection."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Held] = OrderedDict()

    def _after_fork(self) -> None:
        if os.getpid() != self._pid:
            self._start()  # another thread of the parent may have held a lock, which nobody here gives back

    def _of(self, flow_uuid: str) -> Held:
        self._after_fork()
        with self._lock:
            held = self._held.setdefault(flow_uuid, Held())
            self._held.move_to_end(flow_uuid)
            if len(self._held) > REMEMBERED_FLOWS:
                self._held.popitem(last=False)
            return held

    def forget(self, flow_uuid: str) -> Held | None:
        self._after_fork()
        with self._lock:
            return self._held.pop(flow_uuid, None)

    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        held = self._of(lease.flow_uuid)
        with held.lock:
            try:
                return self._commit(held, lease, revision, changes)
            except PluggableFlowError:
                raise
            except BaseException:
                held.token = None  # it may or may not have been written
                raise

    def _commit(self, held: Held, lease: Lease, revision: int, changes: Changes) -> int:
        if (held.token, held.revision) != (lease.token, revision) and not self._load(held, lease, revision):
            return revision + 1
        at = revision + 1
        added = [
            atom_document({**record, "parent_uuid": lease.flow_uuid, "revision": 1}, at, number)
            for number, record in enumerate(changes.added)
        ]
        try:
            names = self._checked(held, lease.flow_uuid, added, changes)
        except (StorageFailure, NotFound):
            # The atoms are read after the flow: they may be those of a holder that has taken it in between.
            if not self._load(held, lease, revision):
                return at
            raise
        columns: Document = {**changes.flow, "revision": at}
        update: Document = {"$set": columns, "$currentDate": {"updated_at": True}}
        columns.pop("updated_at", None)
        state, factory = columns.get("state", held.state), columns.get("factory", held.factory)
        if "state" in columns or "factory" in columns:
            if is_runnable(state, factory):
                columns["runnable"] = True
            else:
                update["$unset"] = {"runnable": ""}
        if "wake_at" in columns:
            columns["ready_at"] = UNKNOWN_READY_AT
        written = entry(at, added, changes.changed) if added or changes.changed else None
        size, trims = 0, False
        if written is not None:
            raw = RawBSONDocument(encode(written))
            size = len(raw.raw)
            if size > ENTRY_BYTES:
                raise ValueTooLarge(f"a commit of {size} bytes as BSON is larger than {ENTRY_BYTES}; make it smaller")
            trims = len(held.journal) >= JOURNAL_ENTRIES or held.journal_bytes + size > JOURNAL_BYTES
            trims = trims and bool(held.journal)
            columns["journaled"] = True
            if trims:
                columns["journal"] = [raw]
            else:
                update["$push"] = {"journal": raw}
            if added:
                update["$inc"] = {"atoms": len(added)}
        if trims:
            self._store.repeated(lambda: apply(self._store, held.life, held.journal))
        mine = {"_id": lease.flow_uuid, "token": lease.token, "revision": revision}
        # Named, so that the server does not try other indexes first.
        matched = self._store.repeated(lambda: self._store.flows.update_one(mine, update, hint="_id_").matched_count)
        if not matched:
            held.token = None
            self._explain_refusal(held, lease, revision)
            return at
        held.revision, held.state, held.factory = at, state, factory
        held.names.update(names)
        held.uuids.update(names.values())
        if trims:
            held.journal, held.journal_bytes = [], 0
        if written is not None:
            held.journal.append(written)
            held.journal_bytes += size
        return at

    def _load(self, held: Held, lease: Lease, revision: int) -> bool:
        """Learn the atoms of a flow, once per lease. False if this very commit was applied before."""
        held.token = None
        wanted = ("token", "revision", "life", "state", "factory", "journal")
        flow = self._store.repeated(
            lambda: self._store.flows.find_one({"_id": lease.flow_uuid}, dict.fromkeys(wanted, 1))
        )
        if flow is None or flow["token"] != lease.token or flow["revision"] not in (revision, revision + 1):
            raise LeaseLost(lease.flow_uuid)
        if flow["revision"] == revision + 1:
            return False
        projection = {"_id": 0, "uuid": 1, "name": 1, "at": 1}
        found = self._store.repeated(lambda: list(self._store.atoms.find(of_life(flow["life"]), projection)))
        atoms = {document["uuid"]: document for document in found}
        overlay(atoms, flow["journal"])
        held.names = {document["name"]: document["uuid"] for document in atoms.values()}
        held.uuids = set(atoms)
        held.life, held.state, held.factory = flow["life"], flow["state"], flow["factory"]
        held.journal = flow["journal"]
        held.journal_bytes = len(encode({"journal": flow["journal"]}))
        held.token, held.revision = lease.token, revision
        return True

    @staticmethod
    def _checked(held: Held, flow_uuid: str, added: list[Document], changes: Changes) -> dict[str, str]:
        """The names of the added atoms with their uuids; refuses what the flow has already, or lacks."""
        names: dict[str, str] = {}
        uuids = set()
        for document in added:
            name, uuid = document["name"], document["uuid"]
            if name in held.names or name in names:
                raise StorageFailure(f"flow {flow_uuid} has an atom {name!r} already")
            if uuid in held.uuids or uuid in uuids:
                raise StorageFailure(f"flow {flow_uuid} has an atom {uuid} already")
            names[name] = uuid
            uuids.add(uuid)
        for uuid in changes.changed:
            if uuid not in held.uuids and uuid not in uuids:
                raise NotFound(f"flow {flow_uuid} has no atom {uuid}")
        return names

    def _explain_refusal(self, held: Held, lease: Lease, revision: int) -> None:
        """The fence did not hold: was this very commit applied before, or is the lease lost?"""
        flows = self._store.flows
        flow = self._store.repeated(
            lambda: flows.find_one({"_id": lease.flow_uuid}, {"token": 1, "revision": 1, "life": 1})
        )
        if flow is None or flow["life"] != held.life:
            # What a late application may have written for a flow that was destroyed meanwhile belongs to nobody.
            self._store.atoms.delete_many(of_life(held.life))
        if flow is None or (flow["token"], flow["revision"]) != (lease.token, revision + 1):
            raise LeaseLost(lease.flow_uuid)


def refuse_if_too_large(records: list[Record]) -> None:
    """:raises ValueTooLarge: a text has more than ``VALUE_BYTES``"""
    for record in records:
        for column, value in record.items():
            if type(value) is str and len(value) > VALUE_BYTES:
                raise ValueTooLarge(f"{column} has {len(value)} bytes, at most {VALUE_BYTES} can be stored")


def refuse_duplicates(flow_uuid: str, names: Mapping[str, str], records: list[Record]) -> None:
    """:raises StorageFailure: the flow would have an atom's name twice"""
    known = dict(names)
    for record in records:
        if known.setdefault(str(record["name"]), str(record["uuid"])) != record["uuid"]:
            raise StorageFailure(f"flow {flow_uuid} has an atom {record['name']!r} already")
