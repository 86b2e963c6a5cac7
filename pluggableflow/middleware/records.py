# SPDX-License-Identifier: Apache-2.0
"""The form in which a backend keeps what middleware objects hold.

A *record* is a dict of column name to ``str``, ``int`` or ``None``. Values (results, failures, metadata) are
ASCII-only JSON text of the codec; times are UTC microseconds since the epoch.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from pluggableflow import codec
from pluggableflow.exceptions import DamagedRecord, InvalidFormat

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

#: Columns that hold text of the codec.
ENCODED_COLUMNS = frozenset({"meta", "factory", "results", "failure", "revert_results", "revert_failure"})

TASK_KIND = "TASK"
RETRY_KIND = "RETRY"


def new_uuids(count: int) -> list[str]:
    """Make ``count`` identifiers that follow each other, from a random one on.

    So what is written together lies together in a store's indexes.
    """
    first = int.from_bytes(os.urandom(16), "big") >> 1  # room for all that follow
    return [f"{number:032x}" for number in range(first, first + count)]


def new_uuid() -> str:
    return os.urandom(16).hex()


def decode(text: Scalar) -> Any:
    return None if text is None else codec.loads(str(text))


def encode(value: Any) -> str | None:
    return None if value is None else codec.dumps(value)


def plain(record: Record) -> dict[str, Any]:
    return {
        column: json.loads(str(value)) if column in ENCODED_COLUMNS and value is not None else value
        for column, value in record.items()
    }


def unplain(data: Mapping[str, Any], columns: tuple[str, ...]) -> Record:
    missing = [column for column in columns if column not in data]
    if missing:
        raise InvalidFormat(f"a detail needs the keys {', '.join(missing)}")
    return {
        column: json.dumps(data[column]) if column in ENCODED_COLUMNS and data[column] is not None else data[column]
        for column in columns
    }


@contextlib.contextmanager
def reading(kind: str, record: Mapping[str, Any]) -> Iterator[None]:
    """Say which record it is that cannot be decoded.

    :param kind: "logbook", "flow" or "atom"
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:  # not JSON, or JSON of another shape
        raise DamagedRecord(kind, record["uuid"], str(error)) from error
