# SPDX-License-Identifier: Apache-2.0
"""The indexes, and the version of the documents' form."""

from __future__ import annotations

import contextlib

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from pluggableflow.exceptions import ForeignStore, StorageFailure
from pluggableflow_mongodb.client import Document, Store
from pluggableflow_mongodb.operations import sweep

#: Grows when documents appear that an older release cannot read.
SCHEMA_VERSION = 1
#: Serves claims by scan: what is ready now, by priority and age; and what becomes ready by time.
SCAN_INDEX = "scan"
_VERSION_ID = "schema"
_BY_AGE = [("created_at", 1), ("_id", 1)]
_INDEXES = {
    "books": [IndexModel(_BY_AGE, name="age"), IndexModel("unsettled", name="unsettled", sparse=True)],
    "flows": [
        IndexModel(_BY_AGE, name="age"),
        *(IndexModel([(column, 1), *_BY_AGE], name=column) for column in ("name", "state", "owner", "parent_uuid")),
        *(IndexModel(column, name=column, sparse=True) for column in ("token", "op", "journaled")),
        IndexModel(
            [("ready_at", 1), ("priority", -1), *_BY_AGE],
            name=SCAN_INDEX,
            partialFilterExpression={"runnable": True},
        ),
    ],
    "atoms": [IndexModel("uuid", name="uuid")],
}


def upgrade(store: Store) -> None:
    if _version(store) != SCHEMA_VERSION:
        for collection, indexes in _INDEXES.items():
            getattr(store, collection).create_indexes(indexes)
        version: Document = {"version": SCHEMA_VERSION}
        with contextlib.suppress(DuplicateKeyError):  # another process was as fast
            store.version.update_one({"_id": _VERSION_ID}, {"$set": version}, upsert=True)
    sweep(store)


def validate(store: Store) -> None:
    version = _version(store)
    if version is None:
        raise StorageFailure(f"{store.place} has no collections of pluggableflow; run `pluggableflow upgrade` on it")
    if version != SCHEMA_VERSION or SCAN_INDEX not in store.flows.index_information():
        raise StorageFailure(f"{store.place} is not of version {SCHEMA_VERSION}; run `pluggableflow upgrade` on it")


def _version(store: Store) -> int | None:
    """The stored version; ``None`` where there is none.

    :raises ForeignStore: it is newer than this release, or it is none
    """
    found = store.version.find_one({"_id": _VERSION_ID})
    if found is None:
        return None
    version = found.get("version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ForeignStore(
            f"{store.place} was written by a newer release (version {version}, this one knows {SCHEMA_VERSION});"
            " pip install --upgrade pluggableflow"
        )
    return version
