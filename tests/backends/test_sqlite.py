# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pluggableflow_sqlalchemy import SQLAlchemyConnection

from pluggableflow import api, states
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import ForeignStore, NotFound, OptionError, StorageFailure
from pluggableflow.testing import ConnectionTests
from pluggableflow.testing.records import FACTORY, LONG, atom_record, claimed, new_book, saved_flow


def read_raw(database: sqlite3.Connection, kind: str, uuid: str) -> dict[str, Any] | None:
    cursor = database.execute(f"SELECT * FROM pluggableflow_{kind}s WHERE uuid = ?", (uuid,))
    row = cursor.fetchone()
    return None if row is None else dict(zip([column[0] for column in cursor.description], row, strict=True))


def damage_raw(database: sqlite3.Connection, kind: str, uuid: str) -> None:
    column = "results" if kind == "atom" else "meta"
    with database:
        database.execute(f"UPDATE pluggableflow_{kind}s SET {column} = '{{\"cut' WHERE uuid = ?", (uuid,))


@contextlib.contextmanager
def interrupting(connection: SQLAlchemyConnection, step: int) -> Iterator[None]:
    """Lets SQLite give up the statement of a commit that takes its ``step``-th step."""
    left = step

    def count() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    database: Any = connection._database
    if database._in_memory:
        with database.connection() as opened:
            driver = opened.connection.driver_connection
    else:
        driver = database._hot_connection()
    driver.set_progress_handler(count, 1)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 1)


class FileTests(ConnectionTests):
    without = {
        "frozen holder": "SQLite's one write lock is the process's; only a program that runs can give it up",
        "server": "there is none",
    }

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/flows.db"

    @pytest.fixture
    def database(self, connection: Connection, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        made = sqlite3.connect(tmp_path / "flows.db")
        yield made
        made.close()

    @pytest.fixture
    def raw(self, database: sqlite3.Connection) -> Any:
        return functools.partial(read_raw, database)

    @pytest.fixture
    def damage(self, database: sqlite3.Connection) -> Any:
        return functools.partial(damage_raw, database)

    @pytest.fixture
    def interrupt(self, connection: SQLAlchemyConnection) -> Any:
        return functools.partial(interrupting, connection)


class TestFile(FileTests):
    pass


class TestInMemory(ConnectionTests):
    without = {
        "processes": "it is in the memory of one",
        "server": "there is none",
    }

    @pytest.fixture
    def connection(self) -> Iterator[SQLAlchemyConnection]:
        made = SQLAlchemyConnection.from_url("sqlite://")
        made.upgrade()
        yield made
        made.close()

    @pytest.fixture
    def raw(self, connection: SQLAlchemyConnection) -> Any:
        def read(kind: str, uuid: str) -> dict[str, Any] | None:
            with connection._database.connection() as database:
                return read_raw(driver_connection(database), kind, uuid)

        return read

    @pytest.fixture
    def damage(self, connection: SQLAlchemyConnection) -> Any:
        def spoil(kind: str, uuid: str) -> None:
            with connection._database.connection() as database:
                damage_raw(driver_connection(database), kind, uuid)

        return spoil

    @pytest.fixture
    def interrupt(self, connection: SQLAlchemyConnection) -> Any:
        return functools.partial(interrupting, connection)


class TestEmbeddersEngine(FileTests):
    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[sqlalchemy.Engine]:
        made = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/flows.db")
        yield made
        made.dispose()

    @pytest.fixture
    def connection(self, engine: sqlalchemy.Engine) -> Iterator[Connection]:
        made = api.connect(engine)
        yield made
        made.close()
        with engine.connect() as alive:
            assert alive.exec_driver_sql("SELECT 1").scalar() == 1


def driver_connection(connection: sqlalchemy.Connection) -> Any:
    return connection.connection.driver_connection


def test_every_database_connection_has_foreign_keys_and_full_synchronisation(tmp_path: Path) -> None:
    connection = SQLAlchemyConnection.from_url(f"sqlite:///{tmp_path}/flows.db")
    connection.upgrade()
    for transaction in (connection._reading, connection._writing):
        with transaction() as database:
            assert database.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
            assert database.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            assert database.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    connection.close()


def test_normal_synchronisation_is_used_where_it_is_asked_for(tmp_path: Path) -> None:
    connection = SQLAlchemyConnection.from_url(f"sqlite:///{tmp_path}/flows.db?synchronous=normal")
    connection.upgrade()
    with connection._reading() as database:
        assert database.exec_driver_sql("PRAGMA synchronous").scalar() == 1
    connection.close()


@pytest.mark.parametrize("query", ["colour=red", "synchronous=off", "prefix=a-b"])
def test_a_wrong_parameter_is_refused_by_name(tmp_path: Path, query: str) -> None:
    with pytest.raises(OptionError, match=query.partition("=")[0]):
        api.connect(f"sqlite:///{tmp_path}/flows.db?{query}")


def test_a_prefix_names_every_table(tmp_path: Path) -> None:
    first = api.connect(f"sqlite:///{tmp_path}/flows.db?prefix=one_")
    second = api.connect(f"sqlite:///{tmp_path}/flows.db?prefix=two_")
    flow = saved_flow(first)
    assert second.find_flows() == [] and [each.uuid for each in first.find_flows()] == [flow.uuid]
    with pytest.raises(NotFound):
        second.get_flow_details(flow.uuid)
    with sqlite3.connect(tmp_path / "flows.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    database.close()
    assert all(name.startswith(("one_", "two_", "sqlite_")) for name in tables)
    first.close()
    second.close()


def test_a_database_of_taskflow_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "flows.db")
    for name in ("logbooks", "flowdetails", "atomdetails"):
        database.execute(f"CREATE TABLE {name} (uuid TEXT)")
    database.commit()
    with pytest.raises(ForeignStore, match="TaskFlow"):
        api.connect(f"sqlite:///{tmp_path}/flows.db")
    assert len(database.execute("SELECT name FROM sqlite_master").fetchall()) == 3
    database.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flows.db"
    path.write_text("this is a letter to a friend, and by no means a database\n" * 100)
    with pytest.raises(ForeignStore, match="not a SQLite database"):
        api.connect(f"sqlite:///{path}")
    assert path.read_text().startswith("this is a letter")


def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    connection = api.connect(f"sqlite:///{tmp_path}/flows.db")
    connection.close()
    with sqlite3.connect(tmp_path / "flows.db") as database:
        database.execute("UPDATE pluggableflow_version SET version_num = '9999'")
    database.close()
    with pytest.raises(ForeignStore, match="newer"):
        api.connect(f"sqlite:///{tmp_path}/flows.db")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match="nowhere"):
        api.connect(f"sqlite:///{tmp_path}/nowhere/flows.db")


