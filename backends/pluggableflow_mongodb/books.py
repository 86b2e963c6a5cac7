# SPDX-License-Identifier: Apache-2.0
"""Logbooks: reading one as a whole, saving and destroying one in a step that readers see happen at once."""

from __future__ import annotations

import contextlib
import random
from functools import partial
from typing import Any

from bson import encode
from pymongo import ReturnDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from pluggableflow.exceptions import FlowOwned, NotFound, PluggableFlowError, StorageFailure
from pluggableflow.middleware import FlowDetail, LogBook, Record, new_uuid
from pluggableflow_mongodb.client import ATTEMPTS, Document, Store, pause
from pluggableflow_mongodb.commits import refuse_duplicates, refuse_if_too_large
from pluggableflow_mongodb.flows import (
    LEASED,
    NOW,
    SNAPSHOT_ATTEMPTS,
    UNKNOWN_READY_AT,
    flow_detail,
    flow_record,
    microseconds,
    new_flow_document,
    refuse_if_leased,
    snapshot,
    with_now,
)
from pluggableflow_mongodb.journal import DUPLICATE_KEY, atom_document, entry, insert, of_life
from pluggableflow_mongodb.operations import (
    DESTROY,
    SAVE,
    is_visible_book,
    settle,
    tidy,
    unmark,
    visible,
    visible_flow,
)

#: The atoms of a new flow are written into its document if they are smaller than this.
EMBEDDED_BYTES = 2**16
#: One after the other, operations of several processes on one book interrupt each other at most so often.
OPERATION_ATTEMPTS = 50
#: New flows that are written between two signs of life.
WRITTEN_AT_ONCE = 500


# -- reading ------------------------------------------------------------------------------------------------------


def find_book(store: Store, book_uuid: str) -> Document:
    book = store.books.find_one({"_id": book_uuid})
    if book is None or not is_visible_book(book):
        raise NotFound(f"there is no logbook {book_uuid}")
    return book


def read_book(store: Store, book_uuid: str, lazy: bool) -> LogBook:
    """A book; with its flows from a moment at which nobody has decided an operation on it."""
    book = find_book(store, book_uuid)
    if lazy:
        return LogBook.from_record(_book_record(book))
    for _ in range(SNAPSHOT_ATTEMPTS):
        flows = _try_flows(store, book_uuid, lazy=False)
        again = find_book(store, book_uuid)
        if flows is not None and again["edition"] == book["edition"]:
            return LogBook.from_record(_book_record(book), flows)
        book = again
    raise StorageFailure(f"logbook {book_uuid} changes faster than it can be read from {store.place}; try again")


def read_books(store: Store, lazy: bool) -> list[LogBook]:
    books = [book for book in store.books.find().sort([("created_at", 1), ("_id", 1)]) if is_visible_book(book)]
    found = []
    for book in books:
        with contextlib.suppress(NotFound):  # it was destroyed in between
            found.append(LogBook.from_record(_book_record(book)) if lazy else read_book(store, book["_id"], lazy))
    return found


def read_flows(store: Store, book_uuid: str, lazy: bool) -> list[FlowDetail]:
    for _ in range(SNAPSHOT_ATTEMPTS):
        edition = find_book(store, book_uuid)["edition"]
        flows = _try_flows(store, book_uuid, lazy)
        if flows is not None and find_book(store, book_uuid)["edition"] == edition:
            return flows
    raise StorageFailure(f"logbook {book_uuid} changes faster than it can be read from {store.place}; try again")


def _try_flows(store: Store, book_uuid: str, lazy: bool) -> list[FlowDetail] | None:
    """The flows of a book, or ``None`` if one was deleted while they were read."""
    order = [("created_at", 1), ("_id", 1)]
    documents = visible(store, list(store.flows.find({"parent_uuid": book_uuid}, {"journal": 0}).sort(order)))
    if lazy:
        return [FlowDetail.from_record(flow_record(document)) for document in documents]
    try:
        uuids = [document["_id"] for document in documents]
        return [flow_detail(*snapshot(store, lambda uuid=uuid: visible_flow(store, uuid))) for uuid in uuids]
    except NotFound:
        return None


def _book_record(book: Document) -> Record:
    record: Record = {column: book.get(column) for column in ("name", "meta", "created_at", "updated_at")}
    for column in ("created_at", "updated_at"):
        if isinstance(record[column], int):
            record[column] = int(record[column])  # type: ignore[arg-type]  # the driver gives a subclass
    return {"uuid": book["_id"], **record}


# -- saving -------------------------------------------------------------------------------------------------------


