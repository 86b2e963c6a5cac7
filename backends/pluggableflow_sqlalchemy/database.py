# SPDX-License-Identifier: Apache-2.0
"""What differs between database products, as one small interface, and what the implementations share."""

from __future__ import annotations

import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from sqlalchemy import URL, BigInteger, ColumnElement, create_engine, event, literal_column
from sqlalchemy import Connection as SQLConnection
from sqlalchemy import Engine as SQLEngine
from sqlalchemy.exc import SQLAlchemyError

from pluggableflow import states
from pluggableflow.connection import Changes, Lease, check_prefix, read_attempts
from pluggableflow.exceptions import OptionError, StorageFailure
from pluggableflow_sqlalchemy.tables import Tables

#: How long a statement waits for another client's lock, and how long the server keeps a paused client's transaction.
LOCK_SECONDS = 30
#: How often a call that met a passing error is sent, and the waits between, which grow from the first to the last.
ATTEMPTS = 6
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.02, 1.0
#: Connections of a parent process, kept for good: to close or collect them in the child could disturb the parent.
INHERITED: list[Any] = []

_RUNNABLE = "state IN ('PENDING', 'RESUMING', 'REVERTING', 'RUNNING') AND factory IS NOT NULL"
assert all(f"'{state}'" in _RUNNABLE for state in states.RUNNABLE)
#: What the migrations have made an index of, letter by letter.
CLAIM_PLACE = f"CASE WHEN {_RUNNABLE} AND token IS NULL AND wake_at IS NULL THEN -priority END"
CLAIM_FROM = (
    f"CASE WHEN {_RUNNABLE} AND (token IS NOT NULL OR wake_at IS NOT NULL) THEN CASE"
    " WHEN token IS NULL OR coalesce(lease_expires_at, 0) < coalesce(wake_at, 0) THEN wake_at"
    " ELSE coalesce(lease_expires_at, 0) END END"
)


class Database(ABC):
    """One database product.

    Every connection that ``engine`` makes is in autocommit mode: transactions are begun by name.

    :cvar parameters: what may stand in a URL's query: our options with their allowed values (``None``: any)
    :cvar driver_parameters: parameters that are handed to the driver
    :cvar extra: the extra of our distribution that installs the driver
    :cvar clock: the store's time as an expression, UTC microseconds
    :cvar claim_place: where a flow stands among those that a scan may claim at any time, lowest first; NULL: it is
        none of them. There is an index of it
    :cvar claim_from: the time from which a scan may claim a flow that is leased or asleep; NULL: it is neither, or
        may never be claimed so. There is an index of it, so a scan walks past none of those
    :cvar begin_read: statements that begin a transaction which sees one snapshot
    :cvar begin_write: statements that begin a transaction which reads what is newest
    """

    parameters: ClassVar[Mapping[str, tuple[str, ...] | None]] = {"prefix": None, "attempts": None}
    driver_parameters: ClassVar[frozenset[str]] = frozenset()
    extra: ClassVar[str] = "all"
    clock: ClassVar[ColumnElement[int]]
    claim_place: ClassVar[ColumnElement[int]] = literal_column(f"({CLAIM_PLACE})", BigInteger())
    claim_from: ClassVar[ColumnElement[int]] = literal_column(f"({CLAIM_FROM})", BigInteger())
    begin_read: ClassVar[tuple[str, ...]]
    begin_write: ClassVar[tuple[str, ...]]
    durable = True
    largest_value_bytes = 2**26
    largest_commit_bytes = 2**28

    def __init__(self, engine: SQLEngine, tables: Tables) -> None:
        self.engine, self.tables = engine, tables
        self.where = engine.url.render_as_string(hide_password=True)
        self.errors: tuple[type[Exception], ...] = (SQLAlchemyError, engine.dialect.loaded_dbapi.Error)

    @property
    def index_clock(self) -> ColumnElement[int]:
        """The clock in a condition that an index is to serve."""
        return self.clock

    @classmethod
    @abstractmethod
    def make_engine(cls, url: URL) -> SQLEngine:
        """An Engine for a URL whose query holds parameters of the driver only."""

    @contextlib.contextmanager
    def connection(self) -> Iterator[SQLConnection]:
        """A connection for one transaction, or for statements that are transactions of their own."""
        with self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def transaction(self, begin: tuple[str, ...]) -> Iterator[SQLConnection]:
        """A transaction, begun with ``begin_read`` or ``begin_write``."""
        with self.connection() as connection:
            try:
                for statement in begin:
                    connection.exec_driver_sql(statement)
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with contextlib.suppress(*self.errors):
                    connection.exec_driver_sql("ROLLBACK")
                raise

    @abstractmethod
    def commit(self, lease: Lease, revision: int, changes: Changes) -> bool:
        """Write a commit in one round trip, if the fence holds and every changed atom exists; else ``False``."""

    def prepare(self) -> None:  # noqa: B027  (most have nothing to prepare)
        """Make the place ready that was found to be empty or ours; before :meth:`upgrading`."""

    @contextlib.contextmanager
    def upgrading(self, connection: SQLConnection) -> Iterator[None]:
        """Keeps other processes from upgrading, inside a write transaction."""
        yield

    @abstractmethod
    def rolled_back(self, error: Any) -> bool:
        """Whether a driver's error says that nothing was done and the same call can succeed later."""

    def cut_off(self, error: Any) -> bool:
        """Whether a driver's error leaves open what was done, and the same call can succeed later."""
        return False

    @abstractmethod
    def failure(self, error: Any) -> StorageFailure:
        """What to tell of a driver's error: the place, the fault, the remedy."""

    def exists(self) -> bool:
        """Whether there is a database to connect to; ``False`` where connecting would make an empty one."""
        return True

    def never_upgraded(self) -> StorageFailure:
        return StorageFailure(f"{self.where} has no tables of pluggableflow; run `pluggableflow upgrade` on it")

    def after_fork(self) -> None:
        """Leave the parent's connections alone."""
        INHERITED.append(self.engine.pool)
        self.engine.dispose(close=False)

    def close(self) -> None:
        self.engine.dispose()


