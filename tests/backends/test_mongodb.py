# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pymongo
import pytest
from pluggableflow_mongodb import MongoDBConnection, commits
from pluggableflow_mongodb.flows import flow_record
from pymongo import monitoring

from pluggableflow import api, codec, states
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import NotFound, PluggableFlowError
from pluggableflow.middleware import ATOM_COLUMNS, FlowDetail, LogBook, Record, new_uuid
from pluggableflow.testing import ConnectionTests
from pluggableflow.testing.connection_tests import atom_record, claimed, new_book, saved_flow
from pluggableflow.testing.processes import Child

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


# -- stopped and killed at every driver operation -----------------------------------------------------------------


class Stops(monitoring.CommandListener):
    """Counts what the driver sends and receives, and sends its own process a signal at one of these."""

    def __init__(self, at: int, number: int) -> None:
        self.at, self.number, self.count, self.armed = at, number, 0, False

    def _step(self, _event: object) -> None:
        self.count += self.armed
        if self.armed and self.count == self.at:
            os.kill(os.getpid(), self.number)

    started = succeeded = failed = _step


def acting(url: str, act: Callable[[Connection], object], at: int = 0, number: int = 0) -> Child:
    """A process that does something to a store and gets a signal at one of the steps of the driver.

    Its outcome is the number of steps, or the name of the error.
    """

    def work() -> object:
        commits.JOURNAL_ENTRIES = 2  # so that a few commits reach every part of the protocol
        stops = Stops(at, number)
        with pymongo.MongoClient[Any](url, event_listeners=[stops]) as client:
            connection = MongoDBConnection.from_client(client)
            assert connection is not None
            stops.armed = True
            try:
                act(connection)
            except PluggableFlowError as error:
                return type(error).__name__
            return stops.count

    return Child(work)


def every_step(url: str, prepare: Callable[[], Any], act: Callable[[Connection, Any], object]) -> Iterator[Any]:
    """Prepare, and stop a process that acts at its first, second, ... step; gives what was prepared and the process.

    Ends after the step at which it has ended by itself.
    """
    for step in itertools.count(1):
        prepared = prepare()
        child = acting(url, functools.partial(_swapped, act, prepared), step, signal.SIGSTOP)
        try:
            stopped = child.stopped()
            yield prepared, child
        finally:
            child.end()
        if not stopped:
            return


def _swapped(act: Callable[[Connection, Any], object], prepared: Any, connection: Connection) -> object:
    return act(connection, prepared)


@pytest.fixture(params=["standalone", "replica set"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    fixture = {"standalone": "mongodb_url", "replica set": "mongodb_replica_set_url"}[request.param]
    url = own_database(request.getfixturevalue(fixture))
    with database_of(url):
        yield url


@pytest.fixture
def store(store_url: str) -> Iterator[Connection]:
    made = api.connect(store_url)
    yield made
    made.close()


STEPS = 6


def run(connection: Connection, flow: FlowDetail, start: int = 0) -> None:
    """A holder's life: each commit adds an atom, changes the one before and two older ones, and the flow."""
    claim = claimed(connection, flow)
    uuids = [f"{flow.uuid}.{number}" for number in range(STEPS)]
    task, _retry = flow
    for step in range(start, STEPS):
        changed: dict[str, Record] = {task.uuid: {"attempt": step + 1}}
        if step:
            changed[uuids[step - 1]] = {"state": states.SUCCESS, "results": codec.dumps(step)}
        added = [atom_record(flow, f"atom {step}", uuid=uuids[step], state=states.RUNNING)]
        changes = Changes({"state": states.RUNNING, "priority": step + 1}, added, changed)
        connection.commit(claim.lease, claim.revision + step - start, changes)
    connection.release(claim.lease)


def assert_state_after(commits_: int, detail: FlowDetail) -> None:
    atoms = list(detail)
    assert (detail.priority, len(atoms)) == (commits_, commits_ + 2)
    assert [atom.name for atom in atoms] == ["task", "retry", *(f"atom {step}" for step in range(commits_))]
    assert (atoms[0].attempt, atoms[0].revision, atoms[1].revision) == (commits_, commits_, 0)
    for step, atom in enumerate(atoms[2:], 1):
        last = step == commits_
        found = (atom.state, atom.results, atom.revision)
        assert found == ((states.RUNNING, None, 1) if last else (states.SUCCESS, step, 2))


def test_a_holder_killed_at_any_step_leaves_whole_commits(store: Connection, store_url: str) -> None:
    revisions = set()
    for flow, child in every_step(store_url, lambda: saved_flow(store), run):
        assert_state_after(store.get_flow_details(flow.uuid, lazy=True).revision, store.get_flow_details(flow.uuid))
        child.end()
        epoch = store.get_flow_details(flow.uuid).epoch
        claim = claimed(store, flow, evict_epoch=epoch)
        revisions.add(claim.revision)
        assert_state_after(claim.revision, store.get_flow_details(flow.uuid))
        store.release(claim.lease)
        run(store, flow, claim.revision)
        assert_state_after(STEPS, store.get_flow_details(flow.uuid))
    assert revisions == set(range(STEPS + 1))


def test_a_holder_thawed_after_a_takeover_at_any_step_changes_nothing(store: Connection, store_url: str) -> None:
    for flow, child in every_step(store_url, lambda: saved_flow(store), run):
        claim = claimed(store, flow, evict_epoch=store.get_flow_details(flow.uuid).epoch)
        assert_state_after(claim.revision, store.get_flow_details(flow.uuid))
        task, _retry = flow
        changes = Changes({"priority": 99}, [], {task.uuid: {"attempt": 99}})
        store.commit(claim.lease, claim.revision, changes)
        taken = store.get_flow_details(flow.uuid)
        child.thaw()
        outcome = child.outcome()
        assert outcome in ("LeaseLost", "FlowOwned") or claim.revision == STEPS
        assert store.get_flow_details(flow.uuid) == taken
        store.release(claim.lease)  # applies the journal, which the reader has laid over the atoms until now
        assert list(store.get_flow_details(flow.uuid)) == list(taken)


def test_a_holder_thawed_after_its_flow_was_destroyed_brings_nothing_back(store: Connection, store_url: str) -> None:
    def prepare() -> LogBook:
        book = new_book("flow")
        store.save_logbook(book)
        return book

    def act(connection: Connection, book: LogBook) -> None:
        (flow,) = book
        run(connection, flow)

    for book, child in every_step(store_url, prepare, act):
        (flow,) = book
        store.destroy_logbook(book.uuid, force=True)
        store.save_logbook(book)  # the same uuids in a new life
        saved = store.get_flow_details(flow.uuid)
        child.thaw()
        outcome = child.outcome()
        if outcome == "LeaseLost":  # it did not begin anew with the new flow
            assert store.get_flow_details(flow.uuid) == saved
        with pytest.raises(NotFound):
            store.get_atom_details(new_uuid())
