# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from pluggableflow import api
from pluggableflow.connection import Connection
from pluggableflow.testing import ConnectionTests

_prefixes = (f"t{number}_" for number in itertools.count())


def table(prefix: str, kind: str) -> Identifier:
    return Identifier(f"{prefix}{kind}s")


def drop_tables(client: psycopg.Connection[Any], prefix: str) -> None:
    for kind in ("atom", "flow", "logbook", "version"):
        name = Identifier(f"{prefix}version") if kind == "version" else table(prefix, kind)
        client.execute(SQL("DROP TABLE IF EXISTS {}").format(name))


@pytest.fixture
def client(postgresql_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgresql_url, autocommit=True, row_factory=dict_row) as made:
        yield made


@pytest.fixture
def prefix(client: psycopg.Connection[Any]) -> Iterator[str]:
    """Names the tables of one test."""
    made = next(_prefixes)
    yield made
    drop_tables(client, made)


class PostgreSQLTests(ConnectionTests):
    without = {
        "interrupt": "a commit is one statement: there is no middle at which the driver could fail",
        "server": "all tests share one server",
    }

    @pytest.fixture
    def raw(self, client: psycopg.Connection[Any], prefix: str) -> Any:
        def read(kind: str, uuid: str) -> dict[str, Any] | None:
            query = SQL("SELECT * FROM {} WHERE uuid = %s").format(table(prefix, kind))
            return client.execute(query, (uuid,)).fetchone()

        return read

    @pytest.fixture
    def damage(self, client: psycopg.Connection[Any], prefix: str) -> Any:
        def spoil(kind: str, uuid: str) -> None:
            column = Identifier("results" if kind == "atom" else "meta")
            query = SQL("UPDATE {} SET {} = '{{\"cut' WHERE uuid = %s").format(table(prefix, kind), column)
            client.execute(query, (uuid,))

        return spoil


class TestPsycopg3(PostgreSQLTests):
    @pytest.fixture
    def url(self, postgresql_url: str, prefix: str) -> str:
        return f"{postgresql_url}?prefix={prefix}"


class TestPsycopg2(PostgreSQLTests):
    @pytest.fixture
    def url(self, postgresql_url: str, prefix: str) -> str:
        return f"{postgresql_url.replace('://', '+psycopg2://')}?prefix={prefix}"


class TestEmbeddersEngine(PostgreSQLTests):
    @pytest.fixture
    def prefix(self, client: psycopg.Connection[Any]) -> Iterator[str]:
        yield "pluggableflow_"
        drop_tables(client, "pluggableflow_")

    @pytest.fixture
    def url(self, postgresql_url: str, prefix: str) -> str:
        return postgresql_url

    @pytest.fixture
    def engine(self, postgresql_url: str) -> Iterator[sqlalchemy.Engine]:
        url = postgresql_url.replace("://", "+psycopg://")
        made = sqlalchemy.create_engine(url, pool_size=1, max_overflow=0, isolation_level="SERIALIZABLE")
        yield made
        made.dispose()

    @pytest.fixture
    def connection(self, engine: sqlalchemy.Engine, prefix: str) -> Iterator[Connection]:
        made = api.connect(engine)
        yield made
        made.close()
        with engine.connect() as alive:
            assert alive.exec_driver_sql("SHOW transaction_isolation").scalar() == "serializable"
