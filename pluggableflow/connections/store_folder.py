# SPDX-License-Identifier: Apache-2.0
"""Where things are in the folder of a store, and how they are found.

::

    version.json                                what the folder is, and of which version
    books/BOOK/book.json                        the book's columns, and the uuids of its flows
    books/BOOK/FLOW/                            see pluggableflow.connections.journal
    .new-*  .trash-*                            being made, or being deleted

A flow exists once ``book.json`` names it. Folders are named after ids by :func:`folders.folder_name`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pluggableflow.connection import check_names
from pluggableflow.connections import folders
from pluggableflow.connections.folders import NEW, TRASH, Writer
from pluggableflow.connections.journal import (
    HEAD,
    UNREADABLE,
    FlowGone,
    check,
    content,
    is_ours,
    read_flow,
    write_files,
)
from pluggableflow.exceptions import DamagedRecord, ForeignStore, NotFound, StorageFailure
from pluggableflow.middleware import LOGBOOK_COLUMNS, Record

#: Version of what stands in the files, kept in ``version.json``.
VERSION = 1
_FORMAT = "pluggableflow"
_VERSION_FILE, _BOOKS, _BOOK_FILE = "version.json", "books", "book.json"

_REMEDIES = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk",
    errno.EACCES: "check who may write there",
    errno.EROFS: "check who may write there",
    errno.EMFILE: "raise `ulimit -n`",
}


@dataclass(slots=True, frozen=True)
class Seen:
    """A flow that a search came by.

    :ivar record: its columns, or ``None`` if they cannot be read
    """

    uuid: str
    path: str
    record: dict[str, Any] | None
    damage: str = ""


class StoreFolder:
    """The folder of a store.

    :param path: absolute
    """

    def __init__(self, path: str, writer: Writer) -> None:
        self.path, self._writer = path, writer
        self._books = os.path.join(path, _BOOKS)
        self._flow_paths: dict[str, str] = {}
        # Both are used only while the files have the size and time that the key tells.
        self._known_books: dict[str, tuple[Any, list[str]]] = {}
        self._known_flows: dict[str, tuple[Any, str, dict[str, Any]]] = {}

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """What the system refuses becomes a :class:`StorageFailure`."""
        try:
            yield
        except StorageFailure:
            raise
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> StorageFailure:
        remedy = _REMEDIES.get(error.errno or 0)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            if os.path.isdir(self.path):
                remedy = "run `pluggableflow upgrade` on it"
            else:
                remedy = f"check that {os.path.dirname(self.path)} exists, and run `pluggableflow upgrade`"
        return StorageFailure(f"{self.path}: {error}{f'; {remedy}' if remedy else ''}")

    # -- life -----------------------------------------------------------------------------------------------------

    def upgrade(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path)
            self._writer.sync_folder(os.path.dirname(self.path))
        with folders.locked(self.path):
            if self._version() is None:
                self._refuse_foreign()
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self._books)
                text = json.dumps({"format": _FORMAT, "version": VERSION}).encode("ascii") + b"\n"
                with folders.workshop(self.path) as work:
                    self._writer.write(os.path.join(work, _VERSION_FILE), text)
                    os.replace(os.path.join(work, _VERSION_FILE), os.path.join(self.path, _VERSION_FILE))
                self._writer.sync_folder(self.path)
        folders.sweep(self.path)

    def validate(self) -> None:
        if self._version() is None:
            raise StorageFailure(f"{self.path} is no store of pluggableflow; run `pluggableflow upgrade` on it")
        os.stat(self._books)

    def _version(self) -> int | None:
        path = os.path.join(self.path, _VERSION_FILE)
        try:
            found = read_json(path)
            version = found["version"] if found["format"] == _FORMAT else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UNREADABLE as error:
            raise ForeignStore(f"{path} is not a file of pluggableflow; name another folder") from error
        if type(version) is not int:
            raise ForeignStore(f"{path} is not a file of pluggableflow; name another folder")
        if version > VERSION:
            raise ForeignStore(
                f"{self.path} was written by a newer release (version {version}, this one knows {VERSION});"
                " pip install --upgrade pluggableflow"
            )
        return version

    def _refuse_foreign(self) -> None:
        strange = [name for name in sorted(os.listdir(self.path)) if not name.startswith((NEW, TRASH))]
        if strange == [_BOOKS] and os.path.isdir(self._books) and not os.listdir(self._books):
            return  # an upgrade died here
        if strange:
            raise ForeignStore(f"{self.path} holds other files, such as {strange[0]!r}; name an empty folder")

    # -- books ----------------------------------------------------------------------------------------------------

    def book_path(self, book_uuid: str) -> str:
        return os.path.join(self._books, folders.folder_name(book_uuid))

    def book_paths(self) -> list[str]:
        return [os.path.join(self._books, name) for name in os.listdir(self._books)]

    def read_book(self, path: str) -> tuple[Record, list[str]]:
        """The columns of a book, and the uuids of its flows.

        :raises FileNotFoundError: there is none
        :raises DamagedRecord: names the file
        """
        name = os.path.join(path, _BOOK_FILE)
        try:
            found = read_json(name)
            record, flows = found["book"], [str(uuid) for uuid in found["flows"]]
            check(record, LOGBOOK_COLUMNS)
            if folders.folder_name(record["uuid"]) != os.path.basename(path):
                raise ValueError(f"it belongs to book {record['uuid']}")
        except UNREADABLE as error:
            uuid = folders.identifier_of(os.path.basename(path))
            raise DamagedRecord("logbook", uuid, f"{name}: {type(error).__name__}: {error}") from error
        return record, flows

    def found_book(self, book_uuid: str) -> tuple[Record, list[str]]:
        """As :meth:`read_book`.

        :raises NotFound: there is no such book
        """
        try:
            return self.read_book(self.book_path(book_uuid))
        except (FileNotFoundError, NotADirectoryError):
            os.stat(self._books)  # no store at all is another matter
            raise NotFound(f"there is no logbook {book_uuid}") from None

    def flow_path(self, book_path: str, flow_uuid: str) -> str:
        return os.path.join(book_path, folders.folder_name(flow_uuid))

    def flows_of(self, book_path: str) -> list[str]:
        """The uuids of the flows of a book, also of one whose own file is damaged; empty if it is gone."""
        try:
            stat = os.stat(os.path.join(book_path, _BOOK_FILE))
            key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            known = self._known_books.get(book_path)
            if known is None or known[0] != key:
                known = self._known_books[book_path] = key, self.read_book(book_path)[1]
            return known[1]
        except (FileNotFoundError, NotADirectoryError):
            self._known_books.pop(book_path, None)
            return []
        except (DamagedRecord, PermissionError):
            return [folders.identifier_of(name) for name in _folders_in(book_path)]

    def _write_book(self, folder: str, record: Record, flows: list[str]) -> str:
        """Write a book's file into a folder; returns its path."""
        path = os.path.join(folder, _BOOK_FILE)
        self._writer.write(path, json.dumps({"book": record, "flows": flows}, indent=1).encode("ascii") + b"\n")
        return path

    def save(self, book: Record, flows: dict[str, tuple[Record, list[Record]]], now: int) -> tuple[Record, set[str]]:
        """Create or update a book, and create those of ``flows`` that the store does not have, in one step.

        :returns: the book as it is stored, and the uuids of the flows that were created
        """
        uuid = str(book["uuid"])
        path = self.book_path(uuid)
        while True:
            before = self._before_save(uuid, flows)
            stored, present, new = before
            for each in new:
                check_names(each, flows[each][1], {})
            after: Record = {**(stored or {**book, "created_at": now}), "meta": book["meta"], "updated_at": now}
            with folders.workshop(self.path) as work:
                for each in new:
                    flow, atoms = flows[each]
                    os.mkdir(self.flow_path(work, each))
                    columns = {**flow, "parent_uuid": uuid, "created_at": now, "updated_at": now}
                    records: list[Record] = [{**atom, "parent_uuid": each} for atom in atoms]
                    write_files(self._writer, self.flow_path(work, each), HEAD, columns, records)
                file = self._write_book(work, after, [*present, *new])
                self._writer.sync_folder(work)
                with folders.locked(self.path):
                    if self._before_save(uuid, flows) != before:
                        continue  # somebody else saved or destroyed one of these meanwhile
                    if stored is None:
                        os.rename(work, path)
                    else:
                        self._move_in(work, path, new, present)
                        os.replace(file, os.path.join(path, _BOOK_FILE))
                with contextlib.suppress(FileNotFoundError):  # destroyed meanwhile
                    self._writer.sync_folder(path if stored is not None else self._books)
                return after, set(new)

    def _before_save(self, book_uuid: str, flows: Collection[str]) -> tuple[Record | None, list[str], list[str]]:
        """The stored book or ``None``, its flows, and those of ``flows`` that no book has."""
        try:
            stored, present = self.found_book(book_uuid)
        except NotFound:
            return None, [], [each for each in flows if self.find_flow(each) is None]
        return stored, present, [each for each in flows if self.find_flow(each) is None]

    def _move_in(self, work: str, path: str, new: list[str], present: list[str]) -> None:
        """Put folders of flows into a book, which does not name them yet."""
        if not new:
            return
        named = {folders.folder_name(each) for each in present}
        for name in _folders_in(path):
            if name not in named and os.path.exists(os.path.join(path, name, HEAD)):
                os.rename(os.path.join(path, name), os.path.join(work, NEW + name))  # left by a save that died here
        for each in new:
            os.rename(self.flow_path(work, each), self.flow_path(path, each))
        self._writer.sync_folder(path)

    def remove(self, path: str) -> str:
        """Make a book vanish; returns what is to be deleted."""
        with folders.locked(self.path):
            return folders.trash(path, self.path)

    # -- flows ----------------------------------------------------------------------------------------------------

    def find_flow(self, flow_uuid: str) -> str | None:
        """The folder of a flow, or ``None``."""
        path = self._flow_paths.get(flow_uuid)
        if path is not None and os.path.exists(os.path.join(path, HEAD)):
            return path
        name = folders.folder_name(flow_uuid)
        for book_path in self.book_paths():
            path = f"{book_path}/{name}"
            if os.path.exists(path) and flow_uuid in self.flows_of(book_path):
                self._flow_paths[flow_uuid] = path
                return path
        self._flow_paths.pop(flow_uuid, None)
        return None

    def found_flow(self, flow_uuid: str) -> str:
        """As :meth:`find_flow`.

        :raises NotFound: there is no such flow
        """
        path = self.find_flow(flow_uuid)
        if path is None:
            raise NotFound(f"there is no flow {flow_uuid}")
        return path

    def scan(self) -> Iterator[Seen]:
        """Every flow without its atoms, in no order. Files that did not change are not read again."""
        passed: dict[str, tuple[Any, str, dict[str, Any]]] = {}
        for book_path in self.book_paths():
            for uuid in self.flows_of(book_path):
                path = self.flow_path(book_path, uuid)
                try:
                    yield Seen(uuid, path, self._record(path, uuid, passed))
                except FlowGone:
                    continue
                except (DamagedRecord, PermissionError) as damage:
                    yield Seen(uuid, path, None, str(damage))
        self._known_flows = passed
        if len(self._known_books) > 2 * len(passed) + 100:
            self._known_books = {}

    def flows_that_mention(self, atom_uuid: str) -> Iterator[tuple[str, str]]:
        """Uuid and folder of every flow in whose files an atom's uuid stands; all files are read for it."""
        needle = folders.to_json(atom_uuid)
        for book_path in self.book_paths():
            for uuid in self.flows_of(book_path):
                path = self.flow_path(book_path, uuid)
                with contextlib.suppress(FileNotFoundError):
                    if any(needle in content(os.path.join(path, name)) for name in os.listdir(path) if is_ours(name)):
                        yield uuid, path

    def _record(self, path: str, uuid: str, passed: dict[str, Any]) -> dict[str, Any]:
        known = self._known_flows.get(path)
        if known is not None and known[0] == _key(path, known[1]):
            passed[path] = known
            return known[2]
        head = _key(path, None)
        stored = read_flow(path, uuid, with_atoms=False)
        journal = stored.head["journal"]
        key = _key(path, journal)
        # Kept only if flow.json is still what it was before it was read, and if no line at the end is unfinished.
        if head is not None and key is not None and key[:3] == head[:3] and key[3] == stored.end:
            passed[path] = key, journal, stored.flow
        return stored.flow


def _key(path: str, journal: str | None) -> tuple[int, ...] | None:
    try:
        head = os.stat(os.path.join(path, HEAD))
        size = 0 if journal is None else os.stat(os.path.join(path, journal)).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    return head.st_ino, head.st_mtime_ns, head.st_size, size


def _folders_in(path: str) -> list[str]:
    return [name for name in os.listdir(path) if os.path.isdir(os.path.join(path, name))]


def read_json(path: str) -> Any:
    with open(path, "rb") as file:
        return json.load(file)