def save_book(store: Store, book: LogBook, flows: list[tuple[FlowDetail, Record, list[Record]]]) -> None:
    record = book.to_record()
    refuse_if_too_large([record])
    for attempt in range(OPERATION_ATTEMPTS):
        op = SAVE + new_uuid()
        try:
            opened = store.repeated(partial(_open, store, record, op))
        except DuplicateKeyError:
            tidy(store, book.uuid)  # a book of this uuid was destroyed, but not yet deleted
            continue
        now, lives = microseconds(opened["touched"]), list[str]()
        try:
            # Only now: that a flow exists holds until the decision, since destroying it would be one against this.
            known = _known_flows(store, [detail.uuid for detail, _flow, _atoms in flows])
            fresh = [each for each in flows if each[0].uuid not in known]
            for _detail, flow, atoms in fresh:
                refuse_duplicates(str(flow["uuid"]), {}, atoms)
                refuse_if_too_large([flow, *atoms])
            written = all(
                (start == 0 or _still_open(store, book.uuid, op))
                and _write_hidden(store, book.uuid, op, now, fresh[start : start + WRITTEN_AT_ONCE], lives)
                for start in range(0, len(fresh), WRITTEN_AT_ONCE)
            )
        except (PluggableFlowError, PyMongoError):
            with contextlib.suppress(PyMongoError):
                _abandon(store, book.uuid, op, lives)
            raise
        stored = store.repeated(partial(_decide_save, store, record, op)) if written else None
        if stored is not None:
            book.created_at, book.updated_at = int(stored["created_at"]), int(stored["updated_at"])
            for detail, _flow, _atoms in fresh:
                detail.created_at = detail.updated_at = now
            with contextlib.suppress(PyMongoError):  # it is saved; what is left to do, anybody does
                unmark(store, {"_id": {"$in": [detail.uuid for detail, _, _ in fresh]}, "op": op})
                _cross_off(store, book.uuid, op)
            return
        _abandon(store, book.uuid, op, lives)
        pause(min(attempt, ATTEMPTS))
    raise StorageFailure(f"logbook {book.uuid} is being changed by others all the time; save it again")


def _still_open(store: Store, book_uuid: str, op: str) -> bool:
    """Show that the author of an operation lives, lest a sweep takes it for abandoned. False if somebody did."""
    alive = {"$currentDate": {"touched": True}}
    return store.books.update_one({"_id": book_uuid, "open": op}, alive).matched_count == 1


def _abandon(store: Store, book_uuid: str, op: str, lives: list[str]) -> None:
    store.books.update_one({"_id": book_uuid}, {"$pull": {"open": op}})
    tidy(store, book_uuid)
    # Whoever has deleted our flows may have done so before their atoms were written.
    alive = {flow["life"] for flow in store.flows.find({"parent_uuid": book_uuid, "life": {"$in": lives}}, {"life": 1})}
    for life in lives:
        if life not in alive:
            store.atoms.delete_many(of_life(life))


def _known_flows(store: Store, uuids: list[str]) -> set[str]:
    """Those flows that readers see. What is left of others with these uuids is decided against, and deleted."""
    documents = list(store.flows.find({"_id": {"$in": uuids}}, {"op": 1, "life": 1, "parent_uuid": 1}))
    known = {document["_id"] for document in visible(store, documents)}
    for document in documents:
        if document["_id"] not in known:
            store.books.update_one({"_id": document["parent_uuid"]}, {"$pull": {"open": document["op"]}})
            tidy(store, document["parent_uuid"])
    return known


