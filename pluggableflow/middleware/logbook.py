# SPDX-License-Identifier: Apache-2.0
"""What is known of one piece of work."""

from __future__ import annotations

import copy as _copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pluggableflow.middleware.flow_detail import FlowDetail
from pluggableflow.middleware.records import LOGBOOK_COLUMNS, Record, decode, encode, new_uuid, plain, reading, unplain


class LogBook:
    """One piece of work, and the details of its flows in the order they were added."""

    __slots__ = ("uuid", "name", "meta", "created_at", "updated_at", "_flows")

    def __init__(self, name: str, uuid: str | None = None) -> None:
        self.name = name
        self.uuid = uuid or new_uuid()
        self.meta: dict[str, Any] = {}
        self.created_at: int | None = None
        self.updated_at: int | None = None
        self._flows: dict[str, FlowDetail] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LogBook):
            return NotImplemented
        return all(getattr(self, each) == getattr(other, each) for each in LogBook.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<LogBook {self.name!r} {self.uuid}, {len(self)} flows>"

    def __iter__(self) -> Iterator[FlowDetail]:
        return iter(self._flows.values())

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, detail: FlowDetail) -> None:
        """Take in a flow detail; one of the same uuid is replaced."""
        detail.parent_uuid = self.uuid
        self._flows[detail.uuid] = detail

    def find(self, flow_uuid: str) -> FlowDetail | None:
        """The detail with that uuid, or ``None``."""
        return self._flows.get(flow_uuid)

    def merge(self, other: LogBook, deep_copy: bool = False) -> LogBook:
        """Take over everything but the identity from ``other``; its flows are merged or added."""
        self.meta = _copy.deepcopy(other.meta) if deep_copy else other.meta
        self.created_at, self.updated_at = other.created_at, other.updated_at
        for theirs in other:
            mine = self._flows.get(theirs.uuid)
            if mine is None:
                self.add(theirs.copy())
            elif mine is not theirs:
                mine.merge(theirs, deep_copy)
        return self

    def copy(self, retain_contents: bool = True) -> LogBook:
        """A new book of the same identity, with copies of the flow details if asked."""
        clone = LogBook(self.name, self.uuid)
        clone.meta, clone.created_at, clone.updated_at = dict(self.meta), self.created_at, self.updated_at
        if retain_contents:
            for detail in self:
                clone.add(detail.copy())
        return clone

    def reset(self) -> None:
        """Forget the outcomes of all flows."""
        for detail in self:
            detail.reset()

    def to_record(self) -> Record:
        """The stored form: one scalar per column of ``LOGBOOK_COLUMNS``, without the flows."""
        return {
            "uuid": self.uuid,
            "name": self.name,
            "meta": encode(self.meta or None),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }

    @staticmethod
    def from_record(record: Mapping[str, Any], flows: Iterable[FlowDetail] = ()) -> LogBook:
        """The book that a stored record describes.

        :raises DamagedRecord: a value cannot be decoded
        """
        book = LogBook(record["name"], record["uuid"])
        with reading("logbook", record):
            book.meta = decode(record["meta"]) or {}
        book.created_at, book.updated_at = record["created_at"], record["updated_at"]
        for detail in flows:
            book.add(detail)
        return book

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-compatible data, flows and atoms included."""
        return {**plain(self.to_record()), "flows": [detail.to_dict() for detail in self]}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LogBook:
        """The inverse of :meth:`to_dict`.

        :raises InvalidFormat: a key is missing
        """
        flows = [FlowDetail.from_dict(each) for each in data.get("flows", ())]
        return LogBook.from_record(unplain(data, LOGBOOK_COLUMNS), flows)

    def pformat(self, indent: int = 0) -> str:
        """Several lines for people, flows and atoms included."""
        pad = " " * indent
        lines = [f"{pad}LogBook: {self.name!r}", f"{pad} - uuid = {self.uuid}", f"{pad} - meta = {self.meta!r}"]
        return "\n".join(lines + [detail.pformat(indent + 1) for detail in self])
