# SPDX-License-Identifier: Apache-2.0
"""MariaDB 10.6 or later, and MySQL 8.0.17 or later, with PyMySQL."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from sqlalchemy import URL, BigInteger, create_engine, literal_column, text
from sqlalchemy import Connection as SQLConnection
from sqlalchemy import Engine as SQLEngine

from pluggableflow.connection import Changes, Lease
from pluggableflow.exceptions import OptionError, StorageFailure, ValueTooLarge
from pluggableflow.middleware import Record
from pluggableflow_sqlalchemy.database import LOCK_SECONDS, ServerDatabase
from pluggableflow_sqlalchemy.tables import Tables

#: Numbers of errors after which nothing was done: no connection, no more connections, deadlock, a row that changed
#: since the snapshot, a lock that was not to be had.
ROLLED_BACK = frozenset({2002, 2003, 1040, 1213, 1020, 1205})
#: Numbers of errors that end a connection: the server has gone or stops, an administrator or an idle time ended it.
#: PyMySQL tells with 0 that it was closed before.
CUT_OFF = frozenset({0, 2006, 2013, 2055, 1053, 1927, 4031})
_NO_TABLE = 1146
#: Ours: the fence did not hold, or an atom is missing. No server uses it, and PyMySQL reads numbers as 16 bits signed.
_REFUSED = 31_999
_ACCESS_DENIED = frozenset({1044, 1045, 1142, 1698})
_CLOCK = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"


class MySQL(ServerDatabase):
    """Writers lock the rows of the flows or the book that they touch, and wait for no gaps (READ COMMITTED).

    A commit is one statement that the server carries out to the end whatever becomes of the client. The other writes
    are short transactions; MariaDB ends one whose client has paused in it after ``LOCK_SECONDS``.
    """

    driver_parameters = frozenset(
        {
            "bind_address", "connect_timeout", "read_default_file", "read_default_group", "read_timeout", "ssl_ca",
            "ssl_cert", "ssl_check_hostname", "ssl_key", "unix_socket", "write_timeout",
        }
    )  # fmt: skip
    extra = "mysql"
    clock = literal_column(_CLOCK, BigInteger())
    # MariaDB has no index of an expression, so these are columns.
    claim_place = literal_column("claim_place", BigInteger())
    claim_from = literal_column("claim_from", BigInteger())
    begin_read = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    )
    begin_write = ("START TRANSACTION",)

    def __init__(self, engine: SQLEngine, tables: Tables) -> None:
        if engine.dialect.driver != "pymysql":
            raise OptionError(f"MariaDB and MySQL are used with pymysql, not with {engine.dialect.driver}")
        super().__init__(engine, tables, _set_up)

    @classmethod
    def make_engine(cls, url: URL) -> SQLEngine:
        from pymysql.constants import CLIENT

        if "+" not in url.drivername:
            url = url.set(drivername=f"{url.drivername}+pymysql")
        if url.query.get("ssl_check_hostname", "false") == "true" and "ssl_ca" not in url.query:
            raise OptionError("ssl_check_hostname needs ssl_ca, without which no certificate is checked")
        flags = CLIENT.MULTI_STATEMENTS | CLIENT.FOUND_ROWS
        return create_engine(url, connect_args={"client_flag": flags, "charset": "utf8mb4"})

    @functools.cached_property
    def _packet_bytes(self) -> int:
        with self.connection() as connection:
            return int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())

    # A commit is one packet. Quoting can double a text, and the names of columns come on top.
    @property
    def largest_value_bytes(self) -> int:  # type: ignore[override]
        return self._packet_bytes // 4

    @property
    def largest_commit_bytes(self) -> int:  # type: ignore[override]
        return self._packet_bytes // 4

    @contextlib.contextmanager
    def upgrading(self, connection: SQLConnection) -> Iterator[None]:
        # Every change of a table ends the transaction, so the lock is the session's.
        version = connection.dialect.server_version_info or ()
        if version < ((10, 6) if self._is_mariadb else (8, 0, 17)):
            raise StorageFailure(f"{self.where} is too old: MariaDB 10.6 or MySQL 8.0.17 is needed")
        query = "SELECT GET_LOCK(CONCAT(SHA1(DATABASE()), :name), :seconds)"
        name = {"name": self.tables.version[:24], "seconds": 2 * LOCK_SECONDS}
        if connection.execute(text(query), name).scalar() != 1:
            raise StorageFailure(f"{self.where} is being upgraded by another process; try again")
        try:
            yield
        finally:
            connection.execute(text("SELECT RELEASE_LOCK(CONCAT(SHA1(DATABASE()), :name))"), {"name": name["name"]})

    # -- hot path -------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, revision: int, changes: Changes) -> bool:
        flow = {**changes.flow, "revision": revision + 1}
        # What no new atom has a value for stays NULL by itself.
        filled = {column: None for record in changes.added for column, value in record.items() if value is not None}
        mine: Record = {"parent_uuid": lease.flow_uuid, "revision": 1}
        added = [{**{column: record[column] for column in filled}, **mine} for record in changes.added]
        changed = list(changes.changed.values())
        tables, compound = self.tables, self._has_blocks()
        statement = (_block if compound else _statements)(
            (tables.flows.name, tables.atoms.name),
            tuple(flow),
            tuple(added[0]) if added else (),
            len(added),
            tuple(tuple(columns) for columns in changed),
        )
        values = [*flow.values(), lease.flow_uuid, lease.token, revision]
        if changed and not compound:
            values += (lease.flow_uuid, *changes.changed)
        for record in added:
            values += record.values()
        for uuid, columns in changes.changed.items():
            values += columns.values()
            values += (uuid, lease.flow_uuid)
        with self._hot.taken() as connection, contextlib.closing(connection.cursor()) as cursor:
            if not compound:
                _check_flags(connection)
            query = cursor.mogrify(statement, values)
            if len(query) >= self._packet_bytes:
                raise ValueTooLarge(f"a commit of {len(query)} bytes is larger than max_allowed_packet; raise that")
            if compound:
                try:
                    cursor.execute(query)
                except self.engine.dialect.loaded_dbapi.MySQLError as error:
                    if _number(error) != _REFUSED:
                        raise
                    return False
                return True
            cursor.execute(query)
            while not cursor.description:
                cursor.nextset()
            (applied,) = cursor.fetchone()
            return bool(applied)

    def _has_blocks(self) -> bool:
        return self._is_mariadb

    @functools.cached_property
    def _is_mariadb(self) -> bool:
        with self.connection() as connection:
            return "MariaDB" in connection.exec_driver_sql("SELECT VERSION()").scalar_one()

    # -- errors ---------------------------------------------------------------------------------------------------

    def rolled_back(self, error: Any) -> bool:
        return _number(error) in ROLLED_BACK

    def cut_off(self, error: Any) -> bool:
        return _number(error) in CUT_OFF

    def failure(self, error: Any) -> StorageFailure:
        number, said = _number(error), str(error.args[-1]) if error.args else type(error).__name__
        if number == _NO_TABLE:
            return self.never_upgraded()
        if number in (2002, 2003):
            return StorageFailure(f"{self.where} cannot be reached; is it running, and the URL right? ({said})")
        if number == 1049:
            return StorageFailure(f"{self.where} cannot be used; create the database ({said})")
        if number in _ACCESS_DENIED:
            return StorageFailure(f"{self.where}: {said}; GRANT the user what it needs")
        return StorageFailure(f"{self.where}: {said} ({number})")


def _set_up(driver: Any) -> None:
    with contextlib.closing(driver.cursor()) as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        settings = f"innodb_lock_wait_timeout = {LOCK_SECONDS}"
        if "MariaDB" in driver.get_server_info():
            settings += f", idle_transaction_timeout = {LOCK_SECONDS}"
        cursor.execute(f"SET SESSION {settings}")


def _number(error: Any) -> int | None:
    first = error.args[0] if getattr(error, "args", None) else None
    return first if isinstance(first, int) else None


def _check_flags(connection: Any) -> None:
    from pymysql.constants import CLIENT

    if not connection.client_flag & CLIENT.MULTI_STATEMENTS:
        raise OptionError(
            "MySQL needs connections that take several statements at once: create_engine(...,"
            " connect_args={'client_flag': pymysql.constants.CLIENT.MULTI_STATEMENTS})"
        )


@functools.lru_cache(maxsize=512)  # there are as many as sets of columns that change together
def _block(
    names: tuple[str, str], flow: tuple[str, ...], added: tuple[str, ...], count: int, changed: tuple[Any, ...]
) -> str:
    """The commit as one statement, a block: also what undoes it after an error is done by the server.

    Fails with ``_REFUSED`` if it is not applied; an answer of rows would cost the driver more than all the rest.
    """
    atoms, refuse = names[1], f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {_REFUSED}"
    steps = _fence(names, flow) + "; IF ROW_COUNT() = 1 THEN "
    if count:
        row = f"({', '.join(['%s'] * len(added))})"
        steps += f"INSERT INTO `{atoms}` ({', '.join(added)}) VALUES {', '.join([row] * count)}; "
    for columns in changed:
        steps += f"{_update(atoms, columns)}; SET written = written + ROW_COUNT(); "
    return (
        "BEGIN NOT ATOMIC DECLARE written INT DEFAULT 0;"
        " DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END; START TRANSACTION; "
        f"{steps}IF written = {len(changed)} THEN COMMIT; ELSE {refuse}; END IF; ELSE {refuse}; END IF; END"
    )


@functools.lru_cache(maxsize=512)
def _statements(
    names: tuple[str, str], flow: tuple[str, ...], added: tuple[str, ...], count: int, changed: tuple[Any, ...]
) -> str:
    """The same for MySQL, which has no such blocks: statements sent together, which look whether the fence held.

    An error among them (two atoms of one name) leaves the transaction open until its connection, which is closed
    then, has ended. All else of it is done by the server as if it were one statement.
    """
    atoms, held = names[1], "@pluggableflow_held = 1"
    exist = ", ".join(["%s"] * len(changed))
    steps = ["START TRANSACTION", _fence(names, flow)]
    if changed:
        steps[-1] += (
            f" AND (SELECT COUNT(*) FROM `{atoms}` WHERE parent_uuid = %s AND uuid IN ({exist})) = {len(changed)}"
        )
    steps.append("SET @pluggableflow_held = ROW_COUNT()")
    row = f"SELECT {', '.join(['%s'] * len(added))} FROM DUAL WHERE {held}"
    steps += [f"INSERT INTO `{atoms}` ({', '.join(added)}) {row}"] * count
    steps += [f"{_update(atoms, columns)} AND {held}" for columns in changed]
    return "; ".join([*steps, "COMMIT", "SELECT @pluggableflow_held"])


def _fence(names: tuple[str, str], columns: tuple[str, ...]) -> str:
    assign = ", ".join(f"{column} = %s" for column in columns)
    return f"UPDATE `{names[0]}` SET {assign}, updated_at = {_CLOCK} WHERE uuid = %s AND token = %s AND revision = %s"


def _update(atoms: str, columns: tuple[str, ...]) -> str:
    assign = "".join(f"{column} = %s, " for column in columns)
    return f"UPDATE `{atoms}` SET {assign}revision = revision + 1 WHERE uuid = %s AND parent_uuid = %s"