def test_a_store_that_was_never_upgraded_says_so(tmp_path: Path) -> None:
    connection = SQLAlchemyConnection.from_url(f"sqlite:///{tmp_path}/flows.db")
    with pytest.raises(StorageFailure, match="pluggableflow upgrade"):
        connection.validate()
    with pytest.raises(StorageFailure, match="pluggableflow upgrade"):
        connection.find_flows()
    connection.close()


def test_a_process_killed_while_it_commits_leaves_whole_commits(tmp_path: Path) -> None:
    connection = api.connect(f"sqlite:///{tmp_path}/flows.db")
    flow = saved_flow(connection)
    for round_ in range(5):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            claim = claimed(connection, flow, evict_epoch=round_)
            revision = claim.revision
            while True:
                pair = [atom_record(flow, f"{round_} {revision} {half}", state=states.SUCCESS) for half in "ab"]
                revision = connection.commit(claim.lease, revision, Changes(added=pair))
                os.write(write, b".")
        os.close(write)
        acknowledged = len(os.read(read, 20))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(read, 4096):
            acknowledged += len(more)
        os.close(read)
        stored = connection.get_flow_details(flow.uuid)
        mine = [atom.name for atom in stored if atom.name.startswith(f"{round_} ")]
        assert len(mine) % 2 == 0
        assert acknowledged <= len(mine) // 2 <= acknowledged + 1
        assert stored.revision * 2 == len(stored) - 2
    connection.close()


def test_every_commit_makes_the_log_grow(tmp_path: Path) -> None:
    connection = api.connect(f"sqlite:///{tmp_path}/flows.db")
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    log, sizes = tmp_path / "flows.db-wal", []
    for revision in range(20):
        connection.commit(claim.lease, revision, Changes(added=[atom_record(flow, f"atom {revision}")]))
        sizes.append(log.stat().st_size)
    assert sizes == sorted(set(sizes))
    connection.close()


