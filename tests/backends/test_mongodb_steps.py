# SPDX-License-Identifier: Apache-2.0
"""Holders, saves, destructions and readers that are stopped, killed or overtaken at every operation of the driver."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pymongo
import pytest
from mongodb_stores import database_of, own_database
from pluggableflow_mongodb import MongoDBConnection, books, commits
from pymongo import monitoring
from turns import Wait, one_version, whole_or_nothing

from pluggableflow import api, codec, states
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import NotFound, PluggableFlowError
from pluggableflow.middleware import FlowDetail, LogBook, Record, new_uuid
from pluggableflow.testing.connection_tests import atom_record, claimed, new_book, saved_flow
from pluggableflow.testing.processes import Child
from pluggableflow.testing.records import FACTORY, scan


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
        # So that a little work reaches every part of the protocols.
        commits.JOURNAL_ENTRIES, books.EMBEDDED_BYTES = 2, 0
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


def run(connection: Connection, flow: FlowDetail, start: int = 0, steps: int = STEPS) -> None:
    """A holder's life: each commit adds an atom, changes the one before and two older ones, and the flow."""
    claim = claimed(connection, flow)
    uuids = [f"{flow.uuid}.{number}" for number in range(steps)]
    task, _retry = flow
    for step in range(start, steps):
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


def saved_book(store: Connection) -> LogBook:
    book = new_book("one", "two")
    for flow in book:
        flow.factory = FACTORY
    store.save_logbook(book)
    return book


@pytest.mark.parametrize("what", ["a new book", "a flow for a book that exists"])
def test_a_save_killed_at_any_step_is_whole_or_absent(store: Connection, store_url: str, what: str) -> None:
    def prepare() -> LogBook:
        book = new_book("one", "two") if what == "a new book" else saved_book(store)
        (three,) = new_book("three")
        book.add(three)
        book.meta = {"new": 1}
        return book

    def seen(book: LogBook) -> tuple[Any, list[str], list[str]]:
        listed = sorted(flow.name for flow in store.find_flows(limit=1000) if book.find(flow.uuid))
        try:
            found = store.get_logbook(book.uuid)
        except NotFound:
            return None, [], listed
        assert all(len(flow) == 2 for flow in found)
        return found.meta, sorted(flow.name for flow in found), listed

    kinds = set()
    for book, child in every_step(store_url, prepare, lambda connection, book: connection.save_logbook(book)):
        child.end()
        meta, names, listed = seen(book)
        assert names == listed
        kinds.add(len(names))
        saved = {"new": 1}, ["one", "three", "two"]
        assert (meta, names) in ((None, []) if what == "a new book" else ({}, ["one", "two"]), saved)
        store.save_logbook(book)
        assert seen(book) == (*saved, ["one", "three", "two"])
        assert [len(store.get_atoms_for_flow(flow.uuid)) for flow in book] == [2, 2, 2]
    assert kinds == {0 if what == "a new book" else 2, 3}


def test_a_save_thawed_after_another_of_the_same_book_adds_nothing_twice(store: Connection, store_url: str) -> None:
    def act(connection: Connection, book: LogBook) -> None:
        connection.save_logbook(book)

    for book, child in every_step(store_url, lambda: new_book("one", "two"), act):
        store.save_logbook(book)
        saved = store.get_logbook(book.uuid)
        child.thaw()
        assert isinstance(child.outcome(), int)
        assert list(store.get_logbook(book.uuid)) == list(saved)
        assert len([flow for flow in store.find_flows(limit=1000) if book.find(flow.uuid)]) == 2


def test_a_destruction_killed_at_any_step_is_whole_or_absent(store: Connection, store_url: str) -> None:
    def act(connection: Connection, book: LogBook) -> None:
        connection.destroy_logbook(book.uuid, force=True)

    outcomes = set()
    for book, child in every_step(store_url, lambda: saved_book(store), act):
        child.end()
        listed = [flow.uuid for flow in store.find_flows(limit=1000) if book.find(flow.uuid)]
        try:
            assert store.get_logbook(book.uuid) == book
            assert len(listed) == 2
            for flow in book:
                store.release(claimed(store, flow).lease)
            assert len(scan(store)) == 2
            store.destroy_logbook(book.uuid, force=True)
            outcomes.add("absent")
        except NotFound:
            assert listed == []
            outcomes.add("whole")
        for flow in book:
            for call in (store.get_flow_details, store.get_atoms_for_flow, functools.partial(claimed, store)):
                with pytest.raises(NotFound):
                    call(flow.uuid)
        assert scan(store) == []
        store.save_logbook(book)
        assert store.get_logbook(book.uuid) == book
        store.destroy_logbook(book.uuid)
    assert outcomes == {"whole", "absent"}


