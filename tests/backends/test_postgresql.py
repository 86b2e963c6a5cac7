# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import servers
import sqlalchemy
from pluggableflow_sqlalchemy import SQLAlchemyConnection
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed, Identifier

from pluggableflow import api, states
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import ForeignStore, NotFound, OptionError, PluginError, StorageFailure
from pluggableflow.middleware import FlowDetail, LogBook, Record
from pluggableflow.testing import ConnectionTests
from pluggableflow.testing.records import FACTORY, LONG, at_once, atom_record, claimed, new_book, saved_flow
from tests.conftest import start_or_skip

_prefixes = (f"t{number}_" for number in itertools.count())


Statement = SQL | Composed


def table(prefix: str, kind: str) -> Identifier:
    return Identifier(f"{prefix}{kind}s")


def drop_tables(url: str, prefix: str) -> None:
    for name in ("atoms", "flows", "logbooks", "version"):
        run(url, SQL("DROP TABLE IF EXISTS {}").format(Identifier(f"{prefix}{name}")))


def run(url: str, statement: Statement, *values: Any) -> list[dict[str, Any]]:
    """The rows of a statement, over a connection of its own."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as client:
        done = client.execute(statement, values)
        return done.fetchall() if done.description else []


@pytest.fixture(scope="module")
def own_server() -> Iterator[servers.PostgreSQLServer]:
    """A server that a test may kill. Not below pytest's folder, which every new run of pytest closes to other users."""
    with tempfile.TemporaryDirectory() as folder:
        server = start_or_skip(lambda: servers.PostgreSQLServer(Path(folder) / "server"))
        yield server
        server.stop()


@pytest.fixture
def address(postgresql_url: str) -> str:
    return postgresql_url


@pytest.fixture
def prefix(address: str) -> Iterator[str]:
    """Names the tables of one test."""
    made = next(_prefixes)
    yield made
    drop_tables(address, made)


class PostgreSQLTests(ConnectionTests):
    without = {
        "interrupt": "a commit is one statement: there is no middle at which the driver could fail",
        "server": "all tests share one server",
    }

    @pytest.fixture
    def raw(self, address: str, prefix: str) -> Any:
        def read(kind: str, uuid: str) -> dict[str, Any] | None:
            rows = run(address, SQL("SELECT * FROM {} WHERE uuid = %s").format(table(prefix, kind)), uuid)
            return rows[0] if rows else None

        return read

    @pytest.fixture
    def damage(self, address: str, prefix: str) -> Any:
        def spoil(kind: str, uuid: str) -> None:
            column = Identifier("results" if kind == "atom" else "meta")
            query = SQL("UPDATE {} SET {} = '{{\"cut' WHERE uuid = %s").format(table(prefix, kind), column)
            run(address, query, uuid)

        return spoil


class TestPsycopg3(PostgreSQLTests):
    without = {"interrupt": "a commit is one statement: there is no middle at which the driver could fail"}

    @pytest.fixture
    def server(self, own_server: servers.PostgreSQLServer) -> servers.PostgreSQLServer:
        return own_server

    @pytest.fixture
    def address(self, server: servers.PostgreSQLServer) -> str:
        return server.url

    @pytest.fixture
    def url(self, address: str, prefix: str) -> str:
        return f"{address}?prefix={prefix}"


class TestPsycopg2(PostgreSQLTests):
    @pytest.fixture
    def url(self, address: str, prefix: str) -> str:
        return f"{address.replace('://', '+psycopg2://')}?prefix={prefix}"


class TestEmbeddersEngine(PostgreSQLTests):
    @pytest.fixture
    def prefix(self, address: str) -> Iterator[str]:
        yield "pluggableflow_"
        drop_tables(address, "pluggableflow_")

    @pytest.fixture
    def url(self, address: str, prefix: str) -> str:
        return address

    @pytest.fixture
    def engine(self, address: str) -> Iterator[sqlalchemy.Engine]:
        url = address.replace("://", "+psycopg://")
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


def test_a_plain_url_is_opened_with_psycopg_3(postgresql_url: str, prefix: str) -> None:
    with contextlib.closing(SQLAlchemyConnection.from_url(f"{postgresql_url}?prefix={prefix}")) as connection:
        assert connection._database.engine.dialect.driver == "psycopg"


