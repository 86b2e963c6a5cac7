# SPDX-License-Identifier: Apache-2.0
"""One flow as a folder: what its files hold, and how it is read without a lock and written under one.

``flow.json`` holds the flow's columns and names the two other files, so that replacing it switches all three at once:

* ``atoms-*.json``: the atoms' columns, one atom a line; never changed
* ``journal-*``: what was written since, one line each: JSON, its number and a CRC-32 of both, separated by tabs.
  ``{"flow": changed columns, "put": [complete atoms], "changed": {atom uuid: changed columns}}``

A reader takes no lock: it reads ``flow.json``, then the files that this names. A line at the end that is not whole was
never acknowledged: readers ignore it, the next writer cuts it off.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

from pluggableflow.connections.folders import NEW, Busy, Writer, delete, locked, to_json
from pluggableflow.exceptions import DamagedRecord
from pluggableflow.middleware.records import (
    ATOM_COLUMNS,
    FLOW_COLUMNS,
    INTEGER_COLUMNS,
    Record,
    new_uuid,
)

HEAD = "flow.json"
#: What is raised by files that an editor or a broken disk has changed.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_REQUIRED = frozenset(
    {
        "uuid", "name", "state", "kind", "version", "intention", "attempt", "revision", "epoch", "request_sequence",
        "request_handled", "priority", "codec_version", "created_at",
    }
)  # fmt: skip
_PATIENCE_SECONDS = 0.1
_FILE_NAME = re.compile(r"(atoms-\w+\.json|journal-\w+)")


class FlowGone(Exception):
    """There is no such folder, or it is not this flow's any more."""


@dataclass(slots=True)
class StoredFlow:
    """What the files of a flow say.

    :ivar head: what ``flow.json`` holds besides the flow: the names of the other files
    :ivar atoms: by uuid, in the order in which they were first written; empty if they were not asked for
    :ivar end: size of the journal up to here
    :ivar count: lines of the journal up to here
    """

    head: dict[str, str]
    flow: dict[str, Any]
    atoms: dict[str, Record] = field(default_factory=dict)
    end: int = 0
    count: int = 0


# -- lines --------------------------------------------------------------------------------------------------------


def to_line(body: bytes, number: int) -> bytes:
    numbered = b"%s\t%d" % (body, number)
    return b"%s\t%08x\n" % (numbered, zlib.crc32(numbered))


