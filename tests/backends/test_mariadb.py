# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest

from pluggableflow.testing import ConnectionTests

_prefixes = (f"t{number}_" for number in itertools.count())


@pytest.fixture
def client(mariadb_url: str) -> Iterator[Any]:
    parts = urlsplit(mariadb_url)
    made = pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        database=parts.path[1:],
        autocommit=True,
        charset="utf8mb4",
        cursorclass=pymysql.cursors.DictCursor,
    )
    with made:
        yield made


@pytest.fixture
def prefix(client: Any) -> Iterator[str]:
    """Names the tables of one test."""
    made = next(_prefixes)
    yield made
    with client.cursor() as cursor:
        for kind in ("atoms", "flows", "logbooks", "version"):
            cursor.execute(f"DROP TABLE IF EXISTS {made}{kind}")


class MariaDBTests(ConnectionTests):
    without = {
        "interrupt": "a commit is one statement: there is no middle at which the driver could fail",
        "server": "all tests share one server",
    }

    @pytest.fixture
    def url(self, mariadb_url: str, prefix: str) -> str:
        return f"{mariadb_url}?prefix={prefix}"

    @pytest.fixture
    def raw(self, client: Any, prefix: str) -> Any:
        def read(kind: str, uuid: str) -> dict[str, Any] | None:
            with client.cursor() as cursor:
                cursor.execute(f"SELECT * FROM {prefix}{kind}s WHERE uuid = %s", (uuid,))
                row: dict[str, Any] | None = cursor.fetchone()
            return row

        return read

    @pytest.fixture
    def damage(self, client: Any, prefix: str) -> Any:
        def spoil(kind: str, uuid: str) -> None:
            column = "results" if kind == "atom" else "meta"
            with client.cursor() as cursor:
                cursor.execute(f"UPDATE {prefix}{kind}s SET {column} = '{{\"cut' WHERE uuid = %s", (uuid,))

        return spoil


class TestMariaDB(MariaDBTests):
    pass


class TestSchemeOfMariaDB(MariaDBTests):
    @pytest.fixture
    def url(self, mariadb_url: str, prefix: str) -> str:
        return f"{mariadb_url.replace('mysql://', 'mariadb+pymysql://')}?prefix={prefix}"


class TestStatementsOfMySQL(MariaDBTests):
    """What is sent to MySQL, on MariaDB: there is no server of MySQL to test with."""

    @pytest.fixture(autouse=True)
    def statements(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pluggableflow_sqlalchemy.mysql.MySQL._has_blocks", lambda self: False)
