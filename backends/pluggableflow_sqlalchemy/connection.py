# SPDX-License-Identifier: Apache-2.0
"""The storage contract on SQL databases."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection as SQLConnection
from sqlalchemy import Engine as SQLEngine
from sqlalchemy import Select, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError

from pluggableflow import states as flow_states
from pluggableflow.connection import (
    Changes,
    Claim,
    Connection,
    Lease,
    Renewal,
    Request,
    check_request_kind,
    commit_faults,
    pending_request,
    refuse_if_leased,
)
from pluggableflow.exceptions import (
    InvalidState,
    LeaseLost,
    NotFound,
    OptionError,
    PluginError,
    StorageFailure,
    ValueTooLarge,
)
from pluggableflow.middleware import FLOW_OWNERSHIP_COLUMNS, AtomDetail, FlowDetail, LogBook
from pluggableflow_sqlalchemy import schema
from pluggableflow_sqlalchemy.database import Database, check_options, read_options, waits
from pluggableflow_sqlalchemy.mysql import MySQL
from pluggableflow_sqlalchemy.postgresql import PostgreSQL
from pluggableflow_sqlalchemy.sqlite import SQLite
from pluggableflow_sqlalchemy.statements import Statements
from pluggableflow_sqlalchemy.tables import Tables

#: Dialect to what that product does in its own way.
PRODUCTS: dict[str, type[Database]] = {
    "sqlite": SQLite,
    "postgresql": PostgreSQL,
    "mysql": MySQL,
    "mariadb": MySQL,
}
#: How often a scan looks again when all that it found was locked by others.
_SCANS = 10
#: Of how many flows one statement deletes the atoms.
_KEYS_AT_ONCE = 500

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _resent(idempotent: bool, again_if_doubled: bool = False) -> Callable[[_Method], _Method]:
    """Sends a call again after an error that passes. Nothing is held while it waits.

    :param idempotent: it may be applied twice; others are only sent again where the error says that nothing was done
    :param again_if_doubled: also if somebody else has just added the same record, which it will find then
    """

    def decorate(method: _Method) -> _Method:
        @functools.wraps(method)
        def call(self: SQLAlchemyConnection, *args: Any, **options: Any) -> Any:
            pauses = None
            while True:
                try:
                    return method(self, *args, **options)
                except StorageFailure as failure:
                    pauses = pauses or waits(self._attempts)
                    doubled = again_if_doubled and isinstance(failure.__cause__, IntegrityError)
                    if not (doubled or self._passes(failure, idempotent)) or (pause := next(pauses, None)) is None:
                        raise
                    time.sleep(pause)

        return call  # type: ignore[return-value]

    return decorate


class SQLAlchemyConnection(Connection):
    """Logbooks, flows and atoms as rows of three tables, in SQLite, PostgreSQL, MariaDB or MySQL.

    The modules of the products say what is particular to each.

    :param engine: how database connections are opened. They are this object's own, outside the Engine's pool and its
        limits, and are closed by :meth:`close`; so the Engine and its connections stay as they are, except that a
        SQLite file is switched to the write-ahead log for good, and that a database in memory has one connection,
        which gets its settings back after every use
    :param prefix: of all table names
    :param attempts: how often a call that meets errors which pass is made, in all
    :param options: of the product: SQLite has ``synchronous``, "full" or "normal"
    :raises OptionError: an option is unknown or has an impossible value, or the product is not supported
    """

    contract_version = 1
    config_module = "pluggableflow_sqlalchemy.config"
    durable = True
    shared = True

    def __init__(
        self, engine: SQLEngine, *, prefix: str = "pluggableflow_", attempts: str | None = None, **options: str
    ) -> None:
        kind = _product(engine.dialect.name)
        check_options(kind, {"prefix": prefix, **({} if attempts is None else {"attempts": attempts}), **options})
        self._attempts = None if attempts is None else int(attempts)
        self._database = kind(engine, Tables(prefix), **options)
        self._statements = Statements(self._database)
        self.durable = self.shared = self._database.durable
        self._to_dispose: SQLEngine | None = None
        self._pid = os.getpid()

    @classmethod
    def from_url(cls, url: str) -> SQLAlchemyConnection:
        """The store that a URL names, such as ``sqlite:///file.db?synchronous=normal&prefix=mine_``, ``sqlite://`` in
        memory, ``postgresql://user@host/database``, ``mariadb://user@host/database``.

        :raises OptionError: a parameter is unknown or has an impossible value
        :raises PluginError: the driver is not installed
        """
        parsed = make_url(url)
        kind = _product(parsed.get_backend_name())
        rest, options = read_options(kind, parsed)
        where = parsed.set(query={}).render_as_string(hide_password=True)  # the query can hold one as well
        try:
            engine = kind.make_engine(rest)
        except ModuleNotFoundError as error:
            remedy = f"pip install 'pluggableflow[{kind.extra}]'"
            raise PluginError(f"{where} needs {error.name}, which is not installed; {remedy}") from error
        except (ArgumentError, ValueError) as error:
            raise OptionError(f"{where} cannot be used: {error}") from error
        made = cls(engine, **options)
        made._to_dispose = engine
        return made

    @classmethod
    def from_client(cls, client: Any) -> SQLAlchemyConnection | None:
        """A connection over an embedder's Engine; ``None`` for anything else."""
        return cls(client) if isinstance(client, SQLEngine) else None

    # -- database connections -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Gives a forked child its own connections, and tells of a driver's errors in our words."""
        self._leave_parent()
        try:
            yield
        except self._database.errors as error:
            raise self._failure(error) from error

    def _leave_parent(self) -> None:
        """In a forked child: open connections of its own."""
        if os.getpid() != self._pid:
            self._database.after_fork()
            self._pid = os.getpid()

    def _failure(self, error: Exception) -> StorageFailure:
        return self._database.failure(getattr(error, "orig", None) or error)

    def _passes(self, failure: StorageFailure, idempotent: bool) -> bool:
        error = getattr(failure.__cause__, "orig", None) or failure.__cause__
        if not isinstance(error, self._database.errors):
            return False
        return self._database.rolled_back(error) or (idempotent and self._database.cut_off(error))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[SQLConnection]:
        """A transaction that sees one snapshot."""
        with self._errors(), self._database.transaction(self._database.begin_read) as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[SQLConnection]:
        """A transaction for rows that it locks before it reads them, so that nothing read in it can be outdated."""
        with self._errors(), self._database.transaction(self._database.begin_write) as connection:
            yield connection

    @contextlib.contextmanager
    def _each_by_itself(self) -> Iterator[SQLConnection]:
        """A connection on which every statement is a transaction, so that no lock outlives one."""
        with self._errors(), self._database.connection() as connection:
            yield connection

    # -- life -----------------------------------------------------------------------------------------------------

    @_resent(idempotent=True)
    def upgrade(self) -> None:
        with self._errors():
            schema.upgrade(self._database)

    @_resent(idempotent=True)
    def validate(self) -> None:
        with self._errors():
            schema.validate(self._database)

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # everything here is the parent's
        self._database.close()
        if self._to_dispose is not None:
            self._to_dispose.dispose()

    @_resent(idempotent=True)
    def clear_all(self) -> None:
        with self._writing() as connection:
            connection.execute(self._statements.delete_books)
            connection.execute(self._statements.delete_stray_atoms)

    # -- logbooks -------------------------------------------------------------------------------------------------

    @_resent(idempotent=True, again_if_doubled=True)
    def save_logbook(self, book: LogBook) -> None:
        record = book.to_record()
        flows = [(detail, detail.to_record(), [atom.to_record() for atom in detail]) for detail in book]
        statements, created = self._statements, []
        with self._writing() as connection:
            row = _first(connection, statements.locked_book, key=book.uuid)
            now = connection.execute(statements.now).scalar_one()
            times = {"created_at": now, "updated_at": now}
            if row is None:
                connection.execute(statements.add_book, {**record, **times})
            else:
                connection.execute(
                    statements.change_book, {"key": book.uuid, "meta": record["meta"], "updated_at": now}
                )
            for detail, flow, atoms in flows:
                if _first(connection, statements.flow, key=detail.uuid) is not None:
                    continue
                _refuse_double_names(detail.uuid, atoms)
                connection.execute(statements.add_flow, {**flow, "parent_uuid": book.uuid, **times})
                if atoms:
                    connection.execute(statements.add_atoms, [{**atom, "parent_uuid": detail.uuid} for atom in atoms])
                created.append(detail)
        book.created_at, book.updated_at = now if row is None else row["created_at"], now
        for detail in created:
            detail.created_at = detail.updated_at = now

    @_resent(idempotent=True)
    def get_logbook(self, book_uuid: str, lazy: bool = False) -> LogBook:
        with self._reading() as connection:
            row = _found(connection, self._statements.book, book_uuid, "logbook")
            return LogBook.from_record(row, () if lazy else self._flows_of(connection, book_uuid, False))

    @_resent(idempotent=True)
    def get_logbooks(self, lazy: bool = False) -> list[LogBook]:
        with self._reading() as connection:
            return [
                LogBook.from_record(row, () if lazy else self._flows_of(connection, row["uuid"], False))
                for row in _rows(connection, self._statements.books)
            ]

    @_resent(idempotent=False)
    def destroy_logbook(self, book_uuid: str, force: bool = False) -> None:
        with self._writing() as connection:
            _found(connection, self._statements.locked_book, book_uuid, "logbook")
            flows = _rows(connection, self._statements.locked_flows, key=book_uuid)
            for row in flows:
                if not force:
                    refuse_if_leased(row, row["now"])
            for start in range(0, len(flows), _KEYS_AT_ONCE):
                some = [row["uuid"] for row in flows[start : start + _KEYS_AT_ONCE]]
                connection.execute(self._statements.delete_atoms, {"keys": some})
            connection.execute(self._statements.delete_book, {"key": book_uuid})

    # -- flows ----------------------------------------------------------------------------------------------------

    def _flows_of(self, connection: SQLConnection, book_uuid: str, lazy: bool) -> list[FlowDetail]:
        rows = _rows(connection, self._statements.flows_of_book, key=book_uuid)
        return [self._flow(connection, row, lazy) for row in rows]

    def _flow(self, connection: SQLConnection, row: Mapping[str, Any], lazy: bool) -> FlowDetail:
        return FlowDetail.from_record(row, () if lazy else self._atoms_of(connection, row["uuid"]))

    def _atoms_of(self, connection: SQLConnection, flow_uuid: str) -> list[AtomDetail]:
        rows = _rows(connection, self._statements.atoms_of_flow, key=flow_uuid)
        return [AtomDetail.from_record(row) for row in rows]

    @_resent(idempotent=True)
    def get_flow_details(self, flow_uuid: str, lazy: bool = False) -> FlowDetail:
        with self._reading() as connection:
            return self._flow(connection, _found(connection, self._statements.flow, flow_uuid, "flow"), lazy)

    @_resent(idempotent=True)
    def get_flows_for_book(self, book_uuid: str, lazy: bool = False) -> list[FlowDetail]:
        with self._reading() as connection:
            _found(connection, self._statements.book, book_uuid, "logbook")
            return self._flows_of(connection, book_uuid, lazy)

    @_resent(idempotent=False)
    def update_flow_details(self, detail: FlowDetail) -> None:
        statements, record = self._statements, detail.to_record()
        atoms = [{**atom.to_record(), "parent_uuid": detail.uuid} for atom in detail]
        kept = (*FLOW_OWNERSHIP_COLUMNS, "uuid", "parent_uuid", "created_at")
        with self._writing() as connection:
            row = _found(connection, statements.locked_flow, detail.uuid, "flow")
            refuse_if_leased(row, row["now"])
            values = {column: value for column, value in record.items() if column not in kept}
            values |= {"key": detail.uuid, "revision": row["revision"] + 2, "updated_at": row["now"]}
            connection.execute(statements.change_flow, values)
            known = set(connection.execute(statements.uuids_of_flow, {"key": detail.uuid}).scalars())
            changed = [{**atom, "key": atom["uuid"]} for atom in atoms if atom["uuid"] in known]
            added = [atom for atom in atoms if atom["uuid"] not in known]
            if changed:
                connection.execute(statements.change_atom, changed)
            if added:
                connection.execute(statements.add_atoms, added)

    @_resent(idempotent=True)
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
        with self._reading() as connection:
            last = _found(connection, self._statements.flow, after, "flow") if after is not None else None
            query = self._statements.found(states, name, owner, created_before, limit, last)
            return [FlowDetail.listed(row) for row in _rows(connection, query)]

    # -- atoms ----------------------------------------------------------------------------------------------------

    @_resent(idempotent=True)
    def get_atom_details(self, atom_uuid: str) -> AtomDetail:
        with self._reading() as connection:
            return AtomDetail.from_record(_found(connection, self._statements.atom, atom_uuid, "atom"))

    @_resent(idempotent=True)
    def get_atoms_for_flow(self, flow_uuid: str) -> list[AtomDetail]:
        with self._reading() as connection:
            _found(connection, self._statements.flow, flow_uuid, "flow")
            return self._atoms_of(connection, flow_uuid)

    @_resent(idempotent=False)
    def update_atom_details(self, detail: AtomDetail) -> None:
        statements, kept = self._statements, ("uuid", "parent_uuid", "kind")
        values = {column: value for column, value in detail.to_record().items() if column not in kept}
        with self._writing() as connection:
            stored = _found(connection, statements.atom, detail.uuid, "atom")
            flow = _found(connection, statements.locked_flow, stored["parent_uuid"], "flow")
            refuse_if_leased(flow, flow["now"])
            connection.execute(statements.change_atom, {"key": detail.uuid, **values})
            connection.execute(statements.change_flow, {"key": flow["uuid"], "revision": flow["revision"] + 2})

    # -- hot path -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def largest_value_bytes(self) -> int:  # type: ignore[override]
        with self._errors():
            return self._database.largest_value_bytes

    @functools.cached_property
    def largest_commit_bytes(self) -> int:  # type: ignore[override]
        with self._errors():
            return self._database.largest_commit_bytes

    @_resent(idempotent=True)
    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        fault = commit_faults(self, changes)
        if fault is not None:
            raise ValueTooLarge(fault)
        self._leave_parent()
        try:
            applied = self._database.commit(lease, revision, changes)
        except self._database.errors as error:
            raise self._failure(error) from error
        if not applied:
            self._explain_refusal(lease, revision, changes)
        return revision + 1

    def _explain_refusal(self, lease: Lease, revision: int, changes: Changes) -> None:
        """Nothing was written: was this very commit applied before, is the lease lost, or is an atom missing?"""
        with self._reading() as connection:
            row = _first(connection, self._statements.held_flow, key=lease.flow_uuid, mine=lease.token)
            known = set(connection.execute(self._statements.uuids_of_flow, {"key": lease.flow_uuid}).scalars())
        if row is not None and row["revision"] == revision + 1:
            return
        missing = [uuid for uuid in changes.changed if uuid not in known]
        if row is None or row["revision"] != revision or not missing:
            raise LeaseLost(lease.flow_uuid)
        raise NotFound(f"flow {lease.flow_uuid} has no atom {missing[0]}")

    # -- ownership ------------------------------------------------------------------------------------------------

    @_resent(idempotent=True)
    def claim(
        self,
        *,
        token: str,
        owner: str,
        lease_seconds: float,
        flow_uuid: str | None = None,
        evict_epoch: int | None = None,
    ) -> Claim | None:
        for _scan in range(_SCANS):
            with self._writing() as connection:
                if flow_uuid is not None:
                    row: Any = _found(connection, self._statements.locked_flow, flow_uuid, "flow")
                else:
                    row = _first(connection, self._statements.flow_of_token, mine=token)
                    row = row or _first(connection, self._statements.next_runnable)
                    if row is None and connection.execute(self._statements.runnable).first() is None:
                        return None
                if row is not None:
                    return self._take(connection, row, token, owner, lease_seconds, evict_epoch)
            # Others that scan have locked all that come first: look at what is left.
        return None

    def _take(
        self,
        connection: SQLConnection,
        row: Mapping[str, Any],
        token: str,
        owner: str,
        lease_seconds: float,
        evict_epoch: int | None,
    ) -> Claim:
        """Write a lease into a locked flow, if it is free for it."""
        epoch = row["epoch"]
        if row["token"] != token:
            if evict_epoch is None or evict_epoch != epoch:
                refuse_if_leased(row, row["now"])
            epoch += 1
        expires_at = row["now"] + int(lease_seconds * 1e6)
        values = {"token": token, "owner": owner, "epoch": epoch, "lease_expires_at": expires_at}
        connection.execute(self._statements.change_flow, {"key": row["uuid"], **values})
        lease = Lease(row["uuid"], token, epoch, owner, expires_at)
        return Claim(lease, row["revision"], row["now"], pending_request(row))

    @_resent(idempotent=True)
    def renew(self, lease: Lease, lease_seconds: float) -> Renewal:
        mine = {"key": lease.flow_uuid, "mine": lease.token}
        microseconds = int(lease_seconds * 1e6)
        with self._each_by_itself() as connection:
            connection.execute(self._statements.extend_lease, {**mine, "microseconds": microseconds})
            row = _first(connection, self._statements.held_flow, **mine)
        if row is None:
            raise LeaseLost(lease.flow_uuid)
        lease.expires_at = row["lease_expires_at"]
        return Renewal(lease.expires_at, lease.expires_at - microseconds, pending_request(row))

    @_resent(idempotent=True)
    def release(self, lease: Lease) -> None:
        with self._each_by_itself() as connection:
            connection.execute(self._statements.give_up_lease, {"key": lease.flow_uuid, "mine": lease.token})

    @_resent(idempotent=False)
    def request(self, flow_uuid: str, kind: str, by: str) -> Request:
        check_request_kind(kind)
        with self._writing() as connection:
            row = _found(connection, self._statements.locked_flow, flow_uuid, "flow")
            if row["state"] not in flow_states.UNFINISHED:
                raise InvalidState(f"flow {flow_uuid} has finished: it is {row['state']}")
            sequence = row["request_sequence"] + 1
            values = {"request": kind, "request_by": by, "request_sequence": sequence}
            connection.execute(self._statements.change_flow, {"key": flow_uuid, **values})
        return Request(kind, by, sequence)


def _product(dialect: str) -> type[Database]:
    if dialect not in PRODUCTS:
        raise OptionError(f"{dialect} is not supported; {', '.join(PRODUCTS)} are")
    return PRODUCTS[dialect]


def _rows(connection: SQLConnection, query: Select[Any], **parameters: Any) -> list[Mapping[str, Any]]:
    return list(connection.execute(query, parameters).mappings())  # type: ignore[arg-type]


def _first(connection: SQLConnection, query: Select[Any], **parameters: Any) -> Mapping[str, Any] | None:
    return connection.execute(query, parameters).mappings().first()  # type: ignore[return-value]


def _found(connection: SQLConnection, query: Select[Any], uuid: str, what: str) -> Mapping[str, Any]:
    row = _first(connection, query, key=uuid)
    if row is None:
        raise NotFound(f"there is no {what} {uuid}")
    return row


def _refuse_double_names(flow_uuid: str, atoms: list[Any]) -> None:
    names: dict[str, str] = {}
    for atom in atoms:
        if names.setdefault(atom["name"], atom["uuid"]) != atom["uuid"]:
            raise StorageFailure(f"flow {flow_uuid} has an atom {atom['name']!r} already")