#: The tables as the first version made them.
VERSION_1 = """
CREATE TABLE pluggableflow_version (version_num VARCHAR(32) NOT NULL,
  CONSTRAINT pluggableflow_version_pkc PRIMARY KEY (version_num));
CREATE TABLE pluggableflow_logbooks (uuid VARCHAR(255) NOT NULL, name VARCHAR(255) NOT NULL, meta TEXT,
  created_at BIGINT, updated_at BIGINT, PRIMARY KEY (uuid));
CREATE TABLE pluggableflow_flows (uuid VARCHAR(255) NOT NULL, parent_uuid VARCHAR(255) NOT NULL,
  name VARCHAR(255) NOT NULL, state VARCHAR(255) NOT NULL, meta TEXT, factory TEXT, revision BIGINT,
  owner VARCHAR(255), token VARCHAR(255), epoch BIGINT, lease_expires_at BIGINT, request VARCHAR(255),
  request_by TEXT, request_sequence BIGINT, request_handled BIGINT, wake_at BIGINT, deadline_at BIGINT,
  priority BIGINT, codec_version BIGINT, created_at BIGINT, updated_at BIGINT, PRIMARY KEY (uuid),
  FOREIGN KEY(parent_uuid) REFERENCES pluggableflow_logbooks (uuid) ON DELETE CASCADE);
CREATE TABLE pluggableflow_atoms (id INTEGER NOT NULL, uuid VARCHAR(255) NOT NULL, parent_uuid VARCHAR(255) NOT NULL,
  name VARCHAR(255) NOT NULL, kind VARCHAR(255) NOT NULL, version VARCHAR(255) NOT NULL, state VARCHAR(255) NOT NULL,
  intention VARCHAR(255) NOT NULL, attempt BIGINT, signature VARCHAR(255), results TEXT, failure TEXT,
  revert_results TEXT, revert_failure TEXT, meta TEXT, not_before BIGINT, deadline_at BIGINT, started_at BIGINT,
  finished_at BIGINT, revision BIGINT, PRIMARY KEY (id),
  CONSTRAINT pluggableflow_atoms_by_flow UNIQUE (parent_uuid, name), UNIQUE (uuid),
  FOREIGN KEY(parent_uuid) REFERENCES pluggableflow_flows (uuid) ON DELETE CASCADE);
CREATE INDEX pluggableflow_logbooks_by_age ON pluggableflow_logbooks (created_at, uuid);
CREATE INDEX pluggableflow_flows_by_age ON pluggableflow_flows (created_at, uuid);
CREATE INDEX pluggableflow_flows_by_book ON pluggableflow_flows (parent_uuid, created_at, uuid);
CREATE INDEX pluggableflow_flows_by_state ON pluggableflow_flows (state, priority, created_at, uuid);
CREATE INDEX pluggableflow_flows_by_name ON pluggableflow_flows (name, created_at, uuid);
CREATE INDEX pluggableflow_flows_by_owner ON pluggableflow_flows (owner, created_at, uuid);
CREATE INDEX pluggableflow_flows_by_token ON pluggableflow_flows (token);
INSERT INTO pluggableflow_version VALUES ('0001');
"""


def test_a_file_of_the_first_version_is_upgraded_with_its_data(tmp_path: Path) -> None:
    book = new_book("flow")
    (flow,) = book
    flow.factory, flow.state, flow.meta = FACTORY, states.RUNNING, {"kept": (1, 2)}
    task, _retry = flow
    task.put(states.SUCCESS, {"value": 1})
    with contextlib.closing(sqlite3.connect(tmp_path / "flows.db")) as database, database:
        database.executescript(VERSION_1)
        records = [("logbooks", book.to_record()), ("flows", flow.to_record())]
        records += [("atoms", atom.to_record()) for atom in flow]
        for table, record in records:
            values = {**record, "created_at": 5, "updated_at": 6} if table != "atoms" else record
            marks = ", ".join("?" * len(values))
            statement = f"INSERT INTO pluggableflow_{table} ({', '.join(values)}) VALUES ({marks})"
            database.execute(statement, tuple(values.values()))
    for each in (book, flow):
        each.created_at, each.updated_at = 5, 6
    connection = SQLAlchemyConnection.from_url(f"sqlite:///{tmp_path}/flows.db")
    with pytest.raises(StorageFailure, match="0001.*pluggableflow upgrade"):
        connection.validate()
    connection.upgrade()
    connection.validate()
    assert connection.get_logbook(book.uuid) == book
    claim = connection.claim(token="token", owner="tests", lease_seconds=LONG)
    assert claim is not None and claim.lease.flow_uuid == flow.uuid
    assert connection.commit(claim.lease, 0, Changes(changed={task.uuid: {"state": states.RUNNING}})) == 1
    connection.close()


