# SPDX-License-Identifier: Apache-2.0
"""Flow documents: their form, conditions on them in the server's time, and reads that are one snapshot."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from pluggableflow import states
from pluggableflow.exceptions import DamagedRecord, FlowOwned, NotFound, StorageFailure
from pluggableflow.middleware import (
    FLOW_COLUMNS,
    INTEGER_COLUMNS,
    AtomDetail,
    FlowDetail,
    Record,
    new_uuid,
)
from pluggableflow_mongodb.client import Document, Store
from pluggableflow_mongodb.journal import atom_detail, of_life, overlay

#: The server's time is in milliseconds. What is granted or stored counts from the beginning of the present one; a
#: lease has run out if it ends before the end of the present one, so the shortest lease ends with its statement.
NOW: Document = {"$multiply": [{"$toLong": "$$NOW"}, 1000]}
NOW_END: Document = {"$add": [NOW, 999]}
LEASED: Document = {"$and": [{"$ne": [{"$ifNull": ["$token", None]}, None]}, {"$gt": ["$lease_expires_at", NOW_END]}]}
#: When a scan has to look at a flow again; 0 is now. While it is leased, that is when the lease ends.
READY_AT: Document = {
    "$cond": [LEASED, "$lease_expires_at", {"$cond": [{"$gt": ["$wake_at", NOW]}, "$wake_at", 0]}],
}
#: Makes the next scan compute READY_AT.
UNKNOWN_READY_AT = 1
#: Read by a snapshot again and again only while commits are applied in between.
SNAPSHOT_ATTEMPTS = 1000

_EPOCH = datetime.datetime(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)
_DEFAULTS: Record = {
    **dict.fromkeys(FLOW_COLUMNS), "name": "", "state": "", "revision": 0, "epoch": 0,
    "request_sequence": 0, "request_handled": 0, "priority": 0, "codec_version": 0,
}  # fmt: skip


def microseconds(moment: Any) -> Any:
    """A time of the driver as microseconds; anything else as it is."""
    if isinstance(moment, datetime.datetime):
        return (moment.replace(tzinfo=None) - _EPOCH) // _MICROSECOND
    return moment


def new_flow_document(record: Record, op: str, book_uuid: str, now: int) -> Document:
    """A flow that is hidden until the operation ``op`` has been committed. Its atoms are still to be added."""
    document: Document = {column: value for column, value in record.items() if column != "uuid"}
    document |= {"_id": record["uuid"], "parent_uuid": book_uuid, "created_at": now}
    document |= {"updated_at": _EPOCH + now * _MICROSECOND, "life": new_uuid()[:16], "op": op}
    document |= {"atoms": 0, "journal": [], "ready_at": UNKNOWN_READY_AT}
    if is_runnable(record["state"], record["factory"]):
        document["runnable"] = True
    return document


def is_runnable(state: Any, factory: Any) -> bool:
    """Whether a scan may take such a flow. The field is left out otherwise, which keeps it out of the index."""
    return state in states.RUNNABLE and factory is not None


def flow_record(document: Mapping[str, Any]) -> Record:
    record = {column: document.get(column, default) for column, default in _DEFAULTS.items()}
    record["uuid"] = document["_id"]
    record["updated_at"] = microseconds(record["updated_at"])
    for column in INTEGER_COLUMNS & record.keys():
        if isinstance(record[column], int):
            record[column] = int(record[column])  # the driver gives a subclass
    return record


def refuse_if_leased(document: Mapping[str, Any]) -> None:
    """:raises FlowOwned: a flow document with the field ``now`` has a live lease"""
    left = (document.get("lease_expires_at") or 0) - microseconds(document["now"])
    if document.get("token") is not None and left > 999:
        raise FlowOwned(document["_id"], document["owner"], document["epoch"], left / 1e6)


def with_now(store: Store, condition: Document) -> list[Document]:
    """Flow documents with the server's time in the field ``now``."""
    return list(store.flows.aggregate([{"$match": condition}, {"$set": {"now": "$$NOW"}}]))


def snapshot(store: Store, read_flow: Any, atom: str | None = None) -> tuple[Document, dict[str, Document]]:
    """A flow document and its atom documents by uuid, all as they were at one revision of the flow.

    An atom that has seen a later revision, or one too few or too many, shows that the flow went on in between: then
    both are read again.

    :param read_flow: reads the flow document; raises NotFound
    :param atom: uuid of the only atom to be read
    """
    before: Any = None
    for _ in range(SNAPSHOT_ATTEMPTS):
        flow: Document = read_flow()
        one = {} if atom is None else {"_id": f"{flow['life']}/{atom}"}
        found = store.atoms.find(one or of_life(flow["life"]))
        atoms = {document["uuid"]: document for document in found}
        current = all(document["at"] <= flow["revision"] for document in atoms.values())
        complete = overlay(atoms, flow["journal"])
        if atom is not None:
            if current and atom in atoms:
                return flow, {atom: atoms[atom]}
        elif current and complete and len(atoms) == flow["atoms"]:
            return flow, atoms
        seen = (flow["life"], flow["revision"], len(flow["journal"]))
        if current and seen == before:
            if atom is not None:
                raise NotFound(f"there is no atom {atom}")
            raise DamagedRecord("flow", flow["_id"], f"it has {flow['atoms']} atoms, of which {len(atoms)} were found")
        before = seen
    raise StorageFailure(f"flow {flow['_id']} changes faster than it can be read from {store.place}; try again")


def ordered(atoms: dict[str, Document], flow_uuid: str) -> list[AtomDetail]:
    documents = sorted(atoms.values(), key=lambda document: document["position"])
    return [atom_detail(document, flow_uuid) for document in documents]


def flow_detail(document: Document, atoms: dict[str, Document]) -> FlowDetail:
    record = flow_record(document)
    return FlowDetail.from_record(record, ordered(atoms, document["_id"]))
