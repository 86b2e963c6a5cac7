# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL 12 or later, with psycopg 3 or psycopg2."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import URL, BigInteger, ColumnElement, create_engine, literal_column, text
from sqlalchemy import Connection as SQLConnection
from sqlalchemy import Engine as SQLEngine

from pluggableflow.connection import Changes, Lease
from pluggableflow.exceptions import OptionError, StorageFailure
from pluggableflow.middleware import INTEGER_COLUMNS, Record
from pluggableflow_sqlalchemy.database import LOCK_SECONDS, ServerDatabase
from pluggableflow_sqlalchemy.tables import Tables

#: SQLSTATE of errors after which nothing was done: serialization failure, deadlock, the server starts or stops, or
#: takes no more connections.
ROLLED_BACK = frozenset({"40001", "40P01", "57P03", "53300"})
#: SQLSTATE of errors that end a connection: an administrator or a crash did, or a transaction was idle for too long.
CUT_OFF = frozenset({"57P01", "57P02", "25P03", "08000", "08001", "08003", "08004", "08006"})
#: Commits of more atoms than this pass them as arrays: slower for a few, but PostgreSQL takes 65,535 values at most.
_MOST_SINGLE_ATOMS = 32
#: SQLSTATE of a division by zero, with which a commit is undone that was to change an atom which does not exist.
_INCOMPLETE = "22012"
_CLOCK = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"
_SETTINGS = (
    f"SET lock_timeout = '{LOCK_SECONDS}s'; SET idle_in_transaction_session_timeout = '{LOCK_SECONDS}s';"
    " SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off;"
    # Every statement here reads few rows through an index. Without statistics, as in a new store, the server would
    # rather read the whole table to look up the atoms of a commit.
    " SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off"
)


class PostgreSQL(ServerDatabase):
    """Writers lock the rows of the flows or the book that they touch.

    A commit is one statement, so no lock of it outlives a round trip. The other writes are short transactions; the
    server ends one whose client has paused in it after ``LOCK_SECONDS``. Settings and prepared statements are the
    session's, so PgBouncer must pool sessions.
    """

    driver_parameters = frozenset(
        {
            "application_name", "channel_binding", "connect_timeout", "gssencmode", "host", "keepalives",
            "keepalives_count", "keepalives_idle", "keepalives_interval", "options", "passfile", "port", "service",
            "sslcert", "sslcrl", "sslkey", "sslmode", "sslpassword", "sslrootcert", "target_session_attrs",
            "tcp_user_timeout",
        }
    )  # fmt: skip
    extra = "postgresql"
    clock = literal_column(_CLOCK, BigInteger())

    @property
    def index_clock(self) -> ColumnElement[int]:
        # Nothing is looked up in an index by a value that may change from row to row.
        return literal_column(_CLOCK.replace("clock_timestamp", "statement_timestamp"), BigInteger())

    begin_read = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)
    begin_write = ("BEGIN",)

    def __init__(self, engine: SQLEngine, tables: Tables) -> None:
        if engine.dialect.driver not in ("psycopg", "psycopg2"):
            raise OptionError(f"PostgreSQL is used with psycopg or psycopg2, not with {engine.dialect.driver}")
        super().__init__(engine, tables, _set_up)
        self._cursor: Callable[[Any], Any] = lambda connection: connection.cursor()
        self._text: Callable[[str, str], str] = operator.add
        if engine.dialect.driver == "psycopg":
            # The other cursors of psycopg look for the placeholders of a long statement again at each execution.
            self._cursor, self._text = self.engine.dialect.loaded_dbapi.RawCursor, _numbered

    @classmethod
    def make_engine(cls, url: URL) -> SQLEngine:
        return create_engine(url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url)

    @contextlib.contextmanager
    def upgrading(self, connection: SQLConnection) -> Iterator[None]:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise StorageFailure(f"{self.where} has the encoding {encoding}; make a database with ENCODING 'UTF8'")
        key = zlib.crc32(self.tables.version.encode())
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        yield

    # -- hot path -------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, revision: int, changes: Changes) -> bool:
        singly = len(changes.added) + len(changes.changed) <= _MOST_SINGLE_ATOMS
        statement, values = (_singly if singly else _in_arrays)(self.tables, lease.flow_uuid, changes)
        flow = {**changes.flow, "revision": revision + 1}
        fence = _fence(self.tables.flows.name, tuple(flow))
        values = [*flow.values(), lease.flow_uuid, lease.token, revision, *values]
        with self._hot.taken() as connection:
            cursor = self._cursor(connection)
            try:
                cursor.execute(self._text(fence, statement), values)
                return bool(cursor.fetchone()[0])
            except self.engine.dialect.loaded_dbapi.DataError as error:
                if _state(error) != _INCOMPLETE:
                    raise
                return False
            finally:
                cursor.close()

    # -- errors ---------------------------------------------------------------------------------------------------

    def rolled_back(self, error: Any) -> bool:
        return _state(error) in ROLLED_BACK or _not_connected(error)

    def cut_off(self, error: Any) -> bool:
        # Without a SQLSTATE, it is the driver that lost the server.
        operational = self.engine.dialect.loaded_dbapi.OperationalError
        return _state(error) in CUT_OFF or (isinstance(error, operational) and _state(error) is None)

    def failure(self, error: Any) -> StorageFailure:
        state, said = _state(error), " ".join(str(error).split())
        if state == "42P01":
            return self.never_upgraded()
        if state == "42501":
            return StorageFailure(f"{self.where}: {said}; GRANT the user what it needs")
        if _not_connected(error):
            remedy = "create the database" if "does not exist" in said else "is it running, and the URL right?"
            return StorageFailure(f"{self.where} cannot be reached; {remedy} ({said})")
        return StorageFailure(f"{self.where}: {said or type(error).__name__}")


