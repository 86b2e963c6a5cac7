# SPDX-License-Identifier: Apache-2.0
"""SQLite: a file with a write-ahead log, or a database in memory."""

from __future__ import annotations

import contextlib
import functools
import operator
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, BigInteger, bindparam, create_engine, event
from sqlalchemy import Connection as SQLConnection
from sqlalchemy import Engine as SQLEngine
from sqlalchemy.pool import StaticPool

from pluggableflow.connection import Changes, Lease
from pluggableflow.exceptions import ForeignStore, OptionError, StorageFailure
from pluggableflow.middleware import ATOM_COLUMNS
from pluggableflow_sqlalchemy.database import INHERITED, LOCK_SECONDS, Database, close_quietly, detached, own_engine
from pluggableflow_sqlalchemy.tables import Tables


def wall_clock() -> int:
    """SQLite has no server: its clock is the host's."""
    return time.time_ns() // 1000


class SQLite(Database):
    """One writer at a time; a write transaction takes the write lock first, so nothing read in it can be outdated.

    ``commit`` keeps one database connection to itself, so that ``renew`` never waits for it in this process.
    """

    parameters = {"prefix": None, "attempts": None, "synchronous": ("full", "normal")}
    clock = bindparam("clock", callable_=wall_clock, type_=BigInteger())
    begin_read = ("BEGIN",)
    begin_write = ("BEGIN IMMEDIATE",)

    def __init__(self, engine: SQLEngine, tables: Tables, synchronous: str = "full") -> None:
        database = engine.url.database
        self._in_memory = not database or database == ":memory:" or "mode=memory" in database
        self._synchronous = synchronous
        self.durable = not self._in_memory
        if not self._in_memory:
            engine = own_engine(engine)
            event.listen(engine, "connect", self._set_up)
        elif not isinstance(engine.pool, StaticPool):
            raise OptionError(
                "an Engine on a database in memory needs poolclass=StaticPool, or each thread has its own"
            )
        super().__init__(engine, tables)
        self._start()

    def _start(self) -> None:
        self._hot: Any = None
        self._hot_lock = threading.RLock()

    @classmethod
    def make_engine(cls, url: URL) -> SQLEngine:
        if url.database and url.database != ":memory:":
            return create_engine(url, connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False})
        return create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})

    def _set_up(self, driver: Any, _record: Any = None) -> None:
        driver.isolation_level = None  # transactions are begun by name
        for statement in (
            f"PRAGMA synchronous={self._synchronous}",
            "PRAGMA foreign_keys=ON",
            f"PRAGMA busy_timeout={LOCK_SECONDS * 1000}",
        ):
            driver.execute(statement)

    @contextlib.contextmanager
    def connection(self) -> Iterator[SQLConnection]:
        if not self._in_memory:
            with self.engine.connect() as connection:
                yield connection
            return
        # One connection serves all threads of a database in memory, so they take turns, and its Engine gets it back
        # as it was.
        with self._hot_lock, self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            before = driver.isolation_level
            pragmas = [driver.execute(f"PRAGMA {name}").fetchone()[0] for name in _PRAGMAS]
            self._set_up(driver)
            try:
                yield connection
            finally:
                for name, value in zip(_PRAGMAS, pragmas, strict=True):
                    driver.execute(f"PRAGMA {name}={value}")
                driver.isolation_level = before

    def exists(self) -> bool:
        database = self.engine.url.database or ""
        return self._in_memory or database.startswith("file:") or Path(database).exists()

    def prepare(self) -> None:
        # Only now that the file is known to be ours: the mode is kept in the file.
        if not self._in_memory:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")

    # -- hot path -------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, revision: int, changes: Changes) -> bool:
        # Everything is made ready before the transaction begins, so that it holds the lock for the statements only.
        flow = {**changes.flow, "revision": revision + 1, "updated_at": wall_clock()}
        fence = _fence(self.tables.flows.name, tuple(flow)), (*flow.values(), lease.flow_uuid, lease.token, revision)
        # Rows of one shape go through one statement.
        batches: dict[str, list[tuple[Any, ...]]] = {}
        if changes.added:
            mine = (lease.flow_uuid, 1)
            batches[_insert(self.tables.atoms.name)] = [(*_given(record), *mine) for record in changes.added]
        for uuid, columns in changes.changed.items():
            update = _update_atom(self.tables.atoms.name, tuple(columns))
            batches.setdefault(update, []).append((*columns.values(), uuid, lease.flow_uuid))
        if self._in_memory:
            with self.connection() as connection:
                return _write(connection.connection.driver_connection, fence, batches)
        with self._hot_lock:
            return _write(self._hot_connection(), fence, batches)

    def _hot_connection(self) -> Any:
        """The driver's connection for commits, to be used under the lock."""
        if self._hot is None:
            self._hot = detached(self.engine.raw_connection())
        return self._hot

    # -- errors ---------------------------------------------------------------------------------------------------

    def rolled_back(self, error: Any) -> bool:
        # The switch to the write-ahead log does not wait for others by itself. Everything else has waited.
        return str(error) == "database is locked"

    def failure(self, error: Any) -> StorageFailure:
        text = str(error)
        if "not a database" in text:
            return ForeignStore(f"{self.where} is not a SQLite database; name another file")
        if "unable to open" in text:
            folder = Path(self.engine.url.database or "").absolute().parent
            return StorageFailure(f"{self.where} cannot be opened; check that {folder} exists and can be written to")
        if "no such table" in text:
            return self.never_upgraded()
        return StorageFailure(f"{self.where}: {text}")

    # -- life -----------------------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        if self._in_memory:
            raise StorageFailure("a database in memory does not follow its process into a fork; use a file")
        INHERITED.append(self._hot)
        super().after_fork()
        self._start()

    def close(self) -> None:
        if self._in_memory:
            return
        with self._hot_lock:
            if self._hot is not None:
                close_quietly(self._hot)
            self._hot = None
        super().close()


