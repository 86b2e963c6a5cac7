# SPDX-License-Identifier: Apache-2.0
"""The index of Redis, and operations over several slots that are cut short or race."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from pluggableflow_redis import RedisConnection, books, index_scripts
from pluggableflow_redis.client import Script
from redis.crc import key_slot
from turns import Order, Turns, Wait, destroy, one_version, save_copy, whole_or_nothing

from pluggableflow import states
from pluggableflow.connection import Changes, Lease
from pluggableflow.exceptions import DamagedRecord, FlowOwned, LeaseLost, NotFound
from pluggableflow.middleware import FlowDetail, LogBook, TaskDetail, new_uuid
from pluggableflow.testing.processes import Child, count_steps, spread
from pluggableflow.testing.records import (
    FACTORY,
    LONG,
    SHORT,
    at_once,
    atom_record,
    claimed,
    new_book,
    saved_flow,
    scan,
)

# -- what a process leaves that is killed in the middle of an operation over several slots --------------------------


def killed_at(url: str, points: int, work: Callable[[RedisConnection], object]) -> Iterator[int]:
    """Do ``work`` in children that are killed at steps spread over it; yields after each."""

    def run(at: int) -> int:
        connection = RedisConnection.from_url(url)
        connection.find_flows()
        return count_steps(lambda: work(connection), at, signal.SIGKILL)

    child = Child(functools.partial(run, 0))
    steps = child.outcome()
    for step in spread(steps, points):
        child = Child(functools.partial(run, step))
        child.outcome()
        yield step


@pytest.fixture
def url(redis_url: str) -> str:
    return f"{redis_url}?prefix=t{new_uuid()[:8]}_"


@pytest.fixture
def cluster_store_url(redis_cluster_url: str) -> str:
    return f"{redis_cluster_url}?prefix=t{new_uuid()[:8]}_"


@pytest.fixture(params=["one server", "cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[str, RedisConnection]]:
    found = request.getfixturevalue("url" if request.param == "one server" else "cluster_store_url")
    made = RedisConnection.from_url(found)
    made.upgrade()
    yield found, made
    made.close()


@pytest.mark.usefixtures("impatient")
def test_a_save_that_is_cut_short_leaves_all_or_nothing(store: tuple[str, RedisConnection]) -> None:
    url, connection = store
    book = new_book("one", "two")
    for flow in book:
        flow.factory = FACTORY
    seen = set()

    def save(mine: RedisConnection) -> None:
        mine.save_logbook(book)

    for _step in killed_at(url, 40, save):
        try:
            names = [flow.name for flow in connection.get_logbook(book.uuid)]
        except NotFound:
            names = []
        assert sorted(names) in ([], ["one", "two"])
        assert sorted(flow.name for flow in connection.find_flows()) == sorted(names)
        for flow in book:
            if not names:
                with pytest.raises(NotFound):
                    connection.get_flow_details(flow.uuid)
        assert sorted(scan(connection)) == sorted(flow.uuid for flow in book if names)
        seen.add(len(names))
        connection.save_logbook(book)
        assert len(connection.find_flows()) == 2
        connection.destroy_logbook(book.uuid, force=True)
    assert seen == {0, 2}


@pytest.mark.usefixtures("impatient")
def test_a_destruction_that_is_cut_short_deletes_all_or_nothing(store: tuple[str, RedisConnection]) -> None:
    url, connection = store
    book = new_book("one", "two")
    for flow in book:
        flow.factory = FACTORY
    seen = set()

    def destroy(mine: RedisConnection) -> None:
        mine.save_logbook(book)
        mine.destroy_logbook(book.uuid)

    for step in killed_at(url, 60, destroy):
        flows = connection.find_flows()
        assert len(flows) in (0, 2), step
        if flows:
            assert sorted(scan(connection)) == sorted(flow.uuid for flow in book)
            with pytest.raises(FlowOwned):
                connection.destroy_logbook(book.uuid)
            connection.destroy_logbook(book.uuid, force=True)
        else:
            with pytest.raises(NotFound):
                connection.get_logbook(book.uuid)
            assert scan(connection) == []
        seen.add(len(flows))
    assert seen == {0, 2}


def test_leftovers_are_swept_so_that_no_key_remains(url: str) -> None:
    connection = RedisConnection.from_url(url)
    connection.upgrade()
    prefix = url.rpartition("=")[2]

    def work(mine: RedisConnection) -> None:
        book = new_book("one")
        (flow,) = book
        flow.factory = FACTORY
        mine.save_logbook(book)
        claim = mine.claim(token=new_uuid(), owner="o", lease_seconds=SHORT, flow_uuid=flow.uuid)
        assert claim is not None
        mine.commit(claim.lease, 0, Changes(added=[atom_record(flow, "added")]))
        mine.release(claim.lease)
        mine.destroy_logbook(book.uuid)

    with redis.Redis.from_url(url.partition("?")[0]) as plain:
        for _step in killed_at(url, 60, work):
            pass
        for operation, text in plain.hgetall(f"{prefix}{{index}}:open").items():
            plain.hset(f"{prefix}{{index}}:open", operation, b"0 " + text.partition(b" ")[2])
        connection.upgrade()
        assert [len(each) for each in connection.get_logbooks()] == [1] * len(connection.find_flows())
        connection.clear_all()
        for claim in plain.zrange(f"{prefix}{{index}}:recent", 0, -1):
            plain.zadd(f"{prefix}{{index}}:recent", {claim: 0})
        connection.upgrade()
        scan(connection)
        left = {key.decode() for key in plain.scan_iter(f"{prefix}*", count=1000) if plain.ttl(key) < 0}
        assert left <= {f"{prefix}version", f"{prefix}{{index}}:claims"}
    connection.close()


def test_a_flow_that_becomes_runnable_is_in_the_index_before_it_is(store: tuple[str, RedisConnection]) -> None:
    url, connection = store
    flow = saved_flow(connection, factory=FACTORY, state=states.SUSPENDED)
    runnable = flow.copy()
    runnable.state = states.RUNNING

    def update(mine: RedisConnection) -> None:
        mine.update_flow_details(runnable)

    for _step in killed_at(url, 30, update):
        state = connection.get_flow_details(flow.uuid).state
        claim = connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG)
        assert (claim is not None) == (state == states.RUNNING)
        if claim is not None:
            connection.release(claim.lease)
        connection.update_flow_details(flow)


def test_a_release_that_is_cut_short_hides_no_runnable_flow(store: tuple[str, RedisConnection]) -> None:
    url, connection = store
    flow = saved_flow(connection, factory=FACTORY)

    def hold(mine: RedisConnection) -> None:
        lease = claimed(mine, flow).lease
        assert mine.claim(token=new_uuid(), owner="o", lease_seconds=LONG) is None  # puts its entry off
        mine.release(lease)

    for _step in killed_at(url, 40, hold):
        stored = connection.get_flow_details(flow.uuid)
        if stored.token is not None:
            assert connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG) is None
            connection.release(claimed(connection, flow, evict_epoch=stored.epoch).lease)
        claim = connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG)
        assert claim is not None
        connection.release(claim.lease)


def test_an_atom_of_a_holder_that_died_is_found_by_its_uuid(store: tuple[str, RedisConnection]) -> None:
    url, connection = store
    flow = saved_flow(connection)
    for evicted in range(3):
        lease = claimed(connection, flow, evict_epoch=evicted).lease
        record = atom_record(flow, f"late {evicted}")
        connection.commit(lease, evicted, Changes(added=[record]))
        assert connection.get_atom_details(str(record["uuid"])).name == f"late {evicted}"
    connection.release(lease)
    for atom in connection.get_atoms_for_flow(flow.uuid):
        assert connection.get_atom_details(atom.uuid) == atom


def test_each_of_many_atoms_is_found_by_its_uuid_once_its_flow_is_released(store: tuple[str, RedisConnection]) -> None:
    url, connection = store
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    added = [atom_record(flow, f"atom {number}") for number in range(2500)]  # more than one command takes
    connection.commit(claim.lease, claim.revision, Changes(added=added))
    connection.release(claim.lease)
    reader = RedisConnection.from_url(url)
    prefix = url.rpartition("prefix=")[2]
    found = {record["uuid"]: reader._client.command("GET", f"{prefix}atom:{record['uuid']}") for record in added}
    reader.close()
    assert {value[16:] for value in found.values()} == {flow.uuid.encode()}


# -- the index ------------------------------------------------------------------------------------------------------


def entries(url: str) -> tuple[int, int]:
    """How many entries are ready, and how many wait."""
    with redis.Redis.from_url(url.partition("?")[0]) as plain:
        prefix = url.rpartition("=")[2]
        return plain.zcard(f"{prefix}{{index}}:ready"), plain.zcard(f"{prefix}{{index}}:waiting")  # type: ignore[return-value]


@pytest.fixture
def connection(url: str) -> Iterator[RedisConnection]:
    made = RedisConnection.from_url(url)
    made.upgrade()
    yield made
    made.close()


def test_only_flows_that_a_scan_may_take_are_ready(url: str, connection: RedisConnection) -> None:
    saved_flow(connection)
    saved_flow(connection, factory=FACTORY, state=states.SUCCESS)
    assert entries(url) == (0, 0)
    saved_flow(connection, factory=FACTORY, wake_at=2**52)
    assert entries(url) == (0, 1)
    saved_flow(connection, factory=FACTORY)
    assert entries(url) == (1, 1)
    claim = connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG)
    assert claim is not None and entries(url) == (0, 2)
    connection.commit(claim.lease, 0, Changes(flow={"state": states.SUCCESS}))
    connection.release(claim.lease)
    assert entries(url) == (0, 1)


def test_what_scans_pass_over_they_look_at_once(url: str, connection: RedisConnection) -> None:
    leased = [saved_flow(connection, factory=FACTORY) for _ in range(5)]
    for flow in leased:
        claimed(connection, flow)
    finished = saved_flow(connection, factory=FACTORY)
    connection.update_flow_details(_in_state(finished, states.FAILURE))
    assert entries(url) == (6, 0)
    assert connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG) is None
    assert entries(url) == (0, 5)
    connection.update_flow_details(_in_state(finished, states.RUNNING))
    assert scan(connection) == [finished.uuid]


def _in_state(flow: FlowDetail, state: str) -> FlowDetail:
    changed = flow.copy()
    changed.state = state
    return changed


def test_a_new_priority_changes_the_order_of_scans(connection: RedisConnection) -> None:
    first, second = (saved_flow(connection, factory=FACTORY) for _ in range(2))
    raised = second.copy()
    raised.priority = 7
    connection.update_flow_details(raised)
    assert scan(connection) == [second.uuid, first.uuid]


def test_a_sleeping_flow_that_is_woken_or_released_early_is_found(connection: RedisConnection) -> None:
    flow = saved_flow(connection, factory=FACTORY, wake_at=2**52)
    assert scan(connection) == []
    lease = claimed(connection, flow).lease
    connection.commit(lease, 0, Changes(flow={"wake_at": None}))
    assert connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG) is None
    connection.release(lease)
    assert scan(connection) == [flow.uuid]


def test_a_damaged_flow_does_not_stop_a_scan(url: str, connection: RedisConnection) -> None:
    damaged = saved_flow(connection, factory=FACTORY, priority=9)
    sound = saved_flow(connection, factory=FACTORY)
    with redis.Redis.from_url(url.partition("?")[0]) as plain:
        plain.hset(f"{url.rpartition('=')[2]}flow:{{{damaged.uuid}}}", "epoch", "what?")
    assert scan(connection) == [sound.uuid]
    found = {flow.uuid: flow.damage for flow in connection.find_flows()}
    assert found[sound.uuid] is None and "what?" in str(found[damaged.uuid])
    with pytest.raises(DamagedRecord, match=damaged.uuid):
        connection.get_flow_details(damaged.uuid)


def test_all_keys_of_a_flow_are_in_one_slot(connection: RedisConnection) -> None:
    keys = connection._keys
    for uuid in ("plain", "a}b", "}", "{", "%7D", "ä"):
        for group in (keys.flow(uuid), keys.book(uuid)):
            assert len({key_slot(key) for key in group}) == 1
    assert keys.flow("}") != keys.flow("%7D")


def test_ids_may_contain_what_redis_gives_a_meaning(store: tuple[str, RedisConnection]) -> None:
    _url, connection = store
    book = LogBook("book", "}{")
    for uuid in ("a}b", "}", "{c}", "d:atoms", "e\nf"):
        flow = FlowDetail("flow", uuid)
        flow.factory = FACTORY
        flow.add(TaskDetail("task", f"{uuid}}}"))
        book.add(flow)
    connection.save_logbook(book)
    assert connection.get_logbook("}{") == book
    assert sorted(scan(connection)) == sorted(flow.uuid for flow in book)
    connection.destroy_logbook("}{", force=True)
    assert connection.find_flows() == []


# -- races ----------------------------------------------------------------------------------------------------------


def test_either_a_claim_or_the_destruction_of_its_book_succeeds(store: tuple[str, RedisConnection]) -> None:
    _url, connection = store
    won = set()
    for _ in range(40):
        book = new_book("one", "two", "three")
        connection.save_logbook(book)
        flows = list(book)

        def act(number: int, book: LogBook = book, flows: list[FlowDetail] = flows) -> bool:
            try:
                if number == 0:
                    connection.destroy_logbook(book.uuid)
                else:
                    lease = claimed(connection, flows[-number]).lease
                    connection.commit(lease, 0, Changes(flow={"state": states.RUNNING}))
            except (FlowOwned, NotFound):
                return False
            return True

        destroyed, *taken = at_once(4, act)
        assert destroyed != any(taken)
        assert len(connection.find_flows()) == (0 if destroyed else 3)
        if not destroyed:
            connection.destroy_logbook(book.uuid, force=True)
        won.add(destroyed)
    assert won


def test_a_forced_destruction_ends_every_lease(store: tuple[str, RedisConnection]) -> None:
    _url, connection = store
    for _ in range(20):
        book = new_book("one", "two")
        connection.save_logbook(book)
        leases = [claimed(connection, flow).lease for flow in book]

        def act(number: int, book: LogBook = book, leases: list[Lease] = leases) -> None:
            if number == 2:
                connection.destroy_logbook(book.uuid, force=True)
                return
            revision = 0
            with pytest.raises(LeaseLost):
                while True:
                    revision = connection.commit(leases[number], revision, Changes(flow={"state": states.RUNNING}))

        at_once(3, act)
        assert connection.find_flows() == []


def test_of_many_that_save_one_book_all_agree_and_none_begins_again(
    store: tuple[str, RedisConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(books, "_ATTEMPTS", 1)
    _url, connection = store
    for _ in range(20):
        book = new_book("one", "two")
        at_once(4, lambda _number, book=book: connection.save_logbook(book.copy()))
        stored = connection.get_logbook(book.uuid)
        assert sorted(flow.name for flow in stored) == ["one", "two"]
        assert all(len(flow) == 2 for flow in stored)
        assert [each.uuid for each in connection.get_logbooks()] == [book.uuid]
        assert len(connection.find_flows()) == 2
        connection.destroy_logbook(book.uuid)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save takes another one for dead almost at once."""
    monkeypatch.setattr(books, "PATIENCE_SECONDS", 1e-4)
    monkeypatch.setattr(books, "FIRST_WAIT_SECONDS", 0.0)


