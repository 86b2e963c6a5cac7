# SPDX-License-Identifier: Apache-2.0
"""The light in-memory detail objects between engine and storage, and their form as stored records.

A *record* is what a backend keeps: a dict of column name to ``str``, ``int`` or ``None``. Values (results,
failures, metadata) are ASCII-only JSON text of the codec; times are UTC microseconds since the epoch.
"""

from __future__ import annotations

import copy as _copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pluggableflow import codec, states
from pluggableflow.exceptions import InvalidFormat, NotFound
from pluggableflow.failure import Failure

Scalar = str | int | None
Record = dict[str, Scalar]

LOGBOOK_COLUMNS = ("uuid", "name", "meta", "created_at", "updated_at")
FLOW_COLUMNS = (
    "uuid", "parent_uuid", "name", "state", "meta", "factory", "revision", "owner", "token", "epoch",
    "lease_expires_at", "request", "request_by", "request_sequence", "request_handled", "wake_at", "deadline_at",
    "priority", "codec_version", "created_at", "updated_at",
)  # fmt: skip
#: Columns of a flow that only ``claim``, ``renew``, ``release``, ``request`` and ``commit`` change.
FLOW_OWNERSHIP_COLUMNS = (
    "revision", "owner", "token", "epoch", "lease_expires_at",
    "request", "request_by", "request_sequence", "request_handled",
)  # fmt: skip
ATOM_COLUMNS = (
    "uuid", "parent_uuid", "name", "kind", "version", "state", "intention", "attempt", "signature", "results",
    "failure", "revert_results", "revert_failure", "meta", "not_before", "deadline_at", "started_at", "finished_at",
    "revision",
)  # fmt: skip
#: Columns that hold integers; all others hold text.
INTEGER_COLUMNS = frozenset(
    {
        "created_at", "updated_at", "revision", "epoch", "lease_expires_at", "request_sequence", "request_handled",
        "wake_at", "deadline_at", "priority", "codec_version", "attempt", "not_before", "started_at", "finished_at",
    }
)  # fmt: skip

TASK_KIND = "TASK"
RETRY_KIND = "RETRY"


def new_uuids(count: int) -> list[str]:
    """Make ``count`` random identifiers from one read of the system's random source."""
    digits = os.urandom(16 * count).hex()
    return [digits[at : at + 32] for at in range(0, 32 * count, 32)]


def new_uuid() -> str:
    return os.urandom(16).hex()


def _decode(text: Scalar) -> Any:
    return None if text is None else codec.loads(str(text))


def _encode(value: Any) -> str | None:
    return None if value is None else codec.dumps(value)


