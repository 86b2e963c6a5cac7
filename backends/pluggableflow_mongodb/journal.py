# SPDX-License-Identifier: Apache-2.0
"""Atom documents, and the journal of a flow document: make entries, overlay them on atoms, apply them for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from pluggableflow.middleware import ATOM_COLUMNS, INTEGER_COLUMNS, AtomDetail, Record
from pluggableflow_mongodb.client import Document, Store

DUPLICATE_KEY = 11000
#: Positions of the atoms that one revision of a flow adds lie between it and the next one.
_POSITIONS_BITS = 24
_DEFAULTS: Record = {
    **dict.fromkeys(ATOM_COLUMNS),
    "version": "1.0", "state": "PENDING", "intention": "EXECUTE", "attempt": 0, "revision": 0,
}  # fmt: skip


def atom_document(record: Mapping[str, Any], at: int, number: int) -> Document:
    """What is stored of a new atom: columns without a value are left out.

    :param at: revision of the flow that adds it
    :param number: of the atoms that this revision adds
    """
    document = {column: value for column, value in record.items() if value is not None}
    document["position"] = (at << _POSITIONS_BITS) | number
    return document


def entry(at: int, added: Iterable[Document] = (), changed: Mapping[str, Record] | None = None) -> Document:
    """What one revision of a flow does to its atoms. Ids are values, not keys: they may contain dots."""
    changes = [{"uuid": uuid, "columns": columns} for uuid, columns in (changed or {}).items()]
    return {"at": at, "added": list(added), "changed": changes}


def overlay(atoms: dict[str, Document], journal: Iterable[Document]) -> bool:
    """Bring atom documents, by uuid, to the state after all entries; what they have seen already is passed over.

    :returns: whether every atom that the journal changes is there
    """
    complete = True
    for each in journal:
        for document in each["added"]:
            if document["uuid"] not in atoms:
                atoms[document["uuid"]] = {**document, "at": each["at"]}
        for change in each["changed"]:
            known = atoms.get(change["uuid"])
            if known is None:
                complete = False
            elif known["at"] < each["at"]:
                _take_over(known, change["columns"], each["at"])
    return complete


def _take_over(document: Document, columns: Mapping[str, Any], at: int) -> None:
    revision = document.get("revision", 0) + 1
    document.update(columns)
    if "revision" not in columns:
        document["revision"] = revision
    document["at"] = at


def apply(store: Store, life: str, journal: Sequence[Document]) -> None:
    """Bring the atom documents of a flow to the state after all entries. Repeating it, or doing it late, is harmless.

    Each statement is guarded by ``at``: an atom that has seen the entry, or a later one, is left alone. An atom that
    the journal adds is written in its last state, and one statement per entry then only follows if it existed.
    """
    added: dict[str, Document] = {}
    for each in journal:
        for document in each["added"]:
            added[document["uuid"]] = {"_id": f"{life}/{document['uuid']}", **document, "at": each["at"]}
        for change in each["changed"]:
            if change["uuid"] in added:
                _take_over(added[change["uuid"]], change["columns"], each["at"])
    fresh = insert(store, list(added.values()))
    updates = [
        UpdateOne({"_id": f"{life}/{change['uuid']}", "at": {"$lt": each["at"]}}, _update(change, each["at"]))
        for each in journal
        for change in each["changed"]
        if change["uuid"] not in fresh
    ]
    if updates:
        store.atoms.bulk_write(updates, ordered=True)


def _update(change: Document, at: int) -> Document:
    columns = {**change["columns"], "at": at}
    return {"$set": columns} if "revision" in columns else {"$set": columns, "$inc": {"revision": 1}}


def insert(store: Store, documents: Sequence[Document]) -> set[str]:
    """Insert atom documents, and return the uuids of those that were not there yet."""
    fresh = {document["uuid"] for document in documents}
    if not documents:
        return fresh
    try:
        store.atoms.bulk_write([InsertOne(document) for document in documents], ordered=False)
    except BulkWriteError as error:
        faults = error.details["writeErrors"]
        if error.details["writeConcernErrors"] or any(fault["code"] != DUPLICATE_KEY for fault in faults):
            raise
        fresh -= {documents[fault["index"]]["uuid"] for fault in faults}
    return fresh


def of_life(life: str) -> Document:
    """The condition that an atom document belongs to a flow; a range of the index on ``_id``."""
    return {"_id": {"$gte": f"{life}/", "$lt": f"{life}0"}}  # "0" is the character after "/"


def discard_if_gone(store: Store, flow_uuid: str, life: str) -> None:
    """Delete the atoms of a flow that was destroyed; a late application may have written them after that."""
    if store.flows.find_one({"_id": flow_uuid, "life": life}, {"_id": 1}) is None:
        store.atoms.delete_many(of_life(life))


def atom_detail(document: Mapping[str, Any], flow_uuid: str) -> AtomDetail:
    record = {column: document.get(column, default) for column, default in _DEFAULTS.items()}
    for column in INTEGER_COLUMNS & record.keys():
        if isinstance(record[column], int):
            record[column] = int(record[column])  # the driver gives a subclass
    record["parent_uuid"] = flow_uuid
    return AtomDetail.from_record(record)