@pytest.mark.parametrize("query", ["colour=red", "synchronous=full", "prefix=a-b"])
def test_a_wrong_parameter_is_refused_by_name(query: str) -> None:
    with pytest.raises(OptionError, match=query.partition("=")[0]):
        SQLAlchemyConnection.from_url(f"postgresql://127.0.0.1/flows?{query}")


@pytest.mark.parametrize("driver", ["nothing", "mysql+mysqldb"])
def test_another_driver_is_refused_by_name(driver: str) -> None:
    scheme = driver if "+" in driver else f"postgresql+{driver}"
    with pytest.raises((OptionError, PluginError), match=scheme.partition("+")[2].lower()):
        SQLAlchemyConnection.from_url(f"{scheme}://127.0.0.1/flows")


def test_parameters_of_the_driver_are_passed_on(postgresql_url: str) -> None:
    url = f"{postgresql_url}?application_name=mine&connect_timeout=60"
    with contextlib.closing(SQLAlchemyConnection.from_url(url)) as connection, connection._reading() as database:
        assert database.exec_driver_sql("SHOW application_name").scalar() == "mine"


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_server_that_does_not_run_is_named_without_the_password(
    driver: str, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pluggableflow_sqlalchemy.database.ATTEMPTS", 2)
    url = f"postgresql+{driver}://somebody:secret@127.0.0.1:{servers.free_port()}/flows"
    with pytest.raises(StorageFailure, match="somebody.*is it running") as failed:
        api.connect(url)
    assert "secret" not in str(failed.value) and failed.value.__cause__ is not None
    with pytest.raises(StorageFailure, match="create the database"):
        api.connect(postgresql_url.rpartition("/")[0].replace("://", f"+{driver}://") + "/missing")


def test_a_store_that_was_never_upgraded_says_so(postgresql_url: str, prefix: str) -> None:
    with contextlib.closing(SQLAlchemyConnection.from_url(f"{postgresql_url}?prefix={prefix}")) as connection:
        for call in (connection.validate, connection.find_flows):
            with pytest.raises(StorageFailure, match="pluggableflow upgrade"):
                call()


def test_foreign_databases_are_refused(postgresql_url: str, prefix: str) -> None:
    api.connect(f"{postgresql_url}?prefix={prefix}").close()
    run(postgresql_url, SQL("UPDATE {} SET version_num = '9999'").format(Identifier(f"{prefix}version")))
    with pytest.raises(ForeignStore, match="newer"):
        api.connect(f"{postgresql_url}?prefix={prefix}")
    names = ("logbooks", "flowdetails", "atomdetails")
    try:
        for name in names:
            run(postgresql_url, SQL("CREATE TABLE {} (uuid TEXT)").format(Identifier(name)))
        with pytest.raises(ForeignStore, match="TaskFlow"):
            api.connect(f"{postgresql_url}?prefix=another_")
    finally:
        for name in names:
            run(postgresql_url, SQL("DROP TABLE IF EXISTS {}").format(Identifier(name)))


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_commit_of_many_atoms_writes_each_or_none(driver: str, postgresql_url: str, prefix: str) -> None:
    url = f"{postgresql_url.replace('://', f'+{driver}://')}?prefix={prefix}"
    with contextlib.closing(api.connect(url)) as connection:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        added = [atom_record(flow, f"atom{number}") for number in range(100)]
        assert connection.commit(claim.lease, 0, Changes(added=added)) == 1
        changed: dict[str, Record] = {
            str(atom["uuid"]): {"state": states.SUCCESS, "results": None if number % 2 else f"[{number}]"}
            | ({"attempt": number} if number % 3 else {})
            for number, atom in enumerate(added)
        }
        missing = {**changed, "missing": {"state": states.SUCCESS}}
        before = connection.get_flow_details(flow.uuid)
        with pytest.raises(NotFound, match="missing"):
            connection.commit(claim.lease, 1, Changes({"state": states.RUNNING}, [], missing))
        assert connection.get_flow_details(flow.uuid) == before
        for _ in range(2):
            assert connection.commit(claim.lease, 1, Changes({"state": states.RUNNING}, [], changed)) == 2
        stored = [atom.to_record() for atom in connection.get_atoms_for_flow(flow.uuid)][2:]
        for atom in added:
            atom |= {**changed[str(atom["uuid"])], "revision": 2}
        assert stored == added


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2"])
def test_a_server_that_is_started_again_is_used_again(own_server: servers.PostgreSQLServer, scheme: str) -> None:
    with contextlib.closing(api.connect(own_server.url.replace("postgresql", scheme, 1))) as connection:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        assert at_once(4, lambda _: connection.commit(claim.lease, 0, Changes(flow={"priority": 1}))) == [1] * 4
        own_server.kill()
        own_server.start()
        assert connection.commit(claim.lease, 1, Changes(flow={"priority": 2})) == 2
        assert connection.renew(claim.lease, LONG).request is None
        own_server.kill()
        with pytest.raises(StorageFailure, match="is it running"):
            connection.renew(claim.lease, LONG)
        own_server.start()
        assert connection.get_flow_details(flow.uuid).priority == 2


def test_the_server_ends_a_transaction_whose_client_has_paused(postgresql_url: str) -> None:
    with contextlib.closing(SQLAlchemyConnection.from_url(postgresql_url)) as connection:
        for transaction in (connection._reading, connection._writing, connection._each_by_itself):
            with transaction() as database:
                assert database.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == "30s"


def test_an_engine_whose_pool_is_in_use_holds_nothing_up(postgresql_url: str, prefix: str) -> None:
    url = postgresql_url.replace("://", "+psycopg://")
    engine = sqlalchemy.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0)
    with engine.connect(), contextlib.closing(SQLAlchemyConnection(engine, prefix=prefix)) as connection:
        connection.upgrade()
        claim = claimed(connection, saved_flow(connection))
        connection.commit(claim.lease, 0, Changes(flow={"priority": 1}))
        connection.renew(claim.lease, LONG)
    engine.dispose()