def test_the_tables_are_those_that_the_migrations_make(tmp_path: Path) -> None:
    connection = api.connect(f"sqlite:///{tmp_path}/flows.db")
    assert isinstance(connection, SQLAlchemyConnection)
    with connection._reading() as database:
        for table in connection._database.tables.metadata.sorted_tables:
            made = sqlalchemy.inspect(database).get_columns(table.name)
            assert [(column["name"], str(column["type"])) for column in made] == [
                (column.name, column.type.compile(database.dialect)) for column in table.columns
            ]
    connection.close()


@pytest.mark.parametrize(
    ("statement", "index"),
    [("flows_of_book", "flows_by_book"), ("atoms_of_flow", "atoms_by_flow|_1")],
)
def test_a_query_reads_no_more_than_it_gives(tmp_path: Path, statement: str, index: str) -> None:
    plan = plan_of(tmp_path, statement)
    assert re.search(f"SEARCH .*{index}", plan) and ("TEMP B-TREE" in plan) == (statement == "atoms_of_flow")


def test_a_claim_by_scan_reads_free_flows_in_order_and_others_by_when_they_are_free(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "next_runnable")
    assert re.search("SEARCH .*flows_by_claim ", plan) and re.search("SEARCH .*flows_by_claim_from ", plan)
    assert "SCAN pluggableflow_flows" not in plan


def plan_of(folder: Path, statement: str) -> str:
    with contextlib.closing(api.connect(f"sqlite:///{folder}/flows.db")) as connection:
        assert isinstance(connection, SQLAlchemyConnection)
        with connection._reading() as database:
            compiled = getattr(connection._statements, statement).compile(
                database, compile_kwargs={"render_postcompile": True}
            )
            values = [1 if "clock" in name or "param" in name else "x" for name in compiled.positiontup or ()]
            driver = driver_connection(database)
            return str(driver.execute(f"EXPLAIN QUERY PLAN {compiled}", values).fetchall())


@pytest.mark.parametrize("content", ["taskflow", "newer"])
def test_a_foreign_file_is_not_switched_to_the_write_ahead_log(tmp_path: Path, content: str) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "flows.db")) as database, database:
        if content == "newer":
            database.executescript(VERSION_1.replace("0001", "9999"))
        else:
            for name in ("logbooks", "flowdetails", "atomdetails"):
                database.execute(f"CREATE TABLE {name} (uuid TEXT)")
    before = (tmp_path / "flows.db").read_bytes()
    with pytest.raises(ForeignStore):
        api.connect(f"sqlite:///{tmp_path}/flows.db")
    assert (tmp_path / "flows.db").read_bytes() == before


def test_an_engine_gets_its_settings_back(tmp_path: Path) -> None:
    in_memory: Any = {"poolclass": sqlalchemy.StaticPool, "connect_args": {"check_same_thread": False}}
    for url, options in (
        (f"sqlite:///{tmp_path}/flows.db", {"pool_size": 1, "max_overflow": 0}),
        ("sqlite://", in_memory),
    ):
        engine = sqlalchemy.create_engine(url, **options)

        def settings(engine: sqlalchemy.Engine = engine) -> list[Any]:
            with engine.connect() as database:
                names = ("synchronous", "foreign_keys", "busy_timeout")
                values = [database.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
                return [driver_connection(database).isolation_level, *values]

        with engine.connect() as database:
            database.exec_driver_sql("PRAGMA busy_timeout=1234")
            database.exec_driver_sql("PRAGMA synchronous=OFF")
        before = settings()
        connection = api.connect(engine)
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING}))
        assert settings() == before
        connection.close()
        assert settings() == before
        engine.dispose()


def test_an_engine_whose_pool_is_in_use_holds_nothing_up(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/flows.db", pool_size=1, max_overflow=0, pool_timeout=0)
    with engine.connect():
        connection = api.connect(engine)
        claim = claimed(connection, saved_flow(connection))
        connection.renew(claim.lease, LONG)
        connection.close()
    engine.dispose()


def test_an_option_of_another_product_is_refused(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/flows.db")
    with pytest.raises(OptionError, match="sslmode.*synchronous"):
        SQLAlchemyConnection(engine, sslmode="require")
    engine.dispose()
