# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest
import servers
import sqlalchemy
from pluggableflow_sqlalchemy import SQLAlchemyConnection

from pluggableflow import api, states
from pluggableflow.connection import Changes
from pluggableflow.exceptions import ForeignStore, OptionError, StorageFailure, ValueTooLarge
from pluggableflow.middleware import FlowDetail, LogBook
from pluggableflow.testing import ConnectionTests
from pluggableflow.testing.records import FACTORY, LONG, at_once, atom_record, claimed, new_book, saved_flow, scan
from tests.conftest import start_or_skip

_prefixes = (f"t{number}_" for number in itertools.count())


def run(url: str, statement: str, values: Any = None) -> list[dict[str, Any]]:
    """The rows of a statement, over a connection of its own."""
    parts = urlsplit(url)
    with (
        pymysql.connect(
            host=parts.hostname,
            port=parts.port or 3306,
            user=parts.username,
            password=parts.password or "",
            database=parts.path[1:],
            autocommit=True,
            charset="utf8mb4",
            cursorclass=pymysql.cursors.DictCursor,
        ) as client,
        client.cursor() as cursor,
    ):
        cursor.execute(statement, values)
        return list(cursor.fetchall())


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.MariaDBServer]:
    """A server that a test may kill."""
    server = start_or_skip(lambda: servers.MariaDBServer(tmp_path_factory.mktemp("mariadb")))
    yield server
    server.stop()


@pytest.fixture
def address(mariadb_url: str) -> str:
    return mariadb_url


@pytest.fixture
def prefix(address: str) -> Iterator[str]:
    """Names the tables of one test."""
    made = next(_prefixes)
    yield made
    for kind in ("atoms", "flows", "logbooks", "version"):
        run(address, f"DROP TABLE IF EXISTS {made}{kind}")


class MariaDBTests(ConnectionTests):
    without = {
        "interrupt": "a commit is one statement: there is no middle at which the driver could fail",
        "server": "all tests share one server",
    }

    @pytest.fixture
    def url(self, address: str, prefix: str) -> str:
        return f"{address}?prefix={prefix}"

    @pytest.fixture
    def raw(self, address: str, prefix: str) -> Any:
        def read(kind: str, uuid: str) -> dict[str, Any] | None:
            rows = run(address, f"SELECT * FROM {prefix}{kind}s WHERE uuid = %s", (uuid,))
            return rows[0] if rows else None

        return read

    @pytest.fixture
    def damage(self, address: str, prefix: str) -> Any:
        def spoil(kind: str, uuid: str) -> None:
            column = "results" if kind == "atom" else "meta"
            run(address, f"UPDATE {prefix}{kind}s SET {column} = '{{\"cut' WHERE uuid = %s", (uuid,))

        return spoil


class TestMariaDB(MariaDBTests):
    without = {"interrupt": "a commit is one statement: there is no middle at which the driver could fail"}

    @pytest.fixture
    def server(self, own_server: servers.MariaDBServer) -> servers.MariaDBServer:
        return own_server

    @pytest.fixture
    def address(self, server: servers.MariaDBServer) -> str:
        return server.url


class TestSchemeOfMariaDB(MariaDBTests):
    @pytest.fixture
    def url(self, address: str, prefix: str) -> str:
        return f"{address.replace('mysql://', 'mariadb+pymysql://')}?prefix={prefix}"