def _set_up(driver: Any) -> None:
    with contextlib.closing(driver.cursor()) as cursor:
        cursor.execute(_SETTINGS)


def _state(error: Any) -> str | None:
    state: str | None = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state


def _not_connected(error: Any) -> bool:
    """Whether it was raised while a connection was being opened."""
    return _state(error) is None and "connection to server" in str(error) or "connection failed" in str(error)


# All sub-statements of one statement see the data as it was before. So none of them may rely on what the fence wrote;
# they rely on the row that it returns: where it returns none, they have no row to work with.


@functools.lru_cache(maxsize=1024)  # there are as many as sets of columns that change together
def _fence(flows: str, columns: tuple[str, ...]) -> str:
    return (
        f'WITH fence AS (UPDATE "{flows}" SET {_assign(columns)}, updated_at = {_CLOCK}'
        " WHERE uuid = %s AND token = %s AND revision = %s RETURNING uuid)"
    )


@functools.lru_cache(maxsize=1024)
def _numbered(fence: str, statement: str) -> str:
    """Both, with placeholders as the server knows them."""
    numbers = itertools.count(1)
    return re.sub("%s", lambda _match: f"${next(numbers)}", fence + statement)


def _singly(tables: Tables, flow_uuid: str, changes: Changes) -> tuple[str, list[Any]]:
    """One sub-statement for all new atoms, and one for each changed atom."""
    values: list[Any] = []
    added = [_complete(record, flow_uuid) for record in changes.added]
    for record in added:
        values += record.values()
    for uuid, columns in changes.changed.items():
        values += columns.values()
        values.append(uuid)
    shape = tuple(tuple(columns) for columns in changes.changed.values())
    return _singly_text(tables.atoms.name, tuple(added[0]) if added else (), len(added), shape), values


@functools.lru_cache(maxsize=1024)
def _singly_text(atoms: str, added: tuple[str, ...], count: int, changed: tuple[tuple[str, ...], ...]) -> str:
    text = ""
    if count:
        row = ", ".join(f"%s::{_type(column)}" for column in added)
        rows = ", ".join(f"({number}, {row})" for number in range(count))
        text += _insert(atoms, added, f"(VALUES {rows}) AS new (number, {', '.join(added)})")
    for number, columns in enumerate(changed):
        text += (
            f', changed{number} AS (UPDATE "{atoms}" AS atom SET {_assign(columns, ", ")}revision = atom.revision + 1'
            " FROM fence WHERE atom.uuid = %s AND atom.parent_uuid = fence.uuid RETURNING 1)"
        )
    return text + _outcome(len(changed), len(changed))


def _in_arrays(tables: Tables, flow_uuid: str, changes: Changes) -> tuple[str, list[Any]]:
    """One sub-statement for all new atoms, and one for all atoms of which the same columns change."""
    atoms, text, values = tables.atoms.name, "", list[Any]()
    if changes.added:
        added = [_complete(record, flow_uuid) for record in changes.added]
        columns = tuple(added[0])
        values += ([record[column] for record in added] for column in columns)
        source = f"unnest({_arrays(columns)}) WITH ORDINALITY AS new ({', '.join(columns)}, number)"
        text += _insert(atoms, columns, source)
    groups: dict[tuple[str, ...], list[Record]] = {}
    for uuid, changed in changes.changed.items():
        groups.setdefault(tuple(changed), []).append({**changed, "key": uuid})
    for number, (columns, records) in enumerate(groups.items()):
        values += ([record[column] for record in records] for column in (*columns, "key"))
        assign = "".join(f"{column} = new.{column}, " for column in columns)
        text += (
            f', changed{number} AS (UPDATE "{atoms}" AS atom SET {assign}revision = atom.revision + 1'
            f" FROM fence, unnest({_arrays((*columns, 'key'))}) AS new ({', '.join((*columns, 'key'))})"
            " WHERE atom.uuid = new.key AND (atom.parent_uuid = fence.uuid) IS TRUE RETURNING 1)"
        )
    return text + _outcome(len(groups), len(changes.changed)), values


def _complete(record: Record, flow_uuid: str) -> Record:
    return {**record, "parent_uuid": flow_uuid, "revision": 1}


def _insert(atoms: str, columns: tuple[str, ...], source: str) -> str:
    """Adds the rows of ``source`` in their order, which their ids keep."""
    names = ", ".join(columns)
    new = ", ".join(f"new.{column}" for column in columns)
    return f', added AS (INSERT INTO "{atoms}" ({names}) SELECT {new} FROM fence, {source} ORDER BY new.number)'


def _outcome(groups: int, expected: int) -> str:
    """Whether the fence held; fails, and so undoes everything, if it did but fewer atoms changed than expected."""
    if not groups:
        return " SELECT count(*) FROM fence"
    changed = " + ".join(f"(SELECT count(*) FROM changed{number})" for number in range(groups))
    return (
        f" SELECT held.count / CASE WHEN held.count = 0 OR {changed} = {expected} THEN 1 ELSE 0 END"
        " FROM (SELECT count(*) FROM fence) AS held"
    )


def _assign(columns: tuple[str, ...], end: str = "") -> str:
    return ", ".join(f"{column} = %s" for column in columns) + (end if columns else "")


def _arrays(columns: tuple[str, ...]) -> str:
    return ", ".join(f"%s::{_type(column)}[]" for column in columns)


def _type(column: str) -> str:
    return "bigint" if column in INTEGER_COLUMNS else "text"
