# SPDX-License-Identifier: Apache-2.0
"""Saving and destroying books: operations over several slots, of which everybody else sees one step.

The book decides. What stands around that one write on the book is told at the head of the package.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pluggableflow.connection import check_names
from pluggableflow.exceptions import FlowOwned, NotFound, StorageFailure
from pluggableflow.middleware import FlowDetail, LogBook, Record, new_uuid
from pluggableflow.states import RUNNABLE
from pluggableflow_redis import flow_scripts, index_scripts, lease_scripts
from pluggableflow_redis.client import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, Client, Script, packed
from pluggableflow_redis.index import Index
from pluggableflow_redis.keys import Keys, age, hint
from pluggableflow_redis.records import atom_fields, flow_fields, pairs

#: An operation that was begun longer ago is taken for dead; if it is not, it begins again.
SAVE_MICROSECONDS = 3_600_000_000
DESTROY_MICROSECONDS = 60_000_000
_ATTEMPTS = 50
_ATOMS_PER_CALL = 5000
_SAVE = b"save:"
#: How long a first attempt waits for another operation of the same kind before it takes that for dead. Each attempt
#: waits twice as long as the one before, so that in the end it waits for longer than any operation takes.
PATIENCE_SECONDS = 1.0
LONGEST_PATIENCE_SECONDS = 600.0


class Books:
    """The operations on books of one store."""

    def __init__(self, client: Client, keys: Keys, index: Index) -> None:
        self._client, self._keys, self._index = client, keys, index

    def read(
        self, book_uuid: str, script: Script = index_scripts.READ_BOOK, operation: str = ""
    ) -> tuple[int, dict[bytes, bytes], dict[bytes, bytes]]:
        """The time, the fields of a book (none if it does not exist), its flows."""
        now, fields, flows = self._client.run(script, self._keys.book(book_uuid), (operation.encode(),))
        return int(now), pairs(fields), pairs(flows)

    def resolve(self, flow_uuid: str, mark: bytes, book_uuid: str, *, stop: bool = False) -> bool:
        """Whether a marked flow exists. A mark is taken away if nobody is about to destroy the book.

        Whose mark it is does not tell who is: of several that destroy it, one may have put his over that of another.

        :param stop: also stop an operation that is about to destroy the book
        """
        there, active = self._client.run(
            index_scripts.RESOLVE, self._keys.book(book_uuid), (flow_uuid.encode(), int(stop))
        )
        if there and not active:
            self._client.run(lease_scripts.UNMARK, self._keys.flow(flow_uuid), (mark,))
        return bool(there)

    def _exists(self, flow_uuid: str) -> bool:
        answer = self._client.run(flow_scripts.READ, self._keys.flow(flow_uuid), (b"", 0))
        if answer[0] == b"marked":
            return self.resolve(flow_uuid, answer[1], answer[2].decode("utf-8"))
        return bool(answer[0] == b"ok")

    # -- save -----------------------------------------------------------------------------------------------------

    def save(self, book: LogBook) -> None:
        details = [(detail, detail.to_record(), [atom.to_record() for atom in detail]) for detail in book]
        for number in range(_ATTEMPTS):
            if self._save(book, details, _patience(number)):
                return
            time.sleep(random.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**number)))
        raise StorageFailure(f"logbook {book.uuid} was not saved: others save the same flows again and again")

    def _save(self, book: LogBook, details: list[tuple[FlowDetail, Record, list[Record]]], patience: float) -> bool:
        """``False``: it was aborted, by another save of the same flows or since the book was destroyed meanwhile."""
        operation = new_uuid()
        now, fields, listed = self.read(book.uuid, index_scripts.BEGIN_SAVE, operation)
        # In one order, so that of two savers one is ahead of the other everywhere.
        new = sorted((each for each in details if each[0].uuid.encode() not in listed), key=lambda each: each[0].uuid)
        for detail, _flow, atoms in new:
            try:
                check_names(detail.uuid, atoms, {})
            except StorageFailure:
                if not self._exists(detail.uuid):  # in another book
                    raise
        mark = _SAVE + operation.encode()
        book_member = b"" if fields else age(now, book.uuid)
        members = {detail.uuid: age(now, detail.uuid) for detail, _flow, _atoms in new}
        story = {"kind": "save", "book": book.uuid, "created_at": now, "flows": dict.fromkeys(members, now)}
        if new or book_member:
            self._index.open(operation, story, book_member, list(members.values()))
        created: list[FlowDetail] = []
        for detail, flow, atoms in new:
            flow |= {"parent_uuid": book.uuid, "created_at": now, "updated_at": now}
            if self._stage(detail.uuid, mark, flow, atoms, now, patience):
                self._index.add_atoms(detail.uuid, now, (atom.uuid for atom in detail))
                created.append(detail)
        meta = book.to_record()["meta"]
        arguments: list[Any] = [operation.encode(), now, book.uuid.encode(), book.name.encode()]
        arguments += [int(meta is not None), str(meta or "").encode()]
        for detail in created:
            arguments += [detail.uuid.encode(), now]
        answer = self._client.run(index_scripts.SAVE, self._keys.book(book.uuid), arguments)
        if answer[0] != b"ok":
            self._settle(operation, story, again=True)
            return False
        book.created_at, book.updated_at = int(answer[1]), int(answer[2])
        for detail in created:
            self._client.run(lease_scripts.UNMARK, self._keys.flow(detail.uuid), (mark,))
            detail.created_at = detail.updated_at = now
            del members[detail.uuid]
        if new or book_member:
            superfluous = [book_member] if book_member and book.created_at != now else []
            self._index.close(operation, superfluous, members.values())
        return True

    def _stage(self, flow_uuid: str, mark: bytes, flow: Record, atoms: list[Record], now: int, patience: float) -> bool:
        """Write a flow that nobody sees yet.

        :returns: ``False``: there is one of that uuid already, or this save is aborted, as the book will say
        """
        put, _ = flow_fields(flow)
        put += ("mark", mark, "atom_count", len(atoms), "indexed", len(atoms))
        since = _takeable(flow, now)
        if since is not None:
            put += ("hint", 1, "hint_at", since)
        first = self._atoms(atoms[:_ATOMS_PER_CALL], flow_uuid, 0)
        while True:
            answer = self._client.run(
                lease_scripts.STAGE,
                self._keys.flow(flow_uuid),
                [packed((mark, len(put), len(first[0]), len(first[1]) // 2, *put, *first[0], *first[1]))],
            )
            if answer[0] == b"exists":
                return False
            if answer[0] == b"ok":
                break
            own = mark if answer[2].decode("utf-8") == flow["parent_uuid"] else b""
            if not self._is_left(flow_uuid, answer[1], answer[2].decode("utf-8"), own, patience):
                return False
            self._delete(flow_uuid, answer[1], again=answer[1].startswith(_SAVE))
        for at in range(_ATOMS_PER_CALL, len(atoms), _ATOMS_PER_CALL):
            fields, names = self._atoms(atoms[at : at + _ATOMS_PER_CALL], flow_uuid, at)
            arguments = (mark, 0, len(fields), len(names) // 2, *fields, *names)
            if self._client.run(lease_scripts.STAGE, self._keys.flow(flow_uuid), (packed(arguments),))[0] != b"ok":
                return False
        if since is not None:
            self._index.add_entry(hint(int(flow["priority"] or 0), now, flow_uuid, 1), since)
        return True

    def _is_left(self, flow_uuid: str, mark: bytes, book_uuid: str, own: bytes, patience: float) -> bool:
        """Whether a marked flow is what an operation has left that is over.

        A save that may still come to its end is waited for, and aborted when patience is at its end.

        :param own: mark of the save that asks, if it is of the same book
        """
        answer = b"busy"
        for impatient in _waiting(patience):
            arguments = (flow_uuid.encode(), _operation(mark), int(impatient), _operation(own))
            answer = self._client.run(index_scripts.CONTEST, self._keys.book(book_uuid), arguments)
            if answer == b"there":
                self.resolve(flow_uuid, mark, book_uuid)
            if answer != b"busy":
                break
        return bool(answer == b"free")

    @staticmethod
    def _atoms(atoms: list[Record], flow_uuid: str, before: int) -> tuple[list[Any], list[Any]]:
        fields: list[Any] = []
        names: list[Any] = []
        for position, atom in enumerate(atoms, before + 1):
            uuid = str(atom["uuid"])
            atom_fields(uuid, {**atom, "parent_uuid": flow_uuid}, fields)
            fields += (f"{uuid}:position", position)
            names += (uuid, atom["name"])
        return fields, names

    # -- destroy --------------------------------------------------------------------------------------------------

    def destroy(self, book_uuid: str, force: bool) -> None:
        for number in range(_ATTEMPTS):
            operation = new_uuid()
            keys = self._keys.book(book_uuid)
            answer: Any = [b"busy"]
            for impatient in _waiting(_patience(number)):
                answer = self._client.run(index_scripts.DESTROY, keys, (operation.encode(), int(impatient)))
                if answer[0] != b"busy":
                    break
            if answer[0] == b"none":
                raise NotFound(f"there is no logbook {book_uuid}")
            flows = {uuid.decode("utf-8"): int(created_at) for uuid, created_at in pairs(answer[2]).items()}
            story = {"kind": "destroy", "book": book_uuid, "created_at": int(answer[1]), "flows": flows}
            self._index.open(operation, story, b"", ())
            owned = self._doom(book_uuid, operation, flows, force)
            done = self._client.run(index_scripts.END_DESTROY, keys, (operation.encode(), int(owned is None)))
            self._settle(operation, story)
            if owned is not None:
                raise owned
            if done:
                return
        raise StorageFailure(f"logbook {book_uuid} was not destroyed: its flows are claimed again and again")

    def _doom(self, book_uuid: str, operation: str, flows: dict[str, int], force: bool) -> FlowOwned | None:
        """Take the flows out of their holders' hands, as long as this is the operation that is to destroy the book."""
        mark = f"destroy:{operation}".encode()
        for uuid, created_at in flows.items():
            arguments: list[Any] = [book_uuid.encode(), mark, b"", b"", int(force), created_at, b""]
            while True:
                answer = self._client.run(lease_scripts.DOOM, self._keys.flow(uuid), arguments)
                if answer[0] == b"hint":
                    arguments[2:4] = self._index.add_hint(uuid, answer)
                elif answer[0] == b"marked":
                    # The mark of another destruction is that of one which is over, unless this one is.
                    book = self._keys.book(book_uuid)
                    if not self._client.run(index_scripts.DESTROYING, book, (operation.encode(),)):
                        return None
                    arguments[6] = answer[1]
                else:
                    break
            if answer[0] == b"owned":
                return owned(uuid, answer)
        return None

    def _settle(self, operation: str, story: dict[str, Any], again: bool = False) -> None:
        """After the end of an operation: flows that their book has lose their mark, others are deleted.

        :param again: as in :meth:`_delete`
        """
        _, fields, listed = self.read(story["book"], index_scripts.ABORT_SAVE, operation)
        mark = f"{story['kind']}:{operation}".encode()
        gone = []
        for uuid, created_at in story["flows"].items():
            if listed.get(uuid.encode()) != b"%d" % created_at:
                self._delete(uuid, mark, again)
                gone.append(age(created_at, uuid))
            elif b"destroying" not in fields:  # else somebody relies on the flow's being marked
                self._client.run(lease_scripts.UNMARK, self._keys.flow(uuid), (mark,))
        still = fields.get(b"created_at") == b"%d" % story["created_at"]
        self._index.close(operation, [] if still else [age(story["created_at"], story["book"])], gone)

    def _delete(self, flow_uuid: str, mark: bytes, again: bool) -> None:
        """Delete a flow that nobody sees any more; last what tells of the rest, so that it can be done again.

        :param again: it was never seen, and is about to be saved again with atoms of the same uuids
        """
        keys = self._keys.flow(flow_uuid)
        answer = self._client.run(lease_scripts.LEFTOVER, keys, (mark,))
        if answer[0] == b"ok":
            self._index.forget_flow(flow_uuid, answer)
            if not again:
                self._index.forget_atoms(flow_uuid, answer)
            self._client.run(lease_scripts.DELETE, keys, (mark,))

    def sweep(self) -> None:
        """Bring to an end what dead processes have begun."""
        for operation, began_at, story in self._index.opened():
            now, fields, _ = self.read(story["book"])
            if story["kind"] == "save":
                if now - began_at > SAVE_MICROSECONDS:
                    self._settle(operation, story)
            elif not fields or now - began_at > DESTROY_MICROSECONDS:
                arguments = (operation.encode(), 0)
                self._client.run(index_scripts.END_DESTROY, self._keys.book(story["book"]), arguments)
                self._settle(operation, story)

    def clear(self) -> None:
        while True:
            pages = list(self._index.books())
            found = False
            for member in (member for page in pages for member in page):
                with contextlib.suppress(NotFound):
                    self.destroy(member[16:].decode("utf-8"), force=True)
                    found = True
            if not found:
                return


def _patience(number: int) -> float:
    return min(LONGEST_PATIENCE_SECONDS, PATIENCE_SECONDS * 2.0**number)


def _waiting(patience: float) -> Iterator[bool]:
    """Whether patience is at its end, again and again, with pauses that grow."""
    until, wait = time.monotonic() + patience, FIRST_WAIT_SECONDS
    while True:
        yield time.monotonic() >= until
        time.sleep(random.uniform(0, wait))
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def _operation(mark: bytes) -> bytes:
    return mark.partition(b":")[2]


def owned(flow_uuid: str, answer: Sequence[Any]) -> FlowOwned:
    """The error that an answer ``owned`` stands for."""
    return FlowOwned(flow_uuid, answer[1].decode("utf-8"), int(answer[2]), int(answer[3]) / 1e6)


def _takeable(flow: Record, now: int) -> int | None:
    """Since when a scan may take a flow (0: now); ``None``: never."""
    if flow["state"] not in RUNNABLE or flow["factory"] is None:
        return None
    at = max(int(flow["wake_at"] or 0), int(flow["lease_expires_at"] or 0) if flow["token"] is not None else 0)
    return at if at > now else 0
