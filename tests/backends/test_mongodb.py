# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pymongo
import pytest
from pluggableflow_mongodb import MongoDBConnection
from pluggableflow_mongodb.flows import flow_record

from pluggableflow import api
from pluggableflow.connection import Connection
from pluggableflow.middleware import ATOM_COLUMNS, new_uuid
from pluggableflow.testing import ConnectionTests

PREFIX = "pluggableflow_"


def read_raw(database: Any, kind: str, uuid: str, prefix: str = PREFIX) -> dict[str, Any] | None:
    """The stored columns of a record; an atom's are those of its document with the journal laid over them here."""
    if kind == "logbook":
        found = database[f"{prefix}logbooks"].find_one({"_id": uuid})
        return None if found is None else {**found, "uuid": found["_id"]}
    if kind == "flow":
        found = database[f"{prefix}flows"].find_one({"_id": uuid})
        return None if found is None else flow_record(found)
    atom = database[f"{prefix}atoms"].find_one({"uuid": uuid})
    for flow in database[f"{prefix}flows"].find():
        for entry in flow["journal"]:
            for added in entry["added"]:
                if atom is None and added["uuid"] == uuid:
                    atom = {**added, "at": entry["at"]}
            for change in entry["changed"]:
                if change["uuid"] == uuid and atom is not None and atom["at"] < entry["at"]:
                    revision = atom["revision"] + 1
                    atom |= {"revision": revision, **change["columns"], "at": entry["at"]}
    return None if atom is None else {column: atom.get(column) for column in ATOM_COLUMNS}


def damage_raw(database: Any, kind: str, uuid: str, prefix: str = PREFIX) -> None:
    """Cut the text of a value short, in the journal too."""
    if kind == "atom":
        database[f"{prefix}atoms"].update_many({"uuid": uuid}, {"$set": {"results": '{"cut'}})
        for flow in database[f"{prefix}flows"].find({"journal.added.uuid": uuid}):
            for entry in flow["journal"]:
                for added in entry["added"]:
                    added |= {"results": '{"cut'} if added["uuid"] == uuid else {}
            database[f"{prefix}flows"].update_one({"_id": flow["_id"]}, {"$set": {"journal": flow["journal"]}})
    else:
        database[f"{prefix}{kind}s"].update_one({"_id": uuid}, {"$set": {"meta": '{"cut'}})


@contextlib.contextmanager
def database_of(url: str) -> Iterator[Any]:
    """The driver's own view of a database that is dropped in the end."""
    with pymongo.MongoClient[Any](url) as client:
        database = client.get_default_database()
        yield database
        client.drop_database(database)


def own_database(url: str) -> str:
    """The same server's URL with a database of its own."""
    base, _, query = url.partition("?")
    return f"{base.rpartition('/')[0]}/tests_{new_uuid()[:12]}" + (f"?{query}" if query else "")


class MongoDBTests(ConnectionTests):
    @pytest.fixture
    def database(self, url: str) -> Iterator[Any]:
        with database_of(url) as made:
            yield made

    @pytest.fixture
    def raw(self, database: Any) -> Any:
        return functools.partial(read_raw, database)

    @pytest.fixture
    def damage(self, database: Any) -> Any:
        return functools.partial(damage_raw, database)


class TestStandalone(MongoDBTests):
    @pytest.fixture
    def url(self, mongodb_url: str) -> str:
        return own_database(mongodb_url)


class TestReplicaSet(MongoDBTests):
    @pytest.fixture
    def url(self, mongodb_replica_set_url: str) -> str:
        return own_database(mongodb_replica_set_url)


class TestEmbeddersClient(MongoDBTests):
    @pytest.fixture
    def url(self, mongodb_url: str) -> str:
        return own_database(mongodb_url)

    @pytest.fixture
    def client(self, url: str) -> Iterator[pymongo.MongoClient[Any]]:
        with pymongo.MongoClient[Any](url, tz_aware=True) as made:
            yield made

    @pytest.fixture
    def connection(self, client: pymongo.MongoClient[Any]) -> Iterator[Connection]:
        made = api.connect(client)
        assert isinstance(made, MongoDBConnection)
        yield made
        made.close()
        assert client.admin.command("ping")["ok"]
