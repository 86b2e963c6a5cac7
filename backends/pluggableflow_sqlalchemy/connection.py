# SPDX-License-Identifier: Apache-2.0
"""The storage contract on SQL databases."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, delete, event, insert, inspect, make_url, or_, select, tuple_, update
from sqlalchemy import Connection as SQLConnection
from sqlalchemy import Engine as SQLEngine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from pluggableflow import states as flow_states
from pluggableflow.connection import (
    REQUEST_KINDS,
    Changes,
    Claim,
    Connection,
    Lease,
    Renewal,
    Request,
    commit_faults,
    pending_request,
)
from pluggableflow.exceptions import (
    FlowOwned,
    ForeignStore,
    InvalidState,
    LeaseLost,
    NotFound,
    OptionError,
    StorageFailure,
    ValueTooLarge,
)
from pluggableflow.middleware import FLOW_OWNERSHIP_COLUMNS, AtomDetail, FlowDetail, LogBook
from pluggableflow_sqlalchemy.migrations import HEAD
from pluggableflow_sqlalchemy.tables import Tables

#: How long a statement waits for another process's write.
BUSY_SECONDS = 30
_INHERITED: list[Any] = []
_TASKFLOW_TABLES = {"logbooks", "flowdetails", "atomdetails"}
_PARAMETERS = {"synchronous": ("full", "normal"), "prefix": None}


class SQLAlchemyConnection(Connection):
    """Logbooks, flows and atoms as rows of three tables.

    SQLite: write-ahead log, ``synchronous=FULL`` unless ``normal`` is asked for (which survives the death of any
    process, but not the loss of power), foreign keys on. Its clock is the host's; the file must not be on a network.
    ``commit`` keeps one database connection to itself, so that ``renew`` never waits for it in this process.

    :param engine: used as it is, and left open by :meth:`close`
    :param synchronous: "full" or "normal"
    :param prefix: of all table names
    """

    durable = True
    shared = True
    largest_value_bytes = 2**26
    largest_commit_bytes = 2**28

    def __init__(self, engine: SQLEngine, *, synchronous: str = "full", prefix: str = "pluggableflow_") -> None:
        self._engine, self._owns_engine = engine, False
        self._synchronous, self._tables = synchronous, Tables(prefix)
        database = engine.url.database
        self._in_memory = not database or database == ":memory:" or "mode=memory" in database
        self.durable = self.shared = not self._in_memory
        if self._in_memory and not isinstance(engine.pool, StaticPool):
            raise OptionError(
                "an Engine on a database in memory needs poolclass=StaticPool, or each thread has its own"
            )
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._hot: Any = None
        self._hot_lock = threading.RLock()
        # One connection serves all threads of an in-memory database, so they take turns.
        self._turn: Any = self._hot_lock if self._in_memory else contextlib.nullcontext()

    @classmethod
    def from_url(cls, url: str) -> SQLAlchemyConnection:
        """The store that a URL names: ``sqlite:///file.db?synchronous=normal&prefix=mine_``, ``sqlite://`` in memory.

        :raises OptionError: a parameter is unknown or has an impossible value
        """
        parsed = make_url(url)
        options = _parameters(parsed)
        parsed = parsed.set(query={})
        if parsed.database and parsed.database != ":memory:":
            engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
        else:
            engine = create_engine(parsed, poolclass=StaticPool, connect_args={"check_same_thread": False})
        made = cls(engine, **options)
        made._owns_engine = True
        event.listen(engine, "connect", made._set_up)
        return made

    @classmethod
    def from_client(cls, client: Any) -> SQLAlchemyConnection | None:
        """A connection over an embedder's Engine; ``None`` for anything else."""
        return cls(client) if isinstance(client, SQLEngine) else None

    # -- database connections -------------------------------------------------------------------------------------

    def _set_up(self, driver: Any, _record: Any = None) -> None:
        driver.isolation_level = None  # transactions are begun here, by name
        for statement in (
            "PRAGMA journal_mode=WAL",
            f"PRAGMA synchronous={self._synchronous}",
            "PRAGMA foreign_keys=ON",
            f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}",
        ):
            driver.execute(statement)

    @contextlib.contextmanager
    def _begin(self, write: bool) -> Iterator[SQLConnection]:
        """A transaction; with ``write`` it takes the write lock first, so nothing read in it can be outdated."""
        self._after_fork()
        with self._errors(), self._turn, self._engine.connect() as connection:
            driver = connection.connection.driver_connection
            before: Any = None
            if not self._owns_engine:
                before = driver.isolation_level  # type: ignore[union-attr]
                self._set_up(driver)
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with contextlib.suppress(SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
                raise
            finally:
                if not self._owns_engine:
                    driver.isolation_level = before  # type: ignore[union-attr]

    def _after_fork(self) -> None:
        if os.getpid() == self._pid:
            return
        if self._in_memory:
            raise StorageFailure("a database in memory does not follow its process into a fork; use a file")
        # What the parent opened is kept, unused, for good: closing it here could disturb the parent's locks.
        _INHERITED.append((self._engine.pool, self._hot))
        self._engine.dispose(close=False)
        self._start()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> StorageFailure:
        original = getattr(error, "orig", None) or error
        where = self._engine.url.render_as_string(hide_password=True)
        text = str(original)
        if "not a database" in text:
            return ForeignStore(f"{where} is not a SQLite database; name another file")
        if "unable to open" in text:
            folder = Path(self._engine.url.database or "").absolute().parent
            return StorageFailure(f"{where} cannot be opened; check that {folder} exists and can be written to")
        if "no such table" in text:
            return StorageFailure(f"{where} has no tables of pluggableflow; run `pluggableflow upgrade` on it")
        return StorageFailure(f"{where}: {text}")

    # -- life -----------------------------------------------------------------------------------------------------

    def upgrade(self) -> None:
        if self._version() == HEAD:
            return
        from alembic import command
        from alembic.config import Config

        with self._begin(write=True) as connection:
            self._check_foreign(connection)
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
            config.attributes.update(
                connection=connection, version_table=self._tables.version, prefix=self._tables.prefix
            )
            command.upgrade(config, "head")

    def validate(self) -> None:
        version = self._version()
        if version is None:
            where = self._engine.url.render_as_string(hide_password=True)
            raise StorageFailure(f"{where} has no tables of pluggableflow; run `pluggableflow upgrade` on it")
        if version != HEAD:
            with self._begin(write=False) as connection:
                self._check_foreign(connection)
            raise StorageFailure(f"the tables are of version {version}, not {HEAD}; run `pluggableflow upgrade`")

    def _version(self) -> str | None:
        with self._begin(write=False) as connection:
            if not inspect(connection).has_table(self._tables.version):
                return None
            return connection.exec_driver_sql(f'SELECT version_num FROM "{self._tables.version}"').scalar()

    def _check_foreign(self, connection: SQLConnection) -> None:
        where = self._engine.url.render_as_string(hide_password=True)
        present = set(inspect(connection).get_table_names())
        if self._tables.version not in present:
            if present >= _TASKFLOW_TABLES:
                raise ForeignStore(
                    f"{where} holds flows of TaskFlow; let TaskFlow finish them, then name another database"
                )
            return
        version = connection.exec_driver_sql(f'SELECT version_num FROM "{self._tables.version}"').scalar()
        if version is not None and version > HEAD:
            raise ForeignStore(
                f"{where} was written by a newer release (version {version}, this one knows {HEAD});"
                " pip install --upgrade pluggableflow"
            )

    def close(self) -> None:
        with self._hot_lock:
            if self._hot is not None and os.getpid() == self._pid:
                self._hot.close()
            self._hot = None
        if self._owns_engine:
            self._engine.dispose(close=os.getpid() == self._pid)

    def clear_all(self) -> None:
        with self._begin(write=True) as connection:
            connection.execute(delete(self._tables.logbooks))

    # -- logbooks -------------------------------------------------------------------------------------------------

    def save_logbook(self, book: LogBook) -> None:
        tables, record, now = self._tables, book.to_record(), _now()
        flows = [(detail, detail.to_record(), [atom.to_record() for atom in detail]) for detail in book]
        created: list[FlowDetail] = []
        with self._begin(write=True) as connection:
            row = self._row(connection, tables.logbooks, book.uuid)
            created_at = now if row is None else row["created_at"]
            if row is None:
                connection.execute(insert(tables.logbooks), {**record, "created_at": now, "updated_at": now})
            else:
                same = tables.logbooks.c.uuid == book.uuid
                connection.execute(update(tables.logbooks).where(same).values(meta=record["meta"], updated_at=now))
            for detail, flow, atoms in flows:
                if self._row(connection, tables.flows, detail.uuid) is not None:
                    continue
                values = {**flow, "parent_uuid": book.uuid, "created_at": now, "updated_at": now}
                connection.execute(insert(tables.flows), values)
                if atoms:
                    connection.execute(insert(tables.atoms), [{**atom, "parent_uuid": detail.uuid} for atom in atoms])
                created.append(detail)
        book.created_at, book.updated_at = created_at, now
        for detail in created:
            detail.created_at = detail.updated_at = now

    @staticmethod
    def _row(connection: SQLConnection, table: Any, uuid: str) -> Any:
        return connection.execute(select(table).where(table.c.uuid == uuid)).mappings().first()

    def _found(self, connection: SQLConnection, table: Any, uuid: str, what: str) -> Any:
        row = self._row(connection, table, uuid)
        if row is None:
            raise NotFound(f"there is no {what} {uuid}")
        return row

    def get_logbook(self, book_uuid: str, lazy: bool = False) -> LogBook:
        with self._begin(write=False) as connection:
            row = self._found(connection, self._tables.logbooks, book_uuid, "logbook")
            return LogBook.from_record(row, () if lazy else self._flows_of(connection, book_uuid, False))

    def get_logbooks(self, lazy: bool = False) -> list[LogBook]:
        books = self._tables.logbooks
        with self._begin(write=False) as connection:
            rows = _rows(connection.execute(select(books).order_by(books.c.created_at, books.c.uuid)))
            return [
                LogBook.from_record(row, () if lazy else self._flows_of(connection, row["uuid"], False)) for row in rows
            ]

    def destroy_logbook(self, book_uuid: str, force: bool = False) -> None:
        tables = self._tables
        with self._begin(write=True) as connection:
            self._found(connection, tables.logbooks, book_uuid, "logbook")
            if not force:
                for row in connection.execute(
                    select(tables.flows).where(tables.flows.c.parent_uuid == book_uuid)
                ).mappings():
                    _refuse_if_leased(row)
            connection.execute(delete(tables.logbooks).where(tables.logbooks.c.uuid == book_uuid))

    # -- flows ----------------------------------------------------------------------------------------------------

    def _flows_of(self, connection: SQLConnection, book_uuid: str, lazy: bool) -> list[FlowDetail]:
        flows = self._tables.flows
        query = select(flows).where(flows.c.parent_uuid == book_uuid).order_by(flows.c.created_at, flows.c.uuid)
        return [self._flow(connection, row, lazy) for row in _rows(connection.execute(query))]

    def _flow(self, connection: SQLConnection, row: Mapping[Any, Any], lazy: bool) -> FlowDetail:
        return FlowDetail.from_record(row, () if lazy else self._atoms_of(connection, row["uuid"]))

    def _atoms_of(self, connection: SQLConnection, flow_uuid: str) -> list[AtomDetail]:
        atoms = self._tables.atoms
        query = select(atoms).where(atoms.c.parent_uuid == flow_uuid).order_by(atoms.c.id)
        return [AtomDetail.from_record(row) for row in _rows(connection.execute(query))]

    def get_flow_details(self, flow_uuid: str, lazy: bool = False) -> FlowDetail:
        with self._begin(write=False) as connection:
            return self._flow(connection, self._found(connection, self._tables.flows, flow_uuid, "flow"), lazy)

    def get_flows_for_book(self, book_uuid: str, lazy: bool = False) -> list[FlowDetail]:
        with self._begin(write=False) as connection:
            self._found(connection, self._tables.logbooks, book_uuid, "logbook")
            return self._flows_of(connection, book_uuid, lazy)

    def update_flow_details(self, detail: FlowDetail) -> None:
        tables, record = self._tables, detail.to_record()
        atoms = [{**atom.to_record(), "parent_uuid": detail.uuid} for atom in detail]
        with self._begin(write=True) as connection:
            row = self._found(connection, tables.flows, detail.uuid, "flow")
            _refuse_if_leased(row)
            kept = (*FLOW_OWNERSHIP_COLUMNS, "uuid", "parent_uuid", "created_at")
            values = {column: value for column, value in record.items() if column not in kept}
            values |= {"revision": row["revision"] + 2, "updated_at": _now()}
            connection.execute(update(tables.flows).where(tables.flows.c.uuid == detail.uuid).values(values))
            known = set(
                connection.execute(
                    select(tables.atoms.c.uuid).where(tables.atoms.c.parent_uuid == detail.uuid)
                ).scalars()
            )
            for atom in atoms:
                if atom["uuid"] in known:
                    connection.execute(update(tables.atoms).where(tables.atoms.c.uuid == atom["uuid"]).values(atom))
            added = [atom for atom in atoms if atom["uuid"] not in known]
            if added:
                connection.execute(insert(tables.atoms), added)

    def find_flows(
        self,
        *,
        states: Collection[str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        created_before: int | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[FlowDetail]:
        flows = self._tables.flows
        query = select(flows).order_by(flows.c.created_at, flows.c.uuid).limit(limit)
        if states is not None:
            query = query.where(flows.c.state.in_(list(states)))
        if name is not None:
            query = query.where(flows.c.name == name)
        if owner is not None:
            query = query.where(flows.c.owner == owner)
        if created_before is not None:
            query = query.where(flows.c.created_at < created_before)
        with self._begin(write=False) as connection:
            if after is not None:
                last = self._found(connection, flows, after, "flow")
                query = query.where(tuple_(flows.c.created_at, flows.c.uuid) > (last["created_at"], last["uuid"]))
            return [FlowDetail.from_record(row) for row in _rows(connection.execute(query))]

    # -- atoms ----------------------------------------------------------------------------------------------------

    def get_atom_details(self, atom_uuid: str) -> AtomDetail:
        with self._begin(write=False) as connection:
            return AtomDetail.from_record(self._found(connection, self._tables.atoms, atom_uuid, "atom"))

    def get_atoms_for_flow(self, flow_uuid: str) -> list[AtomDetail]:
        with self._begin(write=False) as connection:
            self._found(connection, self._tables.flows, flow_uuid, "flow")
            return self._atoms_of(connection, flow_uuid)

    def update_atom_details(self, detail: AtomDetail) -> None:
        flows, atoms = self._tables.flows, self._tables.atoms
        record = {
            column: value
            for column, value in detail.to_record().items()
            if column not in ("uuid", "parent_uuid", "kind")
        }
        with self._begin(write=True) as connection:
            stored = self._found(connection, atoms, detail.uuid, "atom")
            flow = self._found(connection, flows, stored["parent_uuid"], "flow")
            _refuse_if_leased(flow)
            connection.execute(update(atoms).where(atoms.c.uuid == detail.uuid).values(record))
            revision = flow["revision"] + 2
            connection.execute(update(flows).where(flows.c.uuid == flow["uuid"]).values(revision=revision))

    # -- hot path -------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        fault = commit_faults(self, changes)
        if fault is not None:
            raise ValueTooLarge(fault)
        # Everything is made ready before the transaction begins, so that it holds the lock for the statements only.
        flow = {**changes.flow, "revision": revision + 1, "updated_at": _now()}
        fence = _fence(self._tables.flows.name, tuple(flow)), (*flow.values(), lease.flow_uuid, lease.token, revision)
        statements: list[tuple[str, tuple[Any, ...]]] = []
        for record in changes.added:
            values = {**record, "parent_uuid": lease.flow_uuid, "revision": 1}
            statements.append((_insert(self._tables.atoms.name, tuple(values)), tuple(values.values())))
        for uuid, columns in changes.changed.items():
            statements.append(
                (_update_atom(self._tables.atoms.name, tuple(columns)), (*columns.values(), uuid, lease.flow_uuid))
            )
        self._after_fork()
        with self._hot_lock, self._errors():
            if self._hot is None:
                self._hot = self._engine.raw_connection()
                self._set_up(self._hot.driver_connection)
            cursor = self._hot.driver_connection.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE")
                if not cursor.execute(*fence).rowcount:
                    self._explain_refusal(cursor, lease, revision)
                    return revision + 1
                for statement in statements:
                    if not cursor.execute(*statement).rowcount:
                        raise NotFound(f"flow {lease.flow_uuid} lacks an atom that was to be changed")
                cursor.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    cursor.execute("ROLLBACK")
                raise
            finally:
                cursor.close()
        return revision + 1

    def _explain_refusal(self, cursor: Any, lease: Lease, revision: int) -> None:
        """The fence did not hold: was this very commit applied before, or is the lease lost?"""
        flows = self._tables.flows.name
        found = cursor.execute(f'SELECT token, revision FROM "{flows}" WHERE uuid = ?', (lease.flow_uuid,)).fetchone()
        cursor.execute("ROLLBACK")
        if found != (lease.token, revision + 1):
            raise LeaseLost(lease.flow_uuid)

    # -- ownership ------------------------------------------------------------------------------------------------

    def claim(
        self,
        *,
        token: str,
        owner: str,
        lease_seconds: float,
        flow_uuid: str | None = None,
        evict_epoch: int | None = None,
    ) -> Claim | None:
        flows = self._tables.flows
        with self._begin(write=True) as connection:
            now = _now()
            if flow_uuid is not None:
                row = self._found(connection, flows, flow_uuid, "flow")
            else:
                row = self._next_claimable(connection, token, now)
                if row is None:
                    return None
            epoch = row["epoch"]
            if row["token"] != token:
                if evict_epoch is None or evict_epoch != epoch:
                    _refuse_if_leased(row)
                epoch += 1
            expires_at = now + int(lease_seconds * 1e6)
            values = {"token": token, "owner": owner, "epoch": epoch, "lease_expires_at": expires_at}
            connection.execute(update(flows).where(flows.c.uuid == row["uuid"]).values(values))
            lease = Lease(row["uuid"], token, epoch, owner, expires_at)
            return Claim(lease, row["revision"], now, pending_request(row))

    def _next_claimable(self, connection: SQLConnection, token: str, now: int) -> Any:
        flows = self._tables.flows.c
        mine = connection.execute(select(self._tables.flows).where(flows.token == token)).mappings().first()
        if mine is not None:
            return mine
        query = (
            select(self._tables.flows)
            .where(flows.state.in_(sorted(flow_states.RUNNABLE)), flows.factory.is_not(None))
            .where(or_(flows.token.is_(None), flows.lease_expires_at <= now))
            .where(or_(flows.wake_at.is_(None), flows.wake_at <= now))
            .order_by(flows.priority.desc(), flows.created_at, flows.uuid)
            .limit(1)
        )
        return connection.execute(query).mappings().first()

    def renew(self, lease: Lease, lease_seconds: float) -> Renewal:
        flows = self._tables.flows
        with self._begin(write=True) as connection:
            row = self._row(connection, flows, lease.flow_uuid)
            if row is None or row["token"] != lease.token:
                raise LeaseLost(lease.flow_uuid)
            now = _now()
            expires_at = now + int(lease_seconds * 1e6)
            same = flows.c.uuid == lease.flow_uuid
            connection.execute(update(flows).where(same).values(lease_expires_at=expires_at))
        lease.expires_at = expires_at
        return Renewal(expires_at, now, pending_request(row))

    def release(self, lease: Lease) -> None:
        flows = self._tables.flows
        mine = (flows.c.uuid == lease.flow_uuid) & (flows.c.token == lease.token)
        with self._begin(write=True) as connection:
            connection.execute(update(flows).where(mine).values(token=None, lease_expires_at=None))

    def request(self, flow_uuid: str, kind: str, by: str) -> Request:
        if kind not in REQUEST_KINDS:
            raise OptionError(f"a request is one of {', '.join(REQUEST_KINDS)}, not {kind!r}")
        flows = self._tables.flows
        with self._begin(write=True) as connection:
            row = self._found(connection, flows, flow_uuid, "flow")
            if row["state"] not in flow_states.UNFINISHED:
                raise InvalidState(f"flow {flow_uuid} has finished: it is {row['state']}")
            sequence = row["request_sequence"] + 1
            values = {"request": kind, "request_by": by, "request_sequence": sequence}
            connection.execute(update(flows).where(flows.c.uuid == flow_uuid).values(values))
        return Request(kind, by, sequence)


def _now() -> int:
    return time.time_ns() // 1000


def _rows(result: Any) -> list[Mapping[str, Any]]:
    return list(result.mappings())


def _assign(columns: tuple[str, ...]) -> str:
    return ", ".join(f"{column} = ?" for column in columns)


@functools.lru_cache(maxsize=1024)  # there are as many as sets of columns that change together
def _fence(table: str, columns: tuple[str, ...]) -> str:
    return f'UPDATE "{table}" SET {_assign(columns)} WHERE uuid = ? AND token = ? AND revision = ?'


@functools.lru_cache(maxsize=1024)
def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f'INSERT INTO "{table}" ({", ".join(columns)}) VALUES ({", ".join("?" * len(columns))})'


@functools.lru_cache(maxsize=1024)
def _update_atom(table: str, columns: tuple[str, ...]) -> str:
    return f'UPDATE "{table}" SET {_assign(columns)}, revision = revision + 1 WHERE uuid = ? AND parent_uuid = ?'


def _refuse_if_leased(row: Mapping[Any, Any]) -> None:
    left = (row["lease_expires_at"] or 0) - _now()
    if row["token"] is not None and left > 0:
        raise FlowOwned(row["uuid"], row["owner"], row["epoch"], left / 1e6)


def _parameters(url: URL) -> dict[str, Any]:
    """The options in the query of a URL.

    :raises OptionError: names the parameter, and what is allowed
    """
    options: dict[str, Any] = {}
    for name, value in url.query.items():
        if name not in _PARAMETERS:
            raise OptionError(f"{url.drivername} has no parameter {name!r}; it has {', '.join(sorted(_PARAMETERS))}")
        allowed = _PARAMETERS[name]
        if not isinstance(value, str) or (allowed is not None and value.lower() not in allowed):
            raise OptionError(f"{name} must be {' or '.join(allowed or ('one value',))}, not {value!r}")
        options[name] = value if allowed is None else value.lower()
    prefix = options.get("prefix", "")
    if not all(character.isalnum() or character == "_" for character in prefix) or len(prefix) > 30:
        raise OptionError(f"prefix must be at most 30 letters, digits and underscores, not {prefix!r}")
    return options
