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
#: For commits alone: which values they have does not matter for how they are best carried out. It does for searches.
_HOT_SETTINGS = "SET plan_cache_mode = force_generic_plan"


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
        super().__init__(engine, tables, functools.partial(_set, _SETTINGS), functools.partial(_set, _HOT_SETTINGS))
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
        flow = {**changes.flow, "revision": revision + 1}
        fence = _fence(self.tables.flows.name, tuple(flow))
        statement, values = _atoms(self.tables.atoms.name, lease.flow_uuid, changes)
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


def _set(settings: str, driver: Any) -> None:
    with contextlib.closing(driver.cursor()) as cursor:
        cursor.execute(settings)


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
    assign = ", ".join(f"{column} = %s" for column in columns)
    return (
        f'WITH fence AS (UPDATE "{flows}" SET {assign}, updated_at = {_CLOCK}'
        " WHERE uuid = %s AND token = %s AND revision = %s RETURNING uuid)"
    )


@functools.lru_cache(maxsize=1024)
def _numbered(fence: str, statement: str) -> str:
    """Both, with placeholders as the server knows them."""
    numbers = itertools.count(1)
    return re.sub("%s", lambda _match: f"${next(numbers)}", fence + statement)


def _atoms(table: str, flow_uuid: str, changes: Changes) -> tuple[str, list[Any]]:
    """Sub-statements for the atoms: one for all new ones, one for all of which the same columns change."""
    arrays = len(changes.added) + len(changes.changed) > _MOST_SINGLE_ATOMS
    added: _Shape | None = None
    values: list[Any] = []
    if changes.added:
        count = len(changes.added)
        more: dict[str, list[Any]] = {"parent_uuid": [flow_uuid] * count, "revision": [1] * count}
        records = changes.added
        if count == 1:  # of several, what none has is sent once
            records = [{column: value for column, value in records[0].items() if value is not None}]
        added, values = _shape(records, more, arrays)
    alike: dict[tuple[str, ...], list[str]] = {}
    for uuid, record in changes.changed.items():
        alike.setdefault(tuple(record), []).append(uuid)
    changed = []
    for uuids in alike.values():
        shape, parameters = _shape([changes.changed[uuid] for uuid in uuids], {"key": uuids}, arrays)
        changed.append(shape)
        values += parameters
    if changed:
        values.append(len(changes.changed))
    return _atoms_text(table, added, tuple(changed)), values


#: Columns in which records are alike, and those in which they differ; how many records there are, 0 for arrays.
_Shape = tuple[tuple[str, ...], tuple[str, ...], int]


#: Columns in which atoms differ, if they have a value there at all.
_OWN = frozenset({"results", "failure", "revert_results", "revert_failure", "meta", "signature"})


def _shape(records: list[Record], more: dict[str, list[Any]], arrays: bool) -> tuple[_Shape, list[Any]]:
    """The shape and the parameters of records that have the same columns: what all share is sent once.

    But for columns that are alike by chance only: each shape is a statement that the server has to prepare.

    :param more: further columns, each with its values
    """
    if len(records) == 1:
        only = {**records[0], **{column: values[0] for column, values in more.items()}}
        return (tuple(only), (), 1), [*only.values()]
    shared, varying = {}, {}
    for column, values in {**{name: [record[name] for record in records] for name in records[0]}, **more}.items():
        first = values[0]
        if values.count(first) == len(values) and (first is None or column not in _OWN):
            shared[column] = first
        else:
            varying[column] = values
    rows = varying.values() if arrays else itertools.chain.from_iterable(zip(*varying.values(), strict=True))
    return (tuple(shared), tuple(varying), 0 if arrays else len(records)), [*shared.values(), *rows]


@functools.lru_cache(maxsize=1024)
def _atoms_text(table: str, added: _Shape | None, changed: tuple[_Shape, ...]) -> str:
    text = ""
    if added:
        shared, varying, _ = added
        chosen = ", ".join([*(f"%s::{_type(column)}" for column in shared), *(f"new.{column}" for column in varying)])
        text += f', added AS (INSERT INTO "{table}" ({", ".join(shared + varying)}) SELECT {chosen} FROM fence'
        text += f"{_source(added)} ORDER BY new.number)" if varying else ")"  # which their ids keep
    for number, shape in enumerate(changed):
        shared, varying, _ = shape
        assign = [f"{column} = %s" for column in shared if column != "key"]
        assign += [f"{column} = new.{column}" for column in varying if column != "key"]
        text += (
            f', changed{number} AS (UPDATE "{table}" AS atom SET {", ".join([*assign, "revision = atom.revision + 1"])}'
            f" FROM fence{_source(shape) if varying else ''}"
            f" WHERE atom.uuid = {'new.key' if varying else '%s'} AND (atom.parent_uuid = fence.uuid) IS TRUE"
            " RETURNING 1)"
        )
    return text + _outcome(len(changed))


def _source(shape: _Shape) -> str:
    """The rows of the columns that differ, numbered."""
    _, varying, count = shape
    if count:
        row = ", ".join(f"%s::{_type(column)}" for column in varying)
        source = f"(VALUES {', '.join(f'({row}, {number})' for number in range(count))})"
    else:
        source = f"unnest({', '.join(f'%s::{_type(column)}[]' for column in varying)}) WITH ORDINALITY"
    return f", {source} AS new ({', '.join(varying)}, number)"


def _outcome(groups: int) -> str:
    """Whether the fence held; fails, and so undoes everything, if it did but fewer atoms changed than expected."""
    if not groups:
        return " SELECT count(*) FROM fence"
    changed = " + ".join(f"(SELECT count(*) FROM changed{number})" for number in range(groups))
    return (
        f" SELECT held.count / CASE WHEN held.count = 0 OR {changed} = %s THEN 1 ELSE 0 END"
        " FROM (SELECT count(*) FROM fence) AS held"
    )


def _type(column: str) -> str:
    return "bigint" if column in INTEGER_COLUMNS else "text"