def read_lines(data: bytes, count: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines at the beginning of ``data``, and how many bytes they are.

    :param count: how many lines came before
    :raises ValueError: a line that is not whole is not the last one, or was written whole and changed later
    """
    found: list[dict[str, Any]] = []
    start = 0
    while start < len(data):
        stop = data.find(b"\n", start)
        line = data[start : stop if stop >= 0 else len(data)]
        body, _, number = line.rpartition(b"\t")[0].rpartition(b"\t")
        if stop < 0 or to_line(body, count) != line + b"\n" or number != b"%d" % count:
            # After a loss of power there may be zeros where a line was, and even its end.
            if stop < 0 or (stop == len(data) - 1 and b"\0" in line):
                break
            raise ValueError(f"line {count + 1} of the journal is damaged")
        found.append(json.loads(body))
        start, count = stop + 1, count + 1
    return found, start


def apply(change: dict[str, Any], flow: dict[str, Any], atoms: dict[str, Any] | None) -> None:
    """Do what a line says."""
    flow.update(change.get("flow", ()))
    if atoms is None:
        return
    for record in change.get("put", ()):
        atoms[record["uuid"]] = record
    for uuid, columns in change.get("changed", {}).items():
        record = atoms[uuid]
        record.update(columns)
        if "revision" not in columns:
            record["revision"] += 1


# -- reading ------------------------------------------------------------------------------------------------------


def read_flow(path: str, uuid: str, with_atoms: bool) -> StoredFlow:
    """Read a flow as it is at one moment.

    :raises FlowGone: there is no such flow
    :raises DamagedRecord: names the file
    """
    for _ in range(3):
        # What looks damaged may have been replaced, or a torn line cut off, while it was read.
        with contextlib.suppress(DamagedRecord):
            return _read(path, uuid, with_atoms)
    with contextlib.suppress(Busy, FileNotFoundError), locked(path, patience_seconds=_PATIENCE_SECONDS):
        return _read(path, uuid, with_atoms)
    return _read(path, uuid, with_atoms)


def _read(path: str, uuid: str, with_atoms: bool) -> StoredFlow:
    stored = read_head(path, uuid)
    name = stored.head["atoms"]
    try:
        if with_atoms:
            for record in json.loads(content(os.path.join(path, name))):
                check(record, ATOM_COLUMNS)
                stored.atoms[record["uuid"]] = record
        name = stored.head["journal"]
        lines, stored.end = read_lines(content(os.path.join(path, name)), 0)
        for line in lines:
            apply(line, stored.flow, stored.atoms if with_atoms else None)
        stored.count = len(lines)
        check(stored.flow, FLOW_COLUMNS)
    except (*UNREADABLE, FileNotFoundError, IsADirectoryError) as error:
        raise damaged(os.path.join(path, name), uuid, error) from error
    return stored


def read_head(path: str, uuid: str) -> StoredFlow:
    """Read ``flow.json`` alone.

    :raises FlowGone: there is none
    :raises DamagedRecord: names the file
    """
    name = os.path.join(path, HEAD)
    try:
        return parse_head(content(name), uuid)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise gone(path, uuid, error) from error
    except UNREADABLE as error:
        raise damaged(name, uuid, error) from error


def parse_head(data: bytes, uuid: str) -> StoredFlow:
    """What ``flow.json`` says.

    :raises ValueError: not what it should, or another of ``UNREADABLE``
    """
    head = json.loads(data)
    flow = head.pop("flow")
    check(flow, FLOW_COLUMNS)
    if flow["uuid"] != uuid:
        raise ValueError(f"it belongs to flow {flow['uuid']}")
    for part in ("atoms", "journal"):
        if not _FILE_NAME.fullmatch(head[part]):
            raise ValueError(f"{head[part]!r} cannot be the name of a file with its {part}")
    return StoredFlow(head, flow)


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def check(record: dict[str, Any], columns: tuple[str, ...]) -> None:
    """Refuse a record that lacks a column or has an impossible value, as an editor may leave it behind.

    :raises ValueError: says which
    """
    for column in columns:
        if column not in record:
            raise ValueError(f"it has no {column!r}")
        value = record[column]
        expected = int if column in INTEGER_COLUMNS else str
        if type(value) is not expected and (value is not None or column in _REQUIRED):
            raise ValueError(f"its {column!r} cannot be {value!r}")


def gone(path: str, uuid: str, error: OSError) -> Exception:
    """What to raise where ``flow.json`` is missing: a folder goes as a whole, or somebody has tampered with it."""
    return damaged(os.path.join(path, HEAD), uuid, error) if os.path.isdir(path) else FlowGone()


def damaged(path: str, uuid: str, error: Exception) -> DamagedRecord:
    reason = "is missing" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
    return DamagedRecord("flow", uuid, f"{path}: {reason}")


# -- a new set of files -------------------------------------------------------------------------------------------


def write_files(writer: Writer, path: str, head_name: str, flow: dict[str, Any], atoms: list[Record]) -> list[str]:
    """Write all three files of a flow, ``flow.json`` under another name if it is to replace one.

    :returns: their names
    """
    unique = new_uuid()[:12]
    head = {"atoms": f"atoms-{unique}.json", "journal": f"journal-{unique}"}
    names = [head_name, *head.values()]
    lines = b",\n".join(map(to_json, atoms))
    text = json.dumps({**head, "flow": flow}, indent=1)
    try:
        writer.write(os.path.join(path, head["atoms"]), b"[\n%s\n]\n" % lines)
        writer.write(os.path.join(path, head["journal"]), b"")
        writer.write(os.path.join(path, head_name), text.encode("ascii") + b"\n")
        writer.sync_folder(path)
    except BaseException:
        delete(os.path.join(path, name) for name in names)
        raise
    return names


def is_ours(name: str) -> bool:
    """Whether a file of that name in a flow's folder may be deleted when ``flow.json`` does not name it."""
    return name.startswith(NEW) or _FILE_NAME.fullmatch(name) is not None