#: Columns of a new atom that are in its record.
_GIVEN = tuple(column for column in ATOM_COLUMNS if column not in ("parent_uuid", "revision"))
_given = operator.itemgetter(*_GIVEN)
#: What is set for each connection.
_PRAGMAS = ("synchronous", "foreign_keys", "busy_timeout")


def _write(connection: Any, fence: tuple[str, Any], batches: Mapping[str, Sequence[Any]]) -> bool:
    """One transaction: the fence, then each statement with its rows; none of it unless all rows are there."""
    cursor = connection.cursor()
    try:
        cursor.execute("BEGIN IMMEDIATE")
        applied = bool(cursor.execute(*fence).rowcount) and all(
            _written(cursor, statement, rows) == len(rows) for statement, rows in batches.items()
        )
        cursor.execute("COMMIT" if applied else "ROLLBACK")
        return applied
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            cursor.execute("ROLLBACK")
        raise
    finally:
        cursor.close()


def _written(cursor: Any, statement: str, rows: Sequence[Any]) -> int:
    # Cheaper for one row than `executemany`, by which the driver prepares for any number.
    done = cursor.execute(statement, rows[0]) if len(rows) == 1 else cursor.executemany(statement, rows)
    return int(done.rowcount)


def _assign(columns: tuple[str, ...]) -> str:
    return ", ".join(f"{column} = ?" for column in columns)


@functools.lru_cache(maxsize=1024)  # there are as many as sets of columns that change together
def _fence(table: str, columns: tuple[str, ...]) -> str:
    return f'UPDATE "{table}" SET {_assign(columns)} WHERE uuid = ? AND token = ? AND revision = ?'


@functools.lru_cache(maxsize=64)
def _insert(table: str) -> str:
    columns = ", ".join((*_GIVEN, "parent_uuid", "revision"))
    return f'INSERT INTO "{table}" ({columns}) VALUES ({", ".join("?" * len(ATOM_COLUMNS))})'


@functools.lru_cache(maxsize=1024)
def _update_atom(table: str, columns: tuple[str, ...]) -> str:
    assign = ", ".join([*(f"{column} = ?" for column in columns), "revision = revision + 1"])
    return f'UPDATE "{table}" SET {assign} WHERE uuid = ? AND parent_uuid = ?'
