# SPDX-License-Identifier: Apache-2.0
"""The folder of one flow, open for writing. :mod:`pluggableflow.connections.journal` tells what is in it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from pluggableflow.connection import check_names
from pluggableflow.connections import folders
from pluggableflow.connections.folders import NEW, Writer
from pluggableflow.connections.journal import (
    HEAD,
    UNREADABLE,
    FlowGone,
    apply,
    damaged,
    gone,
    is_ours,
    parse_head,
    read_flow,
    read_lines,
    to_line,
    write_files,
)
from pluggableflow.exceptions import DamagedRecord
from pluggableflow.middleware.records import Record, new_uuid

_LOG = logging.getLogger(__name__)
_CHUNK_BYTES = 2**24
#: Open in this process, to be made harmless in a forked child.
_open_folders: weakref.WeakSet[FlowFolder] = weakref.WeakSet()


class FlowFolder:
    """What this process knows of a flow that it writes, kept between writes as long as nobody else wrote.

    It holds ``flow.json`` and the journal open. As files are replaced but never changed, and a journal only grows,
    what is known is all there is if the same ``flow.json`` is still in place and the journal has the size that is
    known; if only the journal has grown, its new lines are read.

    :ivar flow: the flow's columns
    :ivar atom_names: atom uuid to name; complete only inside ``locked(with_atoms=True)``
    """

    def __init__(self, path: str, uuid: str, writer: Writer) -> None:
        self.path, self.uuid, self._writer = path, uuid, writer
        self._turn = threading.Lock()
        self._fresh()
        _open_folders.add(self)

    def _fresh(self) -> None:
        self._folder = self._head_file = self._journal = -1
        self._head: dict[str, str] = {}
        self.flow: dict[str, Any] = {}
        self.atom_names: dict[str, str] | None = None
        self._uuids: dict[str, str] = {}
        self._end = self._count = 0
        self._is_usable = self._is_folder_synced = self._has_sync_failed = False

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._folder >= 0:
            folders.close_folder(self._folder)
        for descriptor in (self._head_file, self._journal):
            if descriptor >= 0:
                os.close(descriptor)
        self._fresh()

    def forget_after_fork(self) -> None:
        self._turn = threading.Lock()
        self._folder = -1  # closed already, with all that can be locked
        with contextlib.suppress(OSError):
            self._close()

    # -- under the lock -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, with_atoms: bool = False, patience_seconds: float | None = None) -> Iterator[None]:
        """Hold the lock of the flow, and know its columns (and the names of its atoms).

        All that takes long is read before: the lock is held for the last lines only.

        :raises FlowGone: there is no such flow
        :raises Busy: see :func:`pluggableflow.connections.folders.acquire`
        :raises DamagedRecord: names the file
        """
        if not self._turn.acquire(timeout=-1 if patience_seconds is None else patience_seconds):
            raise folders.Busy
        try:
            while True:
                if not self._is_usable:
                    self._open()
                if with_atoms and self.atom_names is None:
                    self._learn_atoms()
                if self._is_usable:
                    folders.acquire(self._folder, patience_seconds=patience_seconds)
                    try:
                        if self._is_in_place():
                            self._read_on()
                            yield
                            return
                    finally:
                        folders.give_back(self._folder)
                    self._is_usable = False
        finally:
            self._turn.release()

    def _open(self) -> None:
        self._close()
        try:
            self._folder = folders.open_folder(self.path)
            self._head_file = os.open(HEAD, os.O_RDONLY, dir_fd=self._folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise gone(self.path, self.uuid, error) from error
        try:
            stored = parse_head(_read_from(self._head_file, 0), self.uuid)
        except UNREADABLE as error:
            raise damaged(os.path.join(self.path, HEAD), self.uuid, error) from error
        self._head, self.flow = stored.head, stored.flow
        try:
            self._journal = os.open(self._head["journal"], os.O_RDWR | os.O_APPEND, dir_fd=self._folder)
        except FileNotFoundError as error:
            if self._is_in_place():
                raise damaged(os.path.join(self.path, self._head["journal"]), self.uuid, error) from error
            return  # it was replaced meanwhile; the next round opens what is there now
        self._is_usable = True

    def _learn_atoms(self) -> None:
        stored = read_flow(self.path, self.uuid, with_atoms=True)
        if stored.head != self._head:
            self._is_usable = False  # replaced since it was opened
            return
        self.flow, self._end, self._count = stored.flow, stored.end, stored.count
        self.atom_names = {}
        self._name(stored.atoms.values())

    def _name(self, records: Iterable[Record]) -> None:
        assert self.atom_names is not None
        for record in records:
            uuid, name = str(record["uuid"]), str(record["name"])
            before = self.atom_names.get(uuid)
            if before is not None and self._uuids.get(before) == uuid:
                del self._uuids[before]
            self.atom_names[uuid], self._uuids[name] = name, uuid

    def _is_in_place(self) -> bool:
        try:
            return folders.same_file(os.stat(os.path.join(self.path, HEAD)), os.fstat(self._head_file))
        except (FileNotFoundError, NotADirectoryError) as error:
            self._is_usable = False
            raise gone(self.path, self.uuid, error) from error

    def _read_on(self) -> None:
        """Read what was added to the journal; cut off what a writer left that died."""
        if os.fstat(self._journal).st_size == self._end:
            return
        data = _read_from(self._journal, self._end)
        try:
            lines, size = read_lines(data, self._count)
            for line in lines:
                self._take_over(line)
        except UNREADABLE as error:
            self._is_usable = False
            raise damaged(os.path.join(self.path, self._head["journal"]), self.uuid, error) from error
        self._end, self._count = self._end + size, self._count + len(lines)
        if size < len(data):
            os.ftruncate(self._journal, self._end)

    def _take_over(self, change: dict[str, Any]) -> None:
        apply(change, self.flow, None)
        if self.atom_names is not None:
            self._name(change.get("put", ()))
            renamed = [
                {"uuid": uuid, **columns} for uuid, columns in change.get("changed", {}).items() if "name" in columns
            ]
            self._name(renamed)

    def check_names(self, records: Collection[Record]) -> None:
        """Refuse a name that the flow would have twice.

        :raises StorageFailure: names it
        """
        check_names(self.uuid, records, self._uuids)

    def append(self, change: dict[str, Any], body: bytes) -> None:
        """Write one line.

        :param body: ``change`` as JSON
        """
        line = to_line(body, self._count)
        try:
            folders.write_all(self._journal, line)
        except BaseException:
            self._is_usable = False
            with contextlib.suppress(OSError):
                os.ftruncate(self._journal, self._end)
            raise
        self._take_over(change)
        self._end, self._count = self._end + len(line), self._count + 1

    def to_sync(self) -> Callable[[], None]:
        """What is to be called when the lock is free again, and before a write is acknowledged."""
        if not self._writer.synchronous:
            return _nothing
        if self._has_sync_failed:
            head = self._head
            return lambda: self._write_elsewhere(head)
        descriptors = [os.dup(self._journal)]
        if not self._is_folder_synced:
            # Whoever put these files in place may have died before the folder was synced. Opened, as a copy of a
            # descriptor would share its lock.
            descriptors.append(os.open(".", os.O_RDONLY, dir_fd=self._folder))
        head = self._head
        return lambda: self._sync(descriptors, head)

    def _sync(self, descriptors: list[int], head: dict[str, str]) -> None:
        try:
            for descriptor in descriptors:
                os.fsync(descriptor)
        except OSError:
            if self._head is head:
                self._has_sync_failed = True
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if self._head is head:
            self._is_folder_synced = True

    def _write_elsewhere(self, head: dict[str, str]) -> None:
        """Bring to the disk what a failed ``fsync`` may have dropped, of which another would not tell."""
        while self._head == head:
            self._fold()
            with self.locked():
                pass

    # -- folding --------------------------------------------------------------------------------------------------

    def fold_if_long(self, fold_bytes: int) -> None:
        """Fold the journal into new files when it is longer than ``fold_bytes`` and than what it would be folded into.

        The lock is held for one rename. A failure leaves everything as it was, for the next write to try again.
        """
        head, end = self._head, self._end
        if end <= fold_bytes or not head:
            return
        try:
            if end > os.stat(os.path.join(self.path, head["atoms"])).st_size:
                self._fold()
        except (OSError, FlowGone, DamagedRecord) as error:
            _LOG.warning("the journal of flow %s in %s was not folded: %s", self.uuid, self.path, error)

    def _fold(self) -> None:
        stored = read_flow(self.path, self.uuid, with_atoms=True)
        temporary = NEW + new_uuid()
        names = write_files(self._writer, self.path, temporary, stored.flow, list(stored.atoms.values()))
        with self.locked():
            # Files that appear after this are of another fold, which begins where this one ends.
            waste = [name for name in os.listdir(self.path) if is_ours(name) and name not in names]
            if self._head != stored.head or self._end != stored.end:
                waste = names  # somebody wrote meanwhile
            else:
                os.replace(os.path.join(self.path, temporary), os.path.join(self.path, HEAD))
                self._is_usable = False
        self._writer.sync_folder(self.path)
        folders.delete(os.path.join(self.path, name) for name in waste)


def _nothing() -> None:
    pass


def _read_from(descriptor: int, start: int) -> bytes:
    parts = []
    while part := os.pread(descriptor, _CHUNK_BYTES, start):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _forget_after_fork() -> None:
    for folder in list(_open_folders):
        folder.forget_after_fork()


# Runs after the one of folders, which closes what can be locked.
os.register_at_fork(after_in_child=_forget_after_fork)