@contextlib.contextmanager
def taking_turns(url: str, wait: Wait) -> Iterator[RedisConnection]:
    connection = RedisConnection.from_url(url)
    client = connection._client

    def after_wait(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        wait()
        return call(*arguments, **options)

    for name in ("run", "command", "_pipeline"):
        setattr(client, name, functools.partial(after_wait, getattr(client, name)))
    yield connection
    connection.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("atoms_per_call", [1, 5000])
def test_what_was_once_seen_of_a_flow_stays_while_others_save_it_too(
    store: tuple[str, RedisConnection], atoms_per_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "_ATOMS_PER_CALL", atoms_per_call)
    url, connection = store
    for seed in range(60):
        one_version(connection, functools.partial(taking_turns, url), seed)
    assert connection.get_logbooks() == []


def test_a_destruction_that_lags_behind_another_leaves_its_marks_alone(
    url: str, connection: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else whoever takes the mark of the first away opens the flow to a claim, while the other one destroys the book.
    book = new_book("one", "two")
    connection.save_logbook(book)
    own, prefix = connection._keys.book(book.uuid)[0], url.rpartition("=")[2]
    turns = Turns(functools.partial(taking_turns, url), [functools.partial(destroy, book=book) for _ in range(2)])
    monkeypatch.setattr(books, "PATIENCE_SECONDS", 0.0)
    # Both tell the book and the index; the second marks both flows, then the first goes on.
    for step, _ in enumerate(turns.play(Order(0, 0, 1, 1, 1, 1, 0, 0))):
        if step == 8:
            operation = connection._client.command("HGET", own, "destroying")
            marks = {connection._client.command("HGET", f"{prefix}flow:{{{flow.uuid}}}", "mark") for flow in book}
            assert marks == {b"destroy:" + operation}
    with pytest.raises(NotFound):
        connection.get_logbook(book.uuid)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("first_seed", [0, 500])
def test_savers_destroyers_and_claimers_leave_a_whole_book_or_nothing(
    store: tuple[str, RedisConnection], first_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "_ATOMS_PER_CALL", 1)
    url, connection = store
    prefix, driver = url.rpartition("=")[2], connection._client.driver
    passing = {"version", "{index}:claims", "{index}:recent", "{index}:waiting", "{index}:ready"}
    for seed in range(first_seed, first_seed + 40):
        whole_or_nothing(connection, functools.partial(taking_turns, url), seed)
        keys = {key.decode() for key in driver.scan_iter(f"{prefix}*", count=1000) if driver.ttl(key) < 0}
        assert keys <= {f"{prefix}{name}" for name in passing}, seed
    connection.upgrade()
    assert scan(connection) == []


@pytest.mark.usefixtures("impatient")
def test_a_destruction_that_lags_behind_leaves_the_atoms_findable_that_were_saved_since(
    url: str, connection: RedisConnection
) -> None:
    saved = 0
    for steps in range(1, 20):
        book = new_book("one", "two")
        connection.save_logbook(book.copy())
        works = [functools.partial(destroy, book=book), functools.partial(save_copy, book=book)]
        order = Order(*[0] * steps, *[1] * 100)
        for _ in Turns(functools.partial(taking_turns, url), works).play(order):
            pass
        for flow in connection.find_flows():
            atoms = connection.get_atoms_for_flow(flow.uuid)
            assert [connection.get_atom_details(atom.uuid).name for atom in atoms] == [atom.name for atom in atoms]
            saved += 1
        connection.clear_all()
    assert saved


def test_a_save_whose_answer_was_lost_is_not_done_again(url: str, connection: RedisConnection) -> None:
    book, run = new_book("one"), connection._client.run

    def lossy(script: Script, *arguments: Any) -> Any:
        answer = run(script, *arguments)
        if script is index_scripts.SAVE:
            # Before it is sent again, somebody else destroys the book.
            other.destroy_logbook(book.uuid)
            answer = run(script, *arguments)
        return answer

    other = RedisConnection.from_url(url)
    connection._client.run = lossy  # type: ignore[method-assign]
    connection.save_logbook(book)
    (flow,) = book
    assert book.created_at is not None and flow.created_at == book.created_at
    assert connection.get_logbooks() == [] and connection.find_flows() == []
    other.close()