class AtomDetail:
    """What is known of one atom of a flow. Use :class:`TaskDetail` or :class:`RetryDetail`.

    :ivar attempt: how often it was started; a start that a crash cut short and its repetition count once
    :ivar signature: what the atom's place in its flow was when it began, or ``None``
    :ivar failure: of the last execution; stays after it was reverted
    :ivar not_before: time before which a retry does not start its next attempt
    """

    __slots__ = (
        "uuid", "name", "parent_uuid", "version", "state", "intention", "attempt", "signature", "results", "failure",
        "revert_results", "revert_failure", "meta", "not_before", "deadline_at", "started_at", "finished_at",
        "revision",
    )  # fmt: skip
    kind = ""

    def __init__(self, name: str, uuid: str | None = None) -> None:
        self.name = name
        self.uuid = uuid or new_uuid()
        self.parent_uuid: str | None = None
        self.version: tuple[int, ...] = (1, 0)
        self.state = states.PENDING
        self.intention = states.EXECUTE
        self.attempt = 0
        self.signature: str | None = None
        self.results: Any = None
        self.failure: Failure | None = None
        self.revert_results: Any = None
        self.revert_failure: Failure | None = None
        self.meta: dict[str, Any] = {}
        self.not_before: int | None = None
        self.deadline_at: int | None = None
        self.started_at: int | None = None
        self.finished_at: int | None = None
        self.revision = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AtomDetail):
            return NotImplemented
        return self.kind == other.kind and all(
            getattr(self, each) == getattr(other, each) for each in AtomDetail.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.state}>"

    @property
    def last_results(self) -> Any:
        """The value that this atom last provided, or ``None``."""
        return self.results

    def put(self, state: str, result: Any) -> bool:
        """Take over a state and the outcome that led to it; returns whether anything changed."""
        before = (self.state, self.results, self.failure, self.revert_results, self.revert_failure)
        self.state = state
        if state in (states.REVERTED, states.REVERT_FAILURE):
            failed = isinstance(result, Failure)
            self.revert_failure = result if failed else None
            self.revert_results = None if failed else result
        elif isinstance(result, Failure):
            self.failure, self.results = result, self._results_after_failure()
        else:
            self.failure = None
            self._put_results(result)
        return before != (self.state, self.results, self.failure, self.revert_results, self.revert_failure)

    def _put_results(self, result: Any) -> None:
        self.results = result

    def _results_after_failure(self) -> Any:
        return None

    def reset(self, state: str = states.PENDING) -> None:
        """Forget all outcomes, as before the first execution; ``attempt`` stays."""
        self.state, self.intention = state, states.EXECUTE
        self.results = self.failure = self.revert_results = self.revert_failure = None
        self.not_before = self.started_at = self.finished_at = None

    def update(self, other: AtomDetail) -> AtomDetail:
        """Take over everything but the identity from ``other``."""
        return self.merge(other)

    def merge(self, other: AtomDetail, deep_copy: bool = False) -> AtomDetail:
        """Take over everything but the identity from ``other``, with copies of mutable values if asked."""
        if type(other) is not type(self):
            raise InvalidFormat(f"cannot merge {other!r} into {self!r}: they are of different kinds")
        for each in AtomDetail.__slots__:
            if each not in ("uuid", "name"):
                value = getattr(other, each)
                setattr(self, each, _copy.deepcopy(value) if deep_copy else value)
        return self

    def copy(self: _Atom, retain_contents: bool = True) -> _Atom:
        """A new detail of the same identity; mutable values are shared."""
        clone = type(self)(self.name, self.uuid)
        if retain_contents:
            clone.merge(self)
            clone.meta = dict(self.meta)
        return clone

    def to_record(self) -> Record:
        """The stored form: one scalar per column of ``ATOM_COLUMNS``."""
        return {
            "uuid": self.uuid,
            "parent_uuid": self.parent_uuid,
            "name": self.name,
            "kind": self.kind,
            "version": ".".join(map(str, self.version)),
            "state": self.state,
            "intention": self.intention,
            "attempt": self.attempt,
            "signature": self.signature,
            "results": _encode(self.results),
            "failure": _encode(self.failure),
            "revert_results": _encode(self.revert_results),
            "revert_failure": _encode(self.revert_failure),
            "meta": _encode(self.meta or None),
            "not_before": self.not_before,
            "deadline_at": self.deadline_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "revision": self.revision,
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> AtomDetail:
        """The detail that a stored record describes.

        :raises InvalidFormat: the kind is unknown
        :raises DecodingError: a value is damaged, or of a type that this process does not know
        """
        kind = _DETAIL_KINDS.get(record["kind"])
        if kind is None:
            raise InvalidFormat(f"atom {record['uuid']} is of the unknown kind {record['kind']!r}")
        detail = kind(record["name"], record["uuid"])
        for column in ("parent_uuid", "state", "intention", "signature"):
            setattr(detail, column, record[column])
        for column in ("attempt", "not_before", "deadline_at", "started_at", "finished_at", "revision"):
            setattr(detail, column, record[column])
        detail.version = tuple(int(part) for part in record["version"].split("."))
        detail.results = detail._decode_results(record["results"])
        detail.failure = _decode(record["failure"])
        detail.revert_results = _decode(record["revert_results"])
        detail.revert_failure = _decode(record["revert_failure"])
        detail.meta = _decode(record["meta"]) or {}
        return detail

    def _decode_results(self, text: Scalar) -> Any:
        return _decode(text)

    def to_dict(self) -> dict[str, Any]:
        """The record with decoded structure: plain JSON-compatible data."""
        return _plain(self.to_record())

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> AtomDetail:
        """The inverse of :meth:`to_dict`.

        :raises InvalidFormat: a column is missing or of an unknown kind
        """
        return AtomDetail.from_record(_unplain(data, ATOM_COLUMNS))

    def pformat(self, indent: int = 0) -> str:
        """Several lines for people."""
        pad = " " * indent
        lines = [f"{pad}{type(self).__name__}: {self.name!r}"]
        lines += [f"{pad} - {each} = {getattr(self, each)!r}" for each in AtomDetail.__slots__ if each != "name"]
        return "\n".join(lines)


_Atom = TypeVar("_Atom", bound=AtomDetail)


class TaskDetail(AtomDetail):
    """What is known of one task."""

    __slots__ = ()
    kind = TASK_KIND


class RetryDetail(AtomDetail):
    """What is known of one retry: ``results`` is its history.

    :ivar results: one ``(value, {atom name: Failure})`` per attempt, oldest first
    """

    __slots__ = ()
    kind = RETRY_KIND

    def __init__(self, name: str, uuid: str | None = None) -> None:
        super().__init__(name, uuid)
        self.results = []

    @property
    def last_results(self) -> Any:
        """The value of the latest attempt.

        :raises NotFound: there was no attempt yet
        """
        return self._latest()[0]

    @property
    def last_failures(self) -> dict[str, Failure]:
        """The failures of the latest attempt, by atom name.

        :raises NotFound: there was no attempt yet
        """
        failures: dict[str, Failure] = self._latest()[1]
        return failures

    def _latest(self) -> Any:
        if not self.results:
            raise NotFound(f"retry {self.name!r} has made no attempt yet")
        return self.results[-1]

    def _put_results(self, result: Any) -> None:
        self.results.append((result, {}))

    def _results_after_failure(self) -> Any:
        return self.results

    def _decode_results(self, text: Scalar) -> Any:
        return _decode(text) or []

    def reset(self, state: str = states.PENDING) -> None:
        super().reset(state)
        self.results = []

    def merge(self, other: AtomDetail, deep_copy: bool = False) -> AtomDetail:
        super().merge(other, deep_copy)
        self.results = [(value, dict(failures)) for value, failures in self.results]
        return self


_DETAIL_KINDS: dict[str, type[AtomDetail]] = {TASK_KIND: TaskDetail, RETRY_KIND: RetryDetail}


def _plain(record: Record) -> dict[str, Any]:
    return {
        column: json.loads(str(value)) if column in _ENCODED_COLUMNS and value is not None else value
        for column, value in record.items()
    }


def _unplain(data: Mapping[str, Any], columns: tuple[str, ...]) -> Record:
    missing = [column for column in columns if column not in data]
    if missing:
        raise InvalidFormat(f"a detail needs the keys {', '.join(missing)}")
    return {
        column: json.dumps(data[column]) if column in _ENCODED_COLUMNS and data[column] is not None else data[column]
        for column in columns
    }


_ENCODED_COLUMNS = frozenset({"meta", "factory", "results", "failure", "revert_results", "revert_failure"})


class FlowDetail:
    """What is known of one run of a top-level flow, and the details of its atoms in the order they began.

    :ivar meta: the embedder's own data
    :ivar factory: what :func:`~pluggableflow.api.flow_from_detail` makes the flow from again, or ``None``
    :ivar revision: how many commits it has seen
    :ivar owner: identity of the process that holds or last held it, or ``None``
    """

    __slots__ = (
        "uuid", "parent_uuid", "name", "state", "meta", "factory", "revision", "owner", "token", "epoch",
        "lease_expires_at", "request", "request_by", "request_sequence", "request_handled", "wake_at", "deadline_at",
        "priority", "codec_version", "created_at", "updated_at", "_atoms",
    )  # fmt: skip

    def __init__(self, name: str, uuid: str | None = None) -> None:
        self.name = name
        self.uuid = uuid or new_uuid()
        self.parent_uuid: str | None = None
        self.state = states.PENDING
        self.meta: dict[str, Any] = {}
        self.factory: dict[str, Any] | None = None
        self.revision = 0
        self.owner: str | None = None
        self.token: str | None = None
        self.epoch = 0
        self.lease_expires_at: int | None = None
        self.request: str | None = None
        self.request_by: str | None = None
        self.request_sequence = 0
        self.request_handled = 0
        self.wake_at: int | None = None
        self.deadline_at: int | None = None
        self.priority = 0
        self.codec_version = codec.CODEC_VERSION
        self.created_at: int | None = None
        self.updated_at: int | None = None
        self._atoms: dict[str, AtomDetail] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FlowDetail):
            return NotImplemented
        return all(getattr(self, each) == getattr(other, each) for each in FlowDetail.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<FlowDetail {self.name!r} {self.uuid} {self.state}, {len(self)} atoms>"

    def __iter__(self) -> Iterator[AtomDetail]:
        return iter(self._atoms.values())

    def __len__(self) -> int:
        return len(self._atoms)

    def add(self, detail: AtomDetail) -> None:
        """Take in an atom detail; one of the same uuid is replaced."""
        detail.parent_uuid = self.uuid
        self._atoms[detail.uuid] = detail

    def find(self, atom_uuid: str) -> AtomDetail | None:
        """The detail with that uuid, or ``None``."""
        return self._atoms.get(atom_uuid)

    def update(self, other: FlowDetail) -> FlowDetail:
        """Take over everything but the identity and the atoms from ``other``."""
        for each in FlowDetail.__slots__:
            if each not in ("uuid", "name", "_atoms"):
                setattr(self, each, getattr(other, each))
        return self

    def merge(self, other: FlowDetail, deep_copy: bool = False) -> FlowDetail:
        """Take over everything but the identity from ``other``; its atoms are merged or added."""
        self.update(other)
        if deep_copy:
            self.meta = _copy.deepcopy(self.meta)
        for theirs in other:
            mine = self._atoms.get(theirs.uuid)
            if mine is None:
                self.add(theirs.copy())
            elif mine is not theirs:
                mine.merge(theirs, deep_copy)
        return self

    def copy(self, retain_contents: bool = True) -> FlowDetail:
        """A new detail of the same identity, with copies of the atom details if asked."""
        clone = FlowDetail(self.name, self.uuid).update(self)
        clone.meta = dict(self.meta)
        if retain_contents:
            for detail in self:
                clone.add(detail.copy())
        return clone

    def reset(self, state: str = states.PENDING) -> None:
        """Forget the outcomes of all atoms."""
        self.state = state
        for detail in self:
            detail.reset()

    def to_record(self) -> Record:
        """The stored form: one scalar per column of ``FLOW_COLUMNS``, without the atoms."""
        record = {column: getattr(self, column) for column in FLOW_COLUMNS}
        record["meta"], record["factory"] = _encode(self.meta or None), _encode(self.factory)
        return record

    @staticmethod
    def from_record(record: Mapping[str, Any], atoms: Iterable[AtomDetail] = ()) -> FlowDetail:
        """The detail that a stored record describes.

        :raises DecodingError: a value is damaged
        """
        detail = FlowDetail(record["name"], record["uuid"])
        for column in FLOW_COLUMNS:
            setattr(detail, column, record[column])
        detail.meta, detail.factory = _decode(record["meta"]) or {}, _decode(record["factory"])
        for atom in atoms:
            detail.add(atom)
        return detail

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-compatible data, atoms included."""
        return {**_plain(self.to_record()), "atoms": [detail.to_dict() for detail in self]}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> FlowDetail:
        """The inverse of :meth:`to_dict`.

        :raises InvalidFormat: a key is missing
        """
        atoms = [AtomDetail.from_dict(each) for each in data.get("atoms", ())]
        return FlowDetail.from_record(_unplain(data, FLOW_COLUMNS), atoms)

    def pformat(self, indent: int = 0) -> str:
        """Several lines for people, atoms included."""
        pad = " " * indent
        lines = [f"{pad}FlowDetail: {self.name!r}"]
        lines += [f"{pad} - {each} = {getattr(self, each)!r}" for each in FLOW_COLUMNS if each != "name"]
        return "\n".join(lines + [detail.pformat(indent + 1) for detail in self])


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
            "meta": _encode(self.meta or None),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }

    @staticmethod
    def from_record(record: Mapping[str, Any], flows: Iterable[FlowDetail] = ()) -> LogBook:
        """The book that a stored record describes.

        :raises DecodingError: a value is damaged
        """
        book = LogBook(record["name"], record["uuid"])
        book.meta = _decode(record["meta"]) or {}
        book.created_at, book.updated_at = record["created_at"], record["updated_at"]
        for detail in flows:
            book.add(detail)
        return book

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-compatible data, flows and atoms included."""
        return {**_plain(self.to_record()), "flows": [detail.to_dict() for detail in self]}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> LogBook:
        """The inverse of :meth:`to_dict`.

        :raises InvalidFormat: a key is missing
        """
        flows = [FlowDetail.from_dict(each) for each in data.get("flows", ())]
        return LogBook.from_record(_unplain(data, LOGBOOK_COLUMNS), flows)

    def pformat(self, indent: int = 0) -> str:
        """Several lines for people, flows and atoms included."""
        pad = " " * indent
        lines = [f"{pad}LogBook: {self.name!r}", f"{pad} - uuid = {self.uuid}", f"{pad} - meta = {self.meta!r}"]
        return "\n".join(lines + [detail.pformat(indent + 1) for detail in self])