class TestStatementsOfMySQL(MariaDBTests):
    """What is sent to MySQL, on MariaDB: there is no server of MySQL to test with."""

    @pytest.fixture(autouse=True)
    def statements(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pluggableflow_sqlalchemy.mysql.MySQL._has_blocks", lambda self: False)


def test_a_plain_url_is_opened_with_pymysql(mariadb_url: str) -> None:
    for url in (mariadb_url, mariadb_url.replace("mysql", "mariadb", 1)):
        with contextlib.closing(SQLAlchemyConnection.from_url(url)) as connection:
            assert connection._database.engine.dialect.driver == "pymysql"


@pytest.mark.parametrize("query", ["colour=red", "charset=latin1", "prefix=a-b", "connect_timeout=soon"])
def test_a_wrong_parameter_is_refused_by_name(query: str) -> None:
    with pytest.raises(OptionError, match="prefix|soon"):
        SQLAlchemyConnection.from_url(f"mariadb://127.0.0.1/flows?{query}")


def test_a_server_that_does_not_run_is_named_without_the_password(
    mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pluggableflow_sqlalchemy.database.ATTEMPTS", 2)
    with pytest.raises(StorageFailure, match="somebody.*is it running") as failed:
        api.connect(f"mysql://somebody:secret@127.0.0.1:{servers.free_port()}/flows")
    assert "secret" not in str(failed.value) and failed.value.__cause__ is not None
    with pytest.raises(StorageFailure, match="create the database"):
        api.connect(mariadb_url.rpartition("/")[0] + "/missing")


def test_a_store_that_was_never_upgraded_says_so(mariadb_url: str, prefix: str) -> None:
    with contextlib.closing(SQLAlchemyConnection.from_url(f"{mariadb_url}?prefix={prefix}")) as connection:
        for call in (connection.validate, connection.find_flows):
            with pytest.raises(StorageFailure, match="pluggableflow upgrade"):
                call()


def test_a_database_of_a_newer_release_is_refused(mariadb_url: str, prefix: str) -> None:
    api.connect(f"{mariadb_url}?prefix={prefix}").close()
    run(mariadb_url, f"UPDATE {prefix}version SET version_num = '9999'")
    with pytest.raises(ForeignStore, match="newer"):
        api.connect(f"{mariadb_url}?prefix={prefix}")


def test_an_upgrade_that_was_cut_short_is_finished(mariadb_url: str, prefix: str) -> None:
    api.connect(f"{mariadb_url}?prefix={prefix}").close()
    # As if it had died before the first version was noted.
    run(mariadb_url, f"DELETE FROM {prefix}version")
    run(mariadb_url, f"DROP INDEX {prefix}flows_by_claim ON {prefix}flows")
    run(mariadb_url, f"DROP TABLE {prefix}atoms")
    with contextlib.closing(api.connect(f"{mariadb_url}?prefix={prefix}")) as connection:
        connection.validate()
        flow = saved_flow(connection, factory=FACTORY)
        assert scan(connection) == [flow.uuid]


def test_a_commit_is_at_most_what_the_server_takes(mariadb_url: str, prefix: str) -> None:
    packet = run(mariadb_url, "SELECT @@max_allowed_packet AS bytes")[0]["bytes"]
    with contextlib.closing(api.connect(f"{mariadb_url}?prefix={prefix}")) as connection:
        largest = connection.largest_value_bytes
        assert 2**20 <= largest < packet and connection.largest_commit_bytes < packet
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        text = '"' + "\\\\" * ((largest - 100) // 2) + '"'  # each character is escaped on its way
        assert connection.commit(claim.lease, 0, Changes(changed={task.uuid: {"results": text}})) == 1
        assert connection.get_atom_details(task.uuid).results == "\\" * ((largest - 100) // 2)
        with pytest.raises(ValueTooLarge):
            connection.commit(claim.lease, 1, Changes(changed={task.uuid: {"results": "x" * (largest + 1)}}))


def test_an_engine_needs_no_flags_for_mariadb(mariadb_url: str, prefix: str) -> None:
    engine = sqlalchemy.create_engine(
        mariadb_url.replace("mysql", "mysql+pymysql"), pool_size=1, max_overflow=0, pool_timeout=0
    )
    with engine.connect(), contextlib.closing(SQLAlchemyConnection(engine, prefix=prefix)) as connection:
        connection.upgrade()
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        assert connection.commit(claim.lease, 0, Changes(added=[atom_record(flow, "\U0001f600")])) == 1
        connection.renew(claim.lease, LONG)
        assert [atom.name for atom in connection.get_atoms_for_flow(flow.uuid)][2:] == ["\U0001f600"]
    engine.dispose()


def test_a_claim_by_scan_reads_an_index_in_order(mariadb_url: str, prefix: str) -> None:
    with contextlib.closing(api.connect(f"{mariadb_url}?prefix={prefix}")) as connection:
        assert isinstance(connection, SQLAlchemyConnection)
        book = LogBook("book")
        for number in range(3000):
            flow = FlowDetail(f"flow{number}")
            flow.factory, flow.state = FACTORY, states.SUCCESS if number % 2 else states.PENDING
            book.add(flow)
        connection.save_logbook(book)
        query = connection._statements.next_runnable.compile(
            connection._database.engine, compile_kwargs={"literal_binds": True}
        )
    run(mariadb_url, f"ANALYZE TABLE {prefix}flows")
    plan = run(mariadb_url, f"EXPLAIN {query}")
    assert {f"{prefix}flows_by_claim", f"{prefix}flows_by_claim_from"} <= {row["key"] for row in plan}
    assert not [row for row in plan if row["table"] == f"{prefix}flows" and row["type"] == "ALL"]


def test_of_threads_that_save_one_new_book_all_succeed(mariadb_url: str, prefix: str) -> None:
    with contextlib.closing(api.connect(f"{mariadb_url}?prefix={prefix}")) as connection:
        for _ in range(5):
            book = new_book("one", "two")
            at_once(6, lambda _, book=book: connection.save_logbook(book.copy()))  # type: ignore[misc]
            stored = connection.get_logbook(book.uuid)
            assert [(flow.uuid, len(flow)) for flow in stored] == [
                (flow.uuid, 2) for flow in sorted(book, key=lambda flow: flow.uuid)
            ]
