# SPDX-License-Identifier: Apache-2.0
"""Records as fields of hashes and back. A column that is ``None`` has no field."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pluggableflow import codec
from pluggableflow.exceptions import DamagedRecord
from pluggableflow.middleware import (
    ATOM_COLUMNS,
    FLOW_COLUMNS,
    INTEGER_COLUMNS,
    LOGBOOK_COLUMNS,
    AtomDetail,
    FlowDetail,
    Record,
)

_NAMES = {column: column.encode() for column in (*ATOM_COLUMNS, *FLOW_COLUMNS, *LOGBOOK_COLUMNS)}
_FIELDS = {column: b":" + column.encode() for column in ATOM_COLUMNS}
Fields = Mapping[bytes, bytes]


def flow_fields(record: Record, without: Collection[str] = ()) -> tuple[list[Any], list[str]]:
    """What to set (names and values in turn), and what to remove."""
    put: list[Any] = []
    drop: list[str] = []
    for column, value in record.items():
        if column in without:
            continue
        if value is None:
            drop.append(column)
        else:
            put += (column, value)
    return put, drop


def atom_fields(uuid: str, record: Record, put: list[Any], drop: list[str] | None = None) -> None:
    """Append the fields of an atom to what is set and to what is removed."""
    for column, value in record.items():
        if value is not None:
            put += (f"{uuid}:{column}", value)
        elif drop is not None:
            drop.append(f"{uuid}:{column}")


def atom_names(uuid: str) -> list[bytes]:
    """The fields of an atom, in the order of its columns."""
    start = uuid.encode()
    return [start + _FIELDS[column] for column in ATOM_COLUMNS]


def pairs(flat: Sequence[Any] | Mapping[Any, Any]) -> dict[bytes, bytes]:
    """What HGETALL found; the driver makes a mapping of it for some protocols."""
    return dict(flat) if isinstance(flat, Mapping) else dict(zip(flat[::2], flat[1::2], strict=True))


def _value(column: str, value: bytes | None) -> Any:
    if value is None:
        return None
    return int(value) if column in INTEGER_COLUMNS else value.decode("utf-8")


def _record(kind: str, uuid: str, columns: Iterable[str], fields: Fields) -> Record:
    try:
        return {column: _value(column, fields.get(_NAMES[column])) for column in columns}
    except ValueError as error:
        raise DamagedRecord(kind, uuid, str(error)) from error


def book_record(uuid: str, fields: Fields) -> Record:
    return _record("logbook", uuid, LOGBOOK_COLUMNS, fields)


def flow_record(uuid: str, fields: Fields) -> Record:
    """The record of a flow.

    :raises DamagedRecord: a number is none, a text is not UTF-8, or a column is missing that every flow has
    """
    record = _record("flow", uuid, FLOW_COLUMNS, fields)
    for column in ("name", "state", "revision", "epoch", "codec_version", "priority", "created_at"):
        if record[column] is None:
            raise DamagedRecord("flow", uuid, f"it has no {column}")
    return record


def listed(uuid: str, fields: Fields) -> FlowDetail:
    """The flow as far as it can be read."""
    try:
        return FlowDetail.listed(flow_record(uuid, fields))
    except DamagedRecord as damaged:
        record: Record = {}
        for column in FLOW_COLUMNS:
            try:
                record[column] = _value(column, fields.get(_NAMES[column]))
            except ValueError:
                record[column] = None
        record |= {"uuid": uuid, "meta": None, "factory": None, "codec_version": codec.CODEC_VERSION}
        for column in ("name", "state"):
            record[column] = record[column] or ""
        for column in ("revision", "epoch", "request_sequence", "request_handled", "priority"):
            record[column] = record[column] or 0
        detail = FlowDetail.listed(record)
        detail.damage = damaged.reason
        return detail


def atom_record(uuid: str, values: Sequence[bytes | None]) -> Record:
    """The record of an atom from the values of :func:`atom_names`."""
    try:
        record = {column: _value(column, value) for column, value in zip(ATOM_COLUMNS, values, strict=True)}
    except ValueError as error:
        raise DamagedRecord("atom", uuid, str(error)) from error
    for column in ("name", "kind", "version", "state", "attempt", "revision"):
        if record[column] is None:
            raise DamagedRecord("atom", uuid, f"it has no {column}")
    return record


def atoms_of(flat: Sequence[Any] | Mapping[Any, Any]) -> list[AtomDetail]:
    """The atoms of a flow from all their fields, in the order in which they were first written.

    :raises DamagedRecord: one of them cannot be read
    """
    fields = pairs(flat)
    places: list[tuple[int, str]] = []
    for name, value in fields.items():
        if name.endswith(b":position"):
            uuid = name[:-9].decode("utf-8")
            try:
                places.append((int(value), uuid))
            except ValueError as error:
                raise DamagedRecord("atom", uuid, f"its position is no number: {error}") from error
    return [
        AtomDetail.from_record(atom_record(uuid, [fields.get(name) for name in atom_names(uuid)]))
        for _, uuid in sorted(places)
    ]