def test_a_destruction_and_a_claim_exclude_each_other_at_any_step(store: Connection, store_url: str) -> None:
    def act(connection: Connection, book: LogBook) -> None:
        connection.destroy_logbook(book.uuid)

    outcomes = set()
    for book, child in every_step(store_url, lambda: saved_book(store), act):
        first, _second = book
        try:
            claim = claimed(store, first)
        except NotFound:
            child.thaw()
            assert isinstance(child.outcome(), int)
            outcomes.add("destroyed")
            continue
        child.thaw()
        outcomes.add(child.outcome())
        assert store.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING})) == 1
        assert [len(flow) for flow in store.get_logbook(book.uuid)] == [2, 2]
    assert outcomes == {"destroyed", "FlowOwned"}


def test_a_reader_sees_whole_commits_while_a_holder_commits(
    store: Connection, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "JOURNAL_ENTRIES", 1)
    flow = saved_flow(store)
    holder = threading.Thread(target=run, args=(store, flow, 0, 150))
    holder.start()
    seen = set()
    while holder.is_alive():
        detail = store.get_flow_details(flow.uuid)
        assert_state_after(detail.revision, detail)
        seen.add(detail.revision)
        for atom in list(detail)[-2:]:
            assert store.get_atom_details(atom.uuid).name == atom.name
    holder.join()
    assert len(seen) > 5