class HotConnections:
    """Driver connections for commits, outside the pool: taking one costs nothing and needs no round trip.

    :param set_up: called with each before its first use
    """

    def __init__(self, engine: SQLEngine, set_up: Callable[[Any], None]) -> None:
        self._engine, self._set_up = engine, set_up
        self._free: list[Any] = []

    @contextlib.contextmanager
    def taken(self) -> Iterator[Any]:
        try:
            connection, is_new = self._free.pop(), False
        except IndexError:
            connection, is_new = detached(self._engine.raw_connection()), True
        try:
            if is_new:
                self._set_up(connection)
            yield connection
        except BaseException:
            # It may be in any state; and where the server has gone, the others are dead as well.
            close_quietly(connection)
            self.close()
            raise
        self._free.append(connection)

    def after_fork(self) -> None:
        INHERITED.append(self._free)
        self._free = []

    def close(self) -> None:
        while self._free:
            with contextlib.suppress(IndexError):
                close_quietly(self._free.pop())


def detached(pooled: Any) -> Any:
    """The driver's connection, taken out of its pool."""
    connection = pooled.driver_connection
    pooled.detach()
    return connection


def close_quietly(connection: Any) -> None:
    with contextlib.suppress(Exception):
        connection.close()


def own_engine(engine: SQLEngine, **options: Any) -> SQLEngine:
    """An Engine whose connections are opened as those of ``engine``, but are its own, without a limit.

    So no setting of ours reaches an embedder's connections, and a renewal never waits for a place in a pool.
    """
    source = engine.pool.recreate()
    return create_engine(
        engine.url.set(query={}),
        creator=lambda: detached(source.connect()),
        pool_size=5,
        max_overflow=-1,
        pool_reset_on_return=None,  # every transaction is ended by name
        **options,
    )


class ServerDatabase(Database):
    """A product with a server: connections are cheap to keep, and several may write at the same time.

    :param set_up: called with each new connection of the driver, before its first use
    :param set_up_hot: called after it for one that is for commits
    """

    def __init__(
        self,
        engine: SQLEngine,
        tables: Tables,
        set_up: Callable[[Any], None],
        set_up_hot: Callable[[Any], None] = lambda _driver: None,
    ) -> None:
        engine = own_engine(engine, isolation_level="AUTOCOMMIT")
        event.listen(engine, "connect", lambda driver, _record: set_up(driver))
        super().__init__(engine, tables)
        self._hot = HotConnections(engine, set_up_hot)

    def after_fork(self) -> None:
        self._hot.after_fork()
        super().after_fork()

    def close(self) -> None:
        self._hot.close()
        super().close()


def waits(attempts: int | None) -> Iterator[float]:
    """Seconds to wait before each further attempt, with jitter so that many clients do not come back at once."""
    for attempt in range((ATTEMPTS if attempts is None else attempts) - 1):
        longest = min(_FIRST_WAIT_SECONDS * 4**attempt, _LONGEST_WAIT_SECONDS)
        yield longest * (0.5 + random.random() / 2)


def read_options(kind: type[Database], url: URL) -> tuple[URL, dict[str, str]]:
    """A URL without our options, and these.

    :raises OptionError: names the parameter, and what is allowed
    """
    options = {name: value for name, value in url.query.items() if name not in kind.driver_parameters}
    return url.difference_update_query(list(options)), check_options(kind, options)


def check_options(kind: type[Database], given: Mapping[str, Any]) -> dict[str, str]:
    """The options, if every one is known and possible.

    :raises OptionError: names the parameter, and what is allowed
    """
    options: dict[str, str] = {}
    for name, value in given.items():
        if name not in kind.parameters:
            known = ", ".join(sorted({*kind.parameters, *kind.driver_parameters}))
            raise OptionError(f"{kind.__name__} has no parameter {name!r}; it has {known}")
        allowed = kind.parameters[name]
        if not isinstance(value, str) or (allowed is not None and value.lower() not in allowed):
            raise OptionError(f"{name} must be {' or '.join(allowed or ('one value',))}, not {value!r}")
        options[name] = value if allowed is None else value.lower()
    # Short, because names of indexes are made from it, and PostgreSQL cuts them off after 63 bytes.
    check_prefix(options.get("prefix", ""))
    if "attempts" in options:
        read_attempts(options["attempts"])
    return options