def _open(store: Store, record: Record, op: str) -> Any:
    """Enter an operation into its book, which is made, hidden, if it does not exist."""
    new = {"name": record["name"], "meta": record["meta"], "created_at": None, "updated_at": None}
    found = store.books.find_one_and_update(
        {"_id": record["uuid"], "destroyed": None},
        {
            "$addToSet": {"open": op},
            "$set": {"unsettled": True},
            "$currentDate": {"touched": True},
            "$setOnInsert": {**new, "hidden": True, "saves": [], "edition": random.getrandbits(48)},
        },
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return found


def _write_hidden(
    store: Store,
    book_uuid: str,
    op: str,
    now: int,
    flows: list[tuple[FlowDetail, Record, list[Record]]],
    lives: list[str],
) -> bool:
    """Write new flows with their atoms so that nobody sees them yet. False if somebody else writes one of them.

    :param lives: those whose atoms are written by themselves are appended
    """
    documents, separate = [], []
    for _detail, flow, records in flows:
        document = new_flow_document(flow, op, book_uuid, now)
        atoms = [
            atom_document({**record, "parent_uuid": flow["uuid"]}, 0, number) for number, record in enumerate(records)
        ]
        document["atoms"] = len(atoms)
        embedded = entry(int(flow["revision"] or 0), atoms)
        if len(encode(embedded)) > EMBEDDED_BYTES:
            life, at = document["life"], embedded["at"]
            lives.append(life)
            separate += [{"_id": f"{life}/{atom['uuid']}", **atom, "at": at} for atom in atoms]
        elif atoms:
            document |= {"journal": [embedded], "journaled": True}
        documents.append(document)
    if not _inserted(store, documents):
        return False
    insert(store, separate)
    return True


def _inserted(store: Store, documents: list[Document]) -> bool:
    try:
        store.flows.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if error.details["writeConcernErrors"] or any(
            each["code"] != DUPLICATE_KEY for each in error.details["writeErrors"]
        ):
            raise
        # They may be there because the driver sent this twice.
        uuids, lives = ([document[key] for document in documents] for key in ("_id", "life"))
        return store.flows.count_documents({"_id": {"$in": uuids}, "life": {"$in": lives}}) == len(documents)
    return True


def _decide_save(store: Store, record: Record, op: str) -> Document | None:
    mine: Document = {"_id": record["uuid"], "$or": [{"open": op}, {"saves": op}]}
    written = {
        "meta": {"$literal": record["meta"]},
        "created_at": {"$ifNull": ["$created_at", NOW]},
        "updated_at": NOW,
        "edition": {"$add": ["$edition", 1]},
        "open": [],
        "saves": {"$setUnion": ["$saves", [op]]},
    }
    return store.books.find_one_and_update(
        mine, [{"$set": written}, {"$unset": "hidden"}], return_document=ReturnDocument.AFTER
    )


def _cross_off(store: Store, book_uuid: str, op: str) -> None:
    store.books.update_one(
        {"_id": book_uuid, "open": [], "saves": [op], "destroyed": None},
        {"$set": {"saves": []}, "$unset": {"unsettled": ""}},
    )
    store.books.update_one({"_id": book_uuid, "saves": op}, {"$pull": {"saves": op}})


# -- destroying ---------------------------------------------------------------------------------------------------


def destroy_book(store: Store, book_uuid: str, force: bool) -> None:
    for attempt in range(OPERATION_ATTEMPTS):
        find_book(store, book_uuid)
        op = DESTROY + new_uuid()
        if not force:
            _refuse_if_any_is_leased(store, book_uuid)
        store.books.update_one(
            {"_id": book_uuid, "destroyed": None},
            {"$addToSet": {"open": op}, "$set": {"unsettled": True}, "$currentDate": {"touched": True}},
        )
        try:
            decided = _mark_all(store, book_uuid, op, force) and _decide_destroy(store, book_uuid, op)
        except FlowOwned:
            _give_up(store, book_uuid, op)
            raise
        if decided:
            with contextlib.suppress(PyMongoError):  # nobody sees it any more
                tidy(store, book_uuid)
            return
        _give_up(store, book_uuid, op)
        pause(min(attempt, ATTEMPTS))
    raise StorageFailure(f"logbook {book_uuid} is being changed by others all the time; destroy it again")


def _refuse_if_any_is_leased(store: Store, book_uuid: str) -> None:
    leased = with_now(store, {"parent_uuid": book_uuid, "token": {"$ne": None}})
    for flow in visible(store, leased):
        refuse_if_leased(flow)


def _mark_all(store: Store, book_uuid: str, op: str, force: bool) -> bool:
    """Take every flow of a book out of its holder's hands, and keep new holders away.

    :returns: whether all are marked; else what hindered it was cleared away, and the operation is to start again
    """
    free: Any = {} if force else {"$expr": {"$not": LEASED}}
    fence = {"op": op, "token": None, "lease_expires_at": None, "ready_at": UNKNOWN_READY_AT}
    store.flows.update_many({"parent_uuid": book_uuid, "op": None, **free}, {"$set": fence})
    clear = True
    for flow in visible(store, list(store.flows.find({"parent_uuid": book_uuid, "op": {"$ne": op}}, {"journal": 0}))):
        clear = False
        if flow.get("op") is not None:
            settle(store, flow["_id"])
        elif not force:
            _refuse_if_any_is_leased(store, book_uuid)
    return clear


def _decide_destroy(store: Store, book_uuid: str, op: str) -> bool:
    decision: Document = {"$set": {"destroyed": op, "open": []}, "$inc": {"edition": 1}}
    mine = {"_id": book_uuid, "open": op}
    decided = store.repeated(lambda: store.books.update_one(mine, decision).matched_count)
    return decided == 1 or store.books.count_documents({"_id": book_uuid, "destroyed": op}) == 1


def _give_up(store: Store, book_uuid: str, op: str) -> None:
    store.books.update_one({"_id": book_uuid}, {"$pull": {"open": op}})
    unmark(store, {"parent_uuid": book_uuid, "op": op})
