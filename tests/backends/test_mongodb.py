# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
import servers
from mongodb_stores import database_of, own_database
from pluggableflow_mongodb import MongoDBConnection, client, commits
from pluggableflow_mongodb.flows import flow_record
from pymongo.synchronous import pool

from pluggableflow import api, codec, states
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import ForeignStore, NotFound, OptionError, StorageFailure, ValueTooLarge
from pluggableflow.middleware import ATOM_COLUMNS, FlowDetail, LogBook, Record, new_uuid
from pluggableflow.testing import ConnectionTests
from pluggableflow.testing.connection_tests import atom_record, claimed, saved_flow
from pluggableflow.testing.processes import Child
from pluggableflow.testing.records import FACTORY, LONG

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
def failing(step: int) -> Iterator[None]:
    """Let the connection be lost at the n-th time that this thread sends or receives something, and never tried again.

    The driver itself does try again, on a replica set.
    """
    count, mine = 0, threading.get_ident()

    def lost(call: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal count
        count += threading.get_ident() == mine
        if count == step and threading.get_ident() == mine:
            raise ConnectionResetError("cut")
        return call(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "ATTEMPTS", 1)
        for name in ("sendall", "receive_message"):
            patch.setattr(pool, name, functools.partial(lost, getattr(pool, name)))
        yield


class MongoDBTests(ConnectionTests):
    replica_set = False

    @pytest.fixture
    def server(self, mongodb_url: str, tmp_path: Path) -> Iterator[servers.MongoDBServer]:
        started = servers.MongoDBServer(tmp_path / "mongod", replica_set=self.replica_set)
        yield started
        started.stop()

    @pytest.fixture
    def url(self, request: pytest.FixtureRequest) -> str:
        if "server" in request.fixturenames:
            address = request.getfixturevalue("server").url
            return own_database(f"{address}{'&' if '?' in address else '?'}serverSelectionTimeoutMS=2000")
        return own_database(request.getfixturevalue("mongodb_replica_set_url" if self.replica_set else "mongodb_url"))

    @pytest.fixture
    def database(self, url: str) -> Iterator[Any]:
        with database_of(url) as made:
            yield made

    @pytest.fixture
    def connection(self, url: str, database: Any) -> Iterator[Connection]:
        made = api.connect(url)
        yield made
        made.close()

    @pytest.fixture
    def raw(self, database: Any) -> Any:
        return functools.partial(read_raw, database)

    @pytest.fixture
    def damage(self, database: Any) -> Any:
        return functools.partial(damage_raw, database)

    @pytest.fixture
    def interrupt(self) -> Any:
        return failing


class TestStandalone(MongoDBTests):
    pass


class TestReplicaSet(MongoDBTests):
    replica_set = True


class TestEmbeddersClient(MongoDBTests):
    @pytest.fixture
    def client(self, url: str) -> Iterator[pymongo.MongoClient[Any]]:
        with pymongo.MongoClient[Any](url, tz_aware=True) as made:
            yield made

    @pytest.fixture
    def connection(self, client: pymongo.MongoClient[Any], database: Any) -> Iterator[Connection]:
        made = api.connect(client)
        assert isinstance(made, MongoDBConnection)
        yield made
        made.close()
        assert client.admin.command("ping")["ok"]


# -- this backend's own -------------------------------------------------------------------------------------------


@pytest.fixture
def own(mongodb_url: str) -> Iterator[tuple[str, Any]]:
    """A URL, and the driver's view of its database."""
    url = own_database(mongodb_url)
    with database_of(url) as database:
        yield url, database


@pytest.mark.parametrize(
    "query",
    ["colour=red", "maxPoolSize=1", "readPreference=secondary", "prefix=a-b", "w=0", "journal=maybe",
     "connectTimeoutMS=soon"],
)  # fmt: skip
def test_a_wrong_parameter_is_refused_by_name(query: str) -> None:
    with pytest.raises(OptionError, match=query.partition("=")[0]):
        MongoDBConnection.from_url(f"mongodb://127.0.0.1/flows?{query}")


def test_writes_wait_for_a_journaled_majority_unless_the_url_says_otherwise(own: tuple[str, Any]) -> None:
    url, _database = own
    for query, expected in (("", {"w": "majority", "j": True}), ("?w=1&journal=false", {"w": 1, "j": False})):
        connection = MongoDBConnection.from_url(url + query)
        for collection in (connection._store.books, connection._store.flows, connection._store.atoms):
            assert collection.write_concern.document == expected
            assert collection.read_concern.level == "majority"
        connection.close()


def test_a_prefix_names_every_collection(own: tuple[str, Any]) -> None:
    url, database = own
    first, second = api.connect(f"{url}?prefix=one_"), api.connect(f"{url}?prefix=two_")
    flow = saved_flow(first)
    assert second.find_flows() == [] and [each.uuid for each in first.find_flows()] == [flow.uuid]
    assert all(name.startswith(("one_", "two_")) for name in database.list_collection_names())
    first.close()
    second.close()


def test_a_store_of_a_newer_release_is_refused_and_left_as_it_is(own: tuple[str, Any]) -> None:
    url, database = own
    database["pluggableflow_version"].insert_one({"_id": "schema", "version": 999})
    for call in ("upgrade", "validate"):
        connection = MongoDBConnection.from_url(url)
        with pytest.raises(ForeignStore, match="newer"):
            getattr(connection, call)()
        connection.close()
    assert database.list_collection_names() == ["pluggableflow_version"]


def test_a_store_that_was_never_upgraded_says_so(own: tuple[str, Any]) -> None:
    connection = MongoDBConnection.from_url(own[0])
    with pytest.raises(StorageFailure, match="pluggableflow upgrade"):
        connection.validate()
    saved_flow(connection)
    with pytest.raises(StorageFailure, match="pluggableflow upgrade"):
        connection.claim(token="t", owner="o", lease_seconds=LONG)
    connection.upgrade()
    connection.validate()
    connection.close()


def test_a_server_that_does_not_run_is_named_without_the_password() -> None:
    url = f"mongodb://me:secret@127.0.0.1:{servers.free_port()}/flows?serverSelectionTimeoutMS=100"
    with pytest.raises(StorageFailure, match="is it running") as failure:
        api.connect(url)
    assert "127.0.0.1" in str(failure.value) and "secret" not in str(failure.value)
    assert isinstance(failure.value.__cause__, pymongo.errors.PyMongoError)


def test_a_database_of_an_embedder_can_be_passed_in(own: tuple[str, Any]) -> None:
    _url, database = own
    connection = api.connect(database)
    assert isinstance(connection, MongoDBConnection)
    flow = saved_flow(connection)
    assert read_raw(database, "flow", flow.uuid) is not None
    assert MongoDBConnection.from_client(object()) is None


def test_a_child_that_inherits_an_embedders_client_is_told(own: tuple[str, Any]) -> None:
    connection = api.connect(own[1])

    def use() -> str:
        try:
            connection.find_flows()
        except StorageFailure as failure:
            return str(failure)
        return "it worked"

    assert "make a MongoClient in the child" in Child(use).outcome()


def test_documents_with_all_values_at_the_largest_size_are_stored(own: tuple[str, Any]) -> None:
    connection = api.connect(own[0])
    flow = saved_flow(connection)
    task, _retry = flow
    claim = claimed(connection, flow)
    text = codec.dumps("x" * (commits.VALUE_BYTES - 2))
    assert connection.commit(claim.lease, 0, Changes(flow={"meta": text, "factory": text})) == 1
    columns = ("results", "failure", "revert_results", "revert_failure", "meta", "signature")
    for revision in (1, 2, 3):
        changed: Record = dict.fromkeys(columns[revision * 2 - 2 : revision * 2], text)
        assert connection.commit(claim.lease, revision, Changes(changed={task.uuid: changed})) == revision + 1
    connection.release(claim.lease)
    atom = own[1]["pluggableflow_atoms"].find_one({"uuid": task.uuid})
    assert [atom[column] for column in columns] == [text] * 6
    with pytest.raises(ValueTooLarge):
        flow.meta = {"key": text}
        connection.update_flow_details(flow)
    connection.close()


def test_a_commit_that_is_too_large_only_as_bson_is_refused(
    own: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "ENTRY_BYTES", 1000)
    connection = api.connect(own[0])
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    before = connection.get_flow_details(flow.uuid)
    with pytest.raises(ValueTooLarge):
        connection.commit(claim.lease, 0, Changes(added=[atom_record(flow, f"{number}") for number in range(10)]))
    assert connection.get_flow_details(flow.uuid).revision == 0 and len(before) == 2
    assert connection.commit(claim.lease, 0, Changes(added=[atom_record(flow, "0")])) == 1
    connection.close()


def test_a_name_is_unique_among_stored_and_journaled_atoms(own: tuple[str, Any]) -> None:
    connection, other = api.connect(own[0]), api.connect(own[0])
    flow = saved_flow(connection)
    lease = claimed(connection, flow).lease
    connection.commit(lease, 0, Changes(added=[atom_record(flow, "journaled")]))
    for store in (connection, other):
        for name in ("task", "journaled"):
            with pytest.raises(StorageFailure, match=name):
                store.commit(lease, 1, Changes({"priority": 5}, [atom_record(flow, name)]))
        with pytest.raises(NotFound):
            store.commit(lease, 1, Changes({"priority": 5}, [], {new_uuid(): {"attempt": 1}}))
    assert other.commit(lease, 1, Changes(added=[atom_record(flow, "new")])) == 2
    assert connection.commit(lease, 2, Changes(added=[atom_record(flow, "newer")])) == 3
    names = [atom.name for atom in other.get_flow_details(flow.uuid)]
    assert names == ["task", "retry", "journaled", "new", "newer"]
    connection.close()
    other.close()


def test_a_scan_looks_at_few_documents_however_many_there_are(own: tuple[str, Any]) -> None:
    connection, database = api.connect(own[0]), own[1]
    book = LogBook("book")
    for number in range(600):
        flow = FlowDetail(f"flow {number}")
        flow.factory, flow.priority = FACTORY, number % 7
        flow.wake_at = None if number % 3 else 2**60
        flow.state = states.PENDING if number % 2 else states.SUCCESS
        book.add(flow)
    connection.save_logbook(book)
    for _ in range(50):
        connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG)
    database.command("profile", 2)
    assert connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG) is not None
    database.command("profile", 0)
    profiled = list(database["system.profile"].find({"ns": f"{database.name}.pluggableflow_flows"}))
    assert len(profiled) >= 3
    assert sum(each.get("docsExamined", 0) for each in profiled) <= 3
    assert sum(each.get("keysExamined", 0) for each in profiled) <= 6
    connection.close()
