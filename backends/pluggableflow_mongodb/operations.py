# SPDX-License-Identifier: Apache-2.0
"""Operations on a book and its flows that readers see happen in one step: what became of one, and who cleans up.

An operation has an id, ``save:...`` or ``destroy:...``. It enters itself into ``open`` of its book, marks the flows
with it (``op``), and is decided by one update of the book that requires it still to be in ``open``. Anybody may
decide otherwise by taking it out; then that update finds nothing, and its author starts again. An id is never used
twice, so an operation that was taken out stays undone for good, however late its author wakes.
"""

from __future__ import annotations

from typing import Any

from pluggableflow.exceptions import NotFound
from pluggableflow_mongodb.client import Document, Store
from pluggableflow_mongodb.flows import READY_AT
from pluggableflow_mongodb.journal import of_life

SAVE, DESTROY = "save:", "destroy:"
#: Marks a flow that nobody sees any more, and whose documents are being deleted.
GONE = "gone:"

#: Undecided operations younger than this are left to their authors by a sweep.
ABANDONED_MS = 60_000
DELETED_AT_ONCE = 200


def is_visible_book(book: Document | None) -> bool:
    return book is not None and not book.get("destroyed") and not book.get("hidden")


def is_visible(op: str | None, book: Document | None) -> bool:
    """Whether readers see a flow with this mark, going by its book."""
    if op is None:
        return True
    if op == GONE or book is None or book.get("destroyed"):
        return False
    return op.startswith(DESTROY) or op in book["saves"]


def visible(store: Store, documents: list[Document]) -> list[Document]:
    """Those flow documents that readers see."""
    marked = [document for document in documents if document.get("op") is not None]
    if not marked:
        return documents
    uuids = sorted({document["parent_uuid"] for document in marked})
    books = {book["_id"]: book for book in store.books.find({"_id": {"$in": uuids}})}
    found = []
    for document in documents:
        if not is_visible(document.get("op"), books.get(document["parent_uuid"])):
            # A save is crossed off its book after its mark was taken off the flows, so look at the flow once more.
            same = {"_id": document["_id"], "life": document["life"]}
            again = store.flows.find_one(same, {"op": 1, "parent_uuid": 1, "life": 1})
            if again is None or again.get("op") == document["op"] or not visible(store, [again]):
                continue
        found.append(document)
    return found


def visible_flow(store: Store, flow_uuid: str, projection: Any = None) -> Document:
    """One flow document, for reading.

    :raises NotFound: readers see no such flow
    """
    document = store.flows.find_one({"_id": flow_uuid}, projection)
    if document is None or not visible(store, [document]):
        raise NotFound(f"there is no flow {flow_uuid}")
    return document


def settle(store: Store, flow_uuid: str) -> bool:
    """Take the mark off a flow that is to be written, deciding against what would destroy it.

    :returns: whether there is such a flow for readers
    """
    while True:
        flow = store.flows.find_one({"_id": flow_uuid}, {"op": 1, "parent_uuid": 1, "life": 1})
        if flow is None:
            return False
        op = flow.get("op")
        if op is None:
            return True
        book = store.books.find_one({"_id": flow["parent_uuid"]})
        if not is_visible(op, book):
            if visible(store, [flow]):
                continue
            return False
        if op.startswith(DESTROY):
            gave_up = {"$pull": {"open": op}}
            if book is not None and op in book["open"] and not _decided(store, book["_id"], op, gave_up):
                continue
        unmark(store, {"_id": flow_uuid, "op": op})


def _decided(store: Store, book_uuid: str, op: str, update: Document) -> bool:
    return store.books.update_one({"_id": book_uuid, "open": op}, update).matched_count == 1


def unmark(store: Store, condition: Document) -> None:
    store.flows.update_many(condition, [{"$set": {"ready_at": READY_AT}}, {"$unset": "op"}])


def tidy(store: Store, book_uuid: str) -> None:
    """Do what decided operations of a book have left undone: take off marks, delete. Several may do it at once, late.

    The flows are listed before the book is read, so a verdict holds for good; and one that nobody sees is marked once
    more, on the condition that its mark is still the one that was judged, before anything is deleted.
    """
    marked = list(store.flows.find({"parent_uuid": book_uuid, "op": {"$exists": True}}, {"op": 1}))
    book = store.books.find_one({"_id": book_uuid})
    for op in sorted({str(flow["op"]) for flow in marked} - {GONE, *(book or {}).get("open", ())}):
        mine = {"_id": {"$in": [flow["_id"] for flow in marked if flow["op"] == op]}, "op": op}
        if is_visible(op, book):
            unmark(store, mine)
        else:
            gone = {"op": GONE, "token": None, "lease_expires_at": None}
            store.flows.update_many(mine, {"$set": gone, "$unset": {"runnable": ""}})
    _delete_gone(store, book_uuid)
    if book is None:
        return
    for op in book["saves"]:
        unmark(store, {"parent_uuid": book_uuid, "op": op})
        store.books.update_one({"_id": book_uuid}, {"$pull": {"saves": op}})
    if book.get("destroyed"):
        # Flows that were marked after the listing still need the book, for others to find them.
        if store.flows.find_one({"parent_uuid": book_uuid, "op": {"$exists": True}}, {"_id": 1}) is None:
            store.books.delete_one({"_id": book_uuid, "destroyed": book["destroyed"]})
    elif book.get("hidden"):
        store.books.delete_one({"_id": book_uuid, "hidden": True, "open": []})


def _delete_gone(store: Store, book_uuid: str) -> None:
    gone = list(store.flows.find({"parent_uuid": book_uuid, "op": GONE}, {"life": 1}))
    for start in range(0, len(gone), DELETED_AT_ONCE):
        some = gone[start : start + DELETED_AT_ONCE]
        lives = [flow["life"] for flow in some]
        store.atoms.delete_many({"$or": [of_life(life) for life in lives]})
        store.flows.delete_many({"_id": {"$in": [flow["_id"] for flow in some]}, "life": {"$in": lives}, "op": GONE})


def sweep(store: Store) -> None:
    """Finish the operations that their authors have abandoned."""
    old = {"$lt": ["$touched", {"$subtract": ["$$NOW", ABANDONED_MS]}]}
    for book in list(store.books.find({"unsettled": True, "$expr": old})):
        store.books.update_one({"_id": book["_id"], "touched": book["touched"]}, {"$set": {"open": []}})
        tidy(store, book["_id"])
        settled = {"open": [], "saves": [], "destroyed": None, "hidden": None, "touched": book["touched"]}
        store.books.update_one({"_id": book["_id"], **settled}, {"$unset": {"unsettled": ""}})
