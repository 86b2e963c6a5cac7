# SPDX-License-Identifier: Apache-2.0
"""Writes to a flow that nobody holds, which go through its journal as commits do, and what they share with others."""

from __future__ import annotations

import contextlib
from typing import Any

from bson import encode
from pymongo.errors import PyMongoError

from pluggableflow.exceptions import NotFound, StorageFailure, ValueTooLarge
from pluggableflow.middleware import FLOW_OWNERSHIP_COLUMNS, Record
from pluggableflow_mongodb.books import OPERATION_ATTEMPTS
from pluggableflow_mongodb.client import Document, Store
from pluggableflow_mongodb.commits import ENTRY_BYTES, refuse_duplicates
from pluggableflow_mongodb.flows import LEASED, UNKNOWN_READY_AT, is_runnable, refuse_if_leased, snapshot, with_now
from pluggableflow_mongodb.journal import apply, atom_document, discard_if_gone, entry
from pluggableflow_mongodb.operations import settle, visible_flow

_NOT_UPDATED = frozenset({*FLOW_OWNERSHIP_COLUMNS, "uuid", "parent_uuid", "created_at", "updated_at"})


def trim(store: Store, flow: Document) -> None:
    """Empty the journal of a flow document, all of which was applied, unless the flow has gone on since."""
    same = {"_id": flow["_id"], "life": flow["life"], "revision": flow["revision"]}
    done = store.flows.update_one(same, {"$set": {"journal": []}, "$unset": {"journaled": ""}})
    if not done.matched_count:
        discard_if_gone(store, flow["_id"], flow["life"])


def trimmed(revision: int) -> Document:
    """The same as a part of an update by aggregation."""
    same = {"$eq": ["$revision", revision]}
    return {
        "journal": {"$cond": [same, [], "$journal"]},
        "journaled": {"$cond": [same, "$$REMOVE", "$journaled"]},
    }


def flow_of_atom(store: Store, atom_uuid: str) -> str:
    """The flow of an atom, which may stand in a journal only.

    :raises NotFound: readers see no such atom
    """
    # It moves from the journal to its own document, so it is not missed if that is looked for last.
    for collection in (store.atoms, store.flows, store.atoms):
        if collection is store.flows:
            condition: Document = {"journaled": True, "journal.added.uuid": atom_uuid}
            found = [flow["_id"] for flow in store.flows.find(condition, {"_id": 1})]
        else:
            found = [atom["parent_uuid"] for atom in store.atoms.find({"uuid": atom_uuid}, {"parent_uuid": 1})]
        for flow_uuid in found:
            with contextlib.suppress(NotFound):
                flow = visible_flow(store, flow_uuid)
                in_journal = any(atom["uuid"] == atom_uuid for each in flow["journal"] for atom in each["added"])
                if in_journal or store.atoms.count_documents({"_id": f"{flow['life']}/{atom_uuid}"}):
                    return str(flow_uuid)
    raise NotFound(f"there is no atom {atom_uuid}")


def _write(store: Store, flow_uuid: str, prepare: Any) -> None:
    """Raise a flow's revision by two with what ``prepare(flow, atoms)`` makes of its snapshot: columns and an entry."""
    for _ in range(OPERATION_ATTEMPTS):
        if not settle(store, flow_uuid):
            raise NotFound(f"there is no flow {flow_uuid}")
        for found in with_now(store, {"_id": flow_uuid}):
            refuse_if_leased(found)
        flow, atoms = snapshot(store, lambda: visible_flow(store, flow_uuid))
        at = flow["revision"] + 2
        columns, written = prepare(flow, atoms, at)
        if len(encode(written)) > ENTRY_BYTES:
            raise ValueTooLarge(f"more than {ENTRY_BYTES} bytes of atoms have changed; update them one by one")
        if flow["journal"]:
            apply(store, flow["life"], flow["journal"])
            trim(store, flow)
        update: Document = {
            "$set": {**columns, "revision": at, "ready_at": UNKNOWN_READY_AT, "journal": [written], "journaled": True},
            "$inc": {"atoms": len(written["added"])},
        }
        if columns:
            update["$currentDate"] = {"updated_at": True}
            if is_runnable(columns["state"], columns["factory"]):
                update["$set"]["runnable"] = True
            else:
                update["$unset"] = {"runnable": ""}
        same = {"_id": flow_uuid, "life": flow["life"], "revision": flow["revision"], "op": None}
        if store.flows.update_one({**same, "$expr": {"$not": LEASED}}, update).matched_count:
            with contextlib.suppress(PyMongoError):  # it is written; the next holder applies it
                apply(store, flow["life"], [written])
                trim(store, {**flow, "revision": at})
            return
    raise StorageFailure(f"flow {flow_uuid} is being changed by others all the time; update it again")


def update_flow(store: Store, record: Record, records: list[Record]) -> None:
    flow_uuid = str(record["uuid"])

    def prepare(_flow: Document, atoms: dict[str, Document], at: int) -> tuple[Document, Document]:
        refuse_duplicates(flow_uuid, {atom["name"]: uuid for uuid, atom in atoms.items()}, records)
        added: list[Document] = []
        changed: dict[str, Record] = {}
        for each in records:
            known = atoms.get(str(each["uuid"]))
            if known is None:
                added.append(atom_document({**each, "parent_uuid": flow_uuid}, at, len(added)))
            elif columns := _differences(known, each):
                changed[str(each["uuid"])] = columns
        written = entry(at, added, changed)
        return {column: value for column, value in record.items() if column not in _NOT_UPDATED}, written

    _write(store, flow_uuid, prepare)


def update_atom(store: Store, record: Record) -> None:
    atom_uuid = str(record["uuid"])

    def prepare(flow: Document, atoms: dict[str, Document], at: int) -> tuple[Document, Document]:
        if atom_uuid not in atoms:
            raise NotFound(f"there is no atom {atom_uuid}")
        refuse_duplicates(flow["_id"], {atom["name"]: uuid for uuid, atom in atoms.items()}, [record])
        columns = _differences(atoms[atom_uuid], {**record, "kind": atoms[atom_uuid]["kind"]})
        return {}, entry(at, changed={atom_uuid: columns} if columns else {})

    _write(store, flow_of_atom(store, atom_uuid), prepare)


def _differences(known: Document, record: Record) -> Record:
    """The columns that differ; with the revision in any case, since an entry would count it up otherwise."""
    columns = {
        column: value
        for column, value in record.items()
        if column not in ("uuid", "parent_uuid") and known.get(column) != value
    }
    return {**columns, "revision": record["revision"]} if columns else {}