def test_a_claim_by_scan_reads_an_index_in_order(postgresql_url: str, prefix: str) -> None:
    with contextlib.closing(api.connect(f"{postgresql_url}?prefix={prefix}")) as connection:
        assert isinstance(connection, SQLAlchemyConnection)
        book = LogBook("book")
        for number in range(3000):
            flow = FlowDetail(f"flow{number}")
            flow.factory, flow.state = FACTORY, states.SUCCESS if number % 2 else states.PENDING
            book.add(flow)
        connection.save_logbook(book)
        run(postgresql_url, SQL("ANALYZE {}").format(table(prefix, "flow")))
        statement = connection._statements.next_runnable.compile(
            connection._database.engine, compile_kwargs={"literal_binds": True}
        )
        plan = str(run(postgresql_url, SQL(f"EXPLAIN {statement}")))
    assert f"{prefix}flows_by_claim " in plan and f"{prefix}flows_by_claim_from " in plan and "Seq Scan" not in plan


def test_of_threads_that_save_one_new_book_all_succeed(postgresql_url: str, prefix: str) -> None:
    with contextlib.closing(api.connect(f"{postgresql_url}?prefix={prefix}")) as connection:
        for _ in range(5):
            book = new_book("one", "two")
            at_once(6, lambda _, book=book: connection.save_logbook(book.copy()))  # type: ignore[misc]
            stored = connection.get_logbook(book.uuid)
            assert [(flow.uuid, len(flow)) for flow in stored] == [
                (flow.uuid, 2) for flow in sorted(book, key=lambda flow: flow.uuid)
            ]


def test_commits_alone_are_planned_without_their_values(postgresql_url: str, prefix: str) -> None:
    # A search of few states among many flows needs another index than one of all states.
    with contextlib.closing(SQLAlchemyConnection.from_url(f"{postgresql_url}?prefix={prefix}")) as connection:
        connection.upgrade()
        database: Any = connection._database
        with connection._reading() as searching:
            assert searching.exec_driver_sql("SHOW plan_cache_mode").scalar() == "auto"
        with database._hot.taken() as driver:
            assert driver.execute("SHOW plan_cache_mode").fetchone()[0] == "force_generic_plan"
        connection.clear_all()
