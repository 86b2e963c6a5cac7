# SPDX-License-Identifier: Apache-2.0
"""What is known of one atom of a flow."""

from __future__ import annotations

import copy as _copy
from collections.abc import Mapping
from typing import Any, TypeVar

from pluggableflow import states
from pluggableflow.exceptions import DamagedRecord, InvalidFormat, NotFound
from pluggableflow.failure import Failure
from pluggableflow.middleware.records import (
    ATOM_COLUMNS,
    RETRY_KIND,
    TASK_KIND,
    Record,
    Scalar,
    decode,
    encode,
    new_uuid,
    plain,
    reading,
    unplain,
)


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
        self.version = "1.0"
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
        self.not_before = self.deadline_at = self.started_at = self.finished_at = None

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
            "version": self.version,
            "state": self.state,
            "intention": self.intention,
            "attempt": self.attempt,
            "signature": self.signature,
            "results": encode(self.results),
            "failure": encode(self.failure),
            "revert_results": encode(self.revert_results),
            "revert_failure": encode(self.revert_failure),
            "meta": encode(self.meta or None),
            "not_before": self.not_before,
            "deadline_at": self.deadline_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "revision": self.revision,
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> AtomDetail:
        """The detail that a stored record describes.

        :raises DamagedRecord: a value cannot be decoded, or is of a type or kind that this process does not know
        """
        kind = _DETAIL_KINDS.get(record["kind"])
        if kind is None:
            raise DamagedRecord("atom", record["uuid"], f"it is of the unknown kind {record['kind']!r}")
        detail = kind(record["name"], record["uuid"])
        for column in ("parent_uuid", "state", "intention", "signature"):
            setattr(detail, column, record[column])
        for column in ("attempt", "not_before", "deadline_at", "started_at", "finished_at", "revision"):
            setattr(detail, column, record[column])
        with reading("atom", record):
            detail.version = record["version"]
            int(detail.version.replace(".", ""))  # numbers, or the record is damaged
            detail.results = detail._decode_results(record["results"])
            detail.failure = decode(record["failure"])
            detail.revert_results = decode(record["revert_results"])
            detail.revert_failure = decode(record["revert_failure"])
            detail.meta = decode(record["meta"]) or {}
        return detail

    def _decode_results(self, text: Scalar) -> Any:
        return decode(text)

    def to_dict(self) -> dict[str, Any]:
        """The record with decoded structure: plain JSON-compatible data."""
        return plain(self.to_record())

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> AtomDetail:
        """The inverse of :meth:`to_dict`.

        :raises InvalidFormat: a column is missing or of an unknown kind
        """
        record = unplain(data, ATOM_COLUMNS)
        if record["kind"] not in _DETAIL_KINDS:
            raise InvalidFormat(f"atom {record['uuid']} is of the unknown kind {record['kind']!r}")
        return AtomDetail.from_record(record)

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
        return decode(text) or []

    def reset(self, state: str = states.PENDING) -> None:
        super().reset(state)
        self.results = []

    def merge(self, other: AtomDetail, deep_copy: bool = False) -> AtomDetail:
        super().merge(other, deep_copy)
        self.results = [(value, dict(failures)) for value, failures in self.results]
        return self


_DETAIL_KINDS: dict[str, type[AtomDetail]] = {TASK_KIND: TaskDetail, RETRY_KIND: RetryDetail}