class Overtakes(monitoring.CommandListener):
    """Calls something once, after the n-th answer that the driver gets for a reader."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self.at, self.act, self.count = at, act, 0

    def started(self, _event: object) -> None:
        pass

    def succeeded(self, _event: object) -> None:
        self.count += 1
        if self.count == self.at:
            self.act()

    failed = started


@pytest.mark.parametrize("atoms", ["the same atoms", "more atoms"])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_reader_that_a_commit_overtakes_sees_it_whole_or_not_at_all(
    store: Connection, store_url: str, monkeypatch: pytest.MonkeyPatch, step: int, atoms: str
) -> None:
    monkeypatch.setattr(commits, "JOURNAL_ENTRIES", 1)
    flow = saved_flow(store)
    claim = claimed(store, flow)

    def commit() -> None:
        for revision in range(3):  # the last but one is applied
            added = [atom_record(flow, f"atom {revision}")] if atoms == "more atoms" else []
            changed: dict[str, Record] = {atom.uuid: {"attempt": revision + 1} for atom in flow}
            store.commit(claim.lease, revision, Changes({"priority": revision + 1}, added, changed))

    with pymongo.MongoClient[Any](store_url, event_listeners=[Overtakes(step, commit)]) as client:
        reader = MongoDBConnection.from_client(client)
        assert reader is not None
        detail = reader.get_flow_details(flow.uuid)
    assert detail.revision == detail.priority
    assert [atom.attempt for atom in detail] == [detail.priority] * 2 + [0] * (len(detail) - 2)
    assert len(detail) == 2 + (detail.priority if atoms == "more atoms" else 0)


def test_a_save_thawed_after_it_was_given_up_saves_everything(store: Connection, store_url: str) -> None:
    def prepare() -> tuple[LogBook, LogBook]:
        book, other = saved_book(store), LogBook("other")
        for flow in new_book("three", "four"):
            book.add(flow)
            if flow.name == "three":
                other.add(flow.copy())
        return book, other

    def act(connection: Connection, books_: tuple[LogBook, LogBook]) -> None:
        connection.save_logbook(books_[0])

    outcomes = set()
    for (book, other), child in every_step(store_url, prepare, act):
        store.save_logbook(other)  # has to decide against the other save, if that is undecided, to get the flow
        child.thaw()
        assert isinstance(child.outcome(), int)
        names = [sorted(flow.name for flow in store.get_logbook(each.uuid)) for each in (book, other)]
        assert names in ([["four", "one", "three", "two"], []], [["four", "one", "two"], ["three"]])
        assert [len(store.get_atoms_for_flow(flow.uuid)) for flow in book] == [2] * 4
        outcomes.add(len(names[0]))
    assert outcomes == {3, 4}


def test_a_save_thawed_after_its_book_was_destroyed_saves_all_or_comes_before(
    store: Connection, store_url: str
) -> None:
    def prepare() -> LogBook:
        book = saved_book(store)
        (three,) = new_book("three")
        book.add(three)
        return book

    outcomes = set()
    for book, child in every_step(store_url, prepare, lambda connection, book: connection.save_logbook(book)):
        store.destroy_logbook(book.uuid)
        child.thaw()
        assert isinstance(child.outcome(), int)
        listed = sorted(flow.name for flow in store.find_flows(limit=1000) if book.find(flow.uuid))
        try:
            names = sorted(flow.name for flow in store.get_logbook(book.uuid))
        except NotFound:
            names = []
        assert names == listed
        assert names in ([], ["one", "three", "two"])
        outcomes.add(len(names))
    assert outcomes == {0, 3}


@pytest.mark.parametrize("what", ["save", "destruction"])
def test_what_an_operation_that_died_has_left_is_swept_by_an_upgrade_a_minute_later(
    store: Connection, store_url: str, what: str
) -> None:
    def act(connection: Connection, book: LogBook) -> None:
        if what == "save":
            connection.save_logbook(book)
        else:
            connection.destroy_logbook(book.uuid, force=True)

    def prepare() -> LogBook:
        return new_book("one", "two") if what == "save" else saved_book(store)

    with pymongo.MongoClient[Any](store_url) as client:
        database = client.get_default_database()
        collections = [database[f"pluggableflow_{kind}"] for kind in ("logbooks", "flows", "atoms")]
        for book, child in every_step(store_url, prepare, act):
            child.end()
            collections[0].update_many({}, {"$set": {"touched": datetime.datetime(2020, 1, 1)}})
            store.upgrade()
            try:
                found = store.get_logbook(book.uuid)
                assert [len(flow) for flow in found] == [2, 2]
                (stored,) = collections[0].find({"_id": book.uuid})
                assert (stored["open"], stored["saves"], stored.get("unsettled")) == ([], [], None)
                assert collections[1].count_documents({"op": {"$exists": True}}) == 0
                store.destroy_logbook(book.uuid)
            except NotFound:
                pass
            assert [collection.count_documents({}) for collection in collections] == [0, 0, 0]


class Stop(monitoring.CommandListener):
    """Waits before every command."""

    def __init__(self, wait: Wait) -> None:
        self.wait = wait

    def started(self, _event: object) -> None:
        self.wait()

    def succeeded(self, _event: object) -> None:
        pass

    failed = succeeded


@contextlib.contextmanager
def taking_turns(url: str, wait: Wait) -> Iterator[MongoDBConnection]:
    with pymongo.MongoClient[Any](url, event_listeners=[Stop(wait)]) as client:
        connection = MongoDBConnection.from_client(client)
        assert connection is not None
        yield connection


@pytest.mark.parametrize("embedded", [0, books.EMBEDDED_BYTES])
@pytest.mark.parametrize("play", [one_version, whole_or_nothing])
def test_whoever_looks_sees_a_whole_book_or_nothing_while_many_work_on_it(
    store: Connection, store_url: str, play: Callable[..., None], embedded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "WRITTEN_AT_ONCE", 1)
    monkeypatch.setattr(books, "EMBEDDED_BYTES", embedded)
    with pymongo.MongoClient[Any](store_url) as client:
        database = client.get_default_database()
        collections = [database[f"pluggableflow_{kind}"] for kind in ("logbooks", "flows", "atoms")]
        for seed in range(40):
            play(store, functools.partial(taking_turns, store_url), seed)
            collections[0].update_many({}, {"$set": {"touched": datetime.datetime(2020, 1, 1)}})
            store.upgrade()
            assert [collection.count_documents({}) for collection in collections] == [0, 0, 0], seed
