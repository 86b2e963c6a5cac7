# SPDX-License-Identifier: Apache-2.0
"""Folders and files that change in one step or not at all, and the locks on them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from pluggableflow.middleware.records import new_uuid

#: What begins with one of these is unfinished, or deleted, and may be removed by anybody who can lock it.
NEW, TRASH = ".new-", ".trash-"
_LONGEST_NAME = 150
_PLAIN = re.compile(rf"[a-z0-9_-]{{1,{_LONGEST_NAME}}}")
_RETRY_SECONDS = 0.001

_lock_descriptors: set[int] = set()
#: Reentrant, as the garbage collector may close a folder while this thread holds it.
_registry = threading.RLock()


class Busy(Exception):
    """Somebody else holds a lock for longer than the caller wants to wait."""


def _close_in_child() -> None:
    # A child that kept them open would hold a lock on after its parent was killed.
    global _registry
    _registry = threading.RLock()
    for descriptor in _lock_descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _lock_descriptors.clear()


os.register_at_fork(after_in_child=_close_in_child)


def folder_name(identifier: str) -> str:
    """The name of the folder for an id: the same id always, different ids never on any file system.

    All but small letters, digits, ``_`` and ``-`` is escaped, as some file systems take ``A`` for ``a``.
    """
    if _PLAIN.fullmatch(identifier):
        return identifier
    name = "".join(character if _PLAIN.fullmatch(character) else _escaped(character) for character in identifier)
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{name[: _LONGEST_NAME // 2]}%-{digest}"
    return name or "%"


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))


def identifier_of(name: str) -> str:
    """The id that a folder was named for, as far as the name tells."""
    if "%-" in name or name == "%":
        return "" if name == "%" else name
    with contextlib.suppress(ValueError):
        return re.sub(
            r"(?:%[0-9a-f]{2})+",
            lambda match: bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogatepass"),
            name,
        )
    return name


def to_json(value: Any) -> bytes:
    """ASCII text of one line."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


# -- locks --------------------------------------------------------------------------------------------------------


def open_folder(path: str) -> int:
    """A descriptor that can be locked; give it back with :func:`close_folder`."""
    with _registry:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        _lock_descriptors.add(descriptor)
    return descriptor


def close_folder(descriptor: int) -> None:
    with _registry:
        if descriptor in _lock_descriptors:  # not in a child, where it is closed already
            _lock_descriptors.discard(descriptor)
            os.close(descriptor)


def acquire(descriptor: int, shared: bool = False, patience_seconds: float | None = None) -> None:
    """Lock an open folder.

    :param patience_seconds: ``None`` waits for as long as it takes
    :raises Busy: somebody else held it all the time
    """
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if patience_seconds is None:
        fcntl.flock(descriptor, operation)
        return
    until = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise Busy from None
            time.sleep(_RETRY_SECONDS)


def give_back(descriptor: int) -> None:
    # By name, not by closing: a forked child may have a copy of the descriptor.
    fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked(path: str, shared: bool = False, patience_seconds: float | None = None) -> Iterator[None]:
    """Hold the lock of the folder that is at ``path`` once the lock is held.

    :raises FileNotFoundError: there is none
    :raises Busy: see :func:`acquire`
    """
    while True:
        descriptor = open_folder(path)
        try:
            acquire(descriptor, shared, patience_seconds)
            try:
                if same_file(os.stat(path), os.fstat(descriptor)):
                    yield
                    return
            finally:
                give_back(descriptor)
        finally:
            close_folder(descriptor)


def same_file(first: os.stat_result, second: os.stat_result) -> bool:
    return (first.st_ino, first.st_dev) == (second.st_ino, second.st_dev)


# -- writing ------------------------------------------------------------------------------------------------------


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Writer:
    """Writes files and folders so that they outlive a loss of power, unless that is not asked for.

    :param synchronous: "full" or "normal", which leaves out every ``fsync``
    """

    def __init__(self, synchronous: str) -> None:
        self.synchronous = synchronous == "full"

    def sync(self, descriptor: int) -> None:
        if self.synchronous:
            os.fsync(descriptor)

    def sync_folder(self, path: str) -> None:
        if self.synchronous:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def write(self, path: str, data: bytes) -> None:
        """Write a new file; its folder is not synced."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            write_all(descriptor, data)
            self.sync(descriptor)
        finally:
            os.close(descriptor)


# -- what is unfinished or deleted --------------------------------------------------------------------------------


@contextlib.contextmanager
def workshop(root: str) -> Iterator[str]:
    """A new hidden folder to prepare something in; what is left of it at the end is deleted."""
    while True:
        path = os.path.join(root, NEW + new_uuid())
        os.mkdir(path)
        try:
            descriptor = open_folder(path)
        except FileNotFoundError:
            continue  # a sweep took it before it was locked
        try:
            acquire(descriptor)
            if os.path.exists(path):
                try:
                    yield path
                finally:
                    delete([path])
                return
        finally:
            close_folder(descriptor)


def trash(path: str, root: str) -> str:
    """Make a folder vanish in one step; what remains is to :func:`delete` the path that is returned."""
    hidden = os.path.join(root, TRASH + new_uuid())
    os.rename(path, hidden)
    return hidden


def delete(paths: Iterable[str]) -> None:
    for path in paths:
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)


def sweep(root: str) -> None:
    """Delete what dead processes left unfinished or half deleted in ``root``."""
    for name in os.listdir(root):
        path = os.path.join(root, name)
        if name.startswith(TRASH):
            delete([path])
        elif name.startswith(NEW):
            with contextlib.suppress(Busy, OSError), locked(path, patience_seconds=0):
                delete([path])
