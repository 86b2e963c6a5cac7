# SPDX-License-Identifier: Apache-2.0
"""One store, seen past this package: its plainest durable write, its log, its durability, what is left in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import trips
from counting import Modes
from stores import deferred


class Place(contextlib.AbstractContextManager["Place"], ABC):
    """Where the flows of a benchmark are.

    :param address: URL of a server, or a folder
    :param prefix: what the names of all that is written begin with
    :ivar library: the same by the library of our backend, once the floor is prepared; ``None``: that is the driver
    :ivar is_private: the server or the folder goes with the benchmark, so who breaks off need not tidy up
    """

    def __init__(self, address: str, prefix: str) -> None:
        self.address, self.prefix = address, prefix
        self.is_private = False
        self.library: SQLAlchemyFloor | None = None

    @abstractmethod
    def url(self) -> str:
        """For ``api.connect``."""

    @abstractmethod
    def trips(self) -> trips.Trips:
        """A counter, to be asked for before a connection is made."""

    @abstractmethod
    def prepare_floor(self) -> None:
        """Make the record that :meth:`write` writes."""

    @abstractmethod
    def write(self, text: str) -> None:
        """The floor: one plain write of one record, by the same driver, as durable as a commit."""

    @abstractmethod
    def durability(self) -> str:
        """What decides how durable an acknowledged write is, as read back where that is possible."""

    def log_bytes(self) -> int | None:
        """How much the store has written to its log so far; ``None`` where it cannot be read or there is no log."""
        return None

    def keep_log(self) -> None:
        """From now on the log is to grow only."""

    @abstractmethod
    def remove(self) -> None:
        """Delete all that begins with the prefix."""

    @abstractmethod
    def close(self) -> None:
        """Give back what this object has opened."""

    def __exit__(self, kind: object, *_error: object) -> None:
        with deferred():
            try:
                if kind is None or not self.is_private:
                    self.remove()
            finally:
                self.close()


def with_prefix(address: str, prefix: str) -> str:
    """An address with our parameter, instead of another prefix that it may have."""
    bare = without_prefix(address)
    return f"{bare}{'&' if '?' in bare else '?'}prefix={prefix}"


def without_prefix(address: str) -> str:
    base, _, query = address.partition("?")
    rest = "&".join(part for part in query.split("&") if part and not part.startswith("prefix="))
    return f"{base}?{rest}" if rest else base


class SQLAlchemyFloor:
    """One row, written as any user of SQLAlchemy does: a transaction of a pooled connection, an UPDATE built once."""

    def __init__(self, engine: Any, table: str) -> None:
        from sqlalchemy import Column, Integer, MetaData, String, Table

        self._engine = engine
        floor = Table(table, MetaData(), Column("id", Integer, primary_key=True), Column("value", String(255)))
        self._update = floor.update().where(floor.c.id == 1)

    def write(self, text: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(self._update, {"value": text})


class ServerPlace(Place):
    def url(self) -> str:
        return with_prefix(self.address, self.prefix)


class SQLPlace(ServerPlace):
    """A server that SQLAlchemy connects to."""

    durability_query = log_query = ""

    @abstractmethod
    def product(self) -> Any:
        """The class of our package that knows how its driver is to be used."""

    def __init__(self, address: str, prefix: str) -> None:
        from sqlalchemy import make_url

        super().__init__(address, prefix)
        self._engine = self.product().make_engine(make_url(without_prefix(address)))
        self.sql = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._cursor = self.sql.connection.cursor()

    def prepare_floor(self) -> None:
        table = f"{self.prefix}floor"
        self.sql.exec_driver_sql(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, value VARCHAR(255))")
        self.sql.exec_driver_sql(f"INSERT INTO {table} VALUES (1, '')")
        self._update = f"UPDATE {table} SET value = %s WHERE id = 1"
        self.library = SQLAlchemyFloor(self._engine, table)

    def write(self, text: str) -> None:
        self._cursor.execute(self._update, (text,))

    def durability(self) -> str:
        return str(self.sql.exec_driver_sql(self.durability_query).scalar())

    def log_bytes(self) -> int | None:
        return int(self.sql.exec_driver_sql(self.log_query).scalar())

    def remove(self) -> None:
        for name in ("atoms", "flows", "logbooks", "version", "floor"):
            self.sql.exec_driver_sql(f"DROP TABLE IF EXISTS {self.prefix}{name}")

    def close(self) -> None:
        self._cursor.close()
        self.sql.close()
        self._engine.dispose()


class PostgreSQLPlace(SQLPlace):
    durability_query = (
        "SELECT 'fsync=' || current_setting('fsync') || ',synchronous_commit=' || current_setting('synchronous_commit')"
    )
    log_query = "SELECT pg_current_wal_lsn() - '0/0'"

    def product(self) -> Any:
        from pluggableflow_sqlalchemy.postgresql import PostgreSQL

        return PostgreSQL

    def trips(self) -> trips.Trips:
        return trips.PsycopgTrips()


class MariaDBPlace(SQLPlace):
    durability_query = "SELECT CONCAT('innodb_flush_log_at_trx_commit=', @@innodb_flush_log_at_trx_commit)"
    log_query = (
        "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'innodb_os_log_written'"
    )

    def product(self) -> Any:
        from pluggableflow_sqlalchemy.mysql import MySQL

        return MySQL

    def trips(self) -> trips.Trips:
        return trips.PyMySQLTrips()


class MongoDBPlace(ServerPlace):
    def __init__(self, address: str, prefix: str) -> None:
        from pymongo import MongoClient, WriteConcern

        super().__init__(address, prefix)
        self.client: Any = MongoClient(without_prefix(address))
        self.database = self.client.get_default_database("pluggableflow")
        concern = WriteConcern("majority", j=True)
        self._floor = self.database.get_collection(f"{prefix}floor", write_concern=concern)

    def trips(self) -> trips.Trips:
        return trips.PyMongoTrips()

    def prepare_floor(self) -> None:
        self._floor.insert_one({"_id": 1, "value": ""})

    def write(self, text: str) -> None:
        self._floor.update_one({"_id": 1}, {"$set": {"value": text}})

    def durability(self) -> str:
        return "w=majority,j=true"

    def log_bytes(self) -> int | None:
        status = self.client.admin.command("serverStatus")
        return int(status["wiredTiger"]["log"]["log bytes written"])

    def remove(self) -> None:
        for name in ("atoms", "flows", "logbooks", "version", "floor"):
            self.database.drop_collection(f"{self.prefix}{name}")

    def close(self) -> None:
        self.client.close()


class RedisPlace(ServerPlace):
    def __init__(self, address: str, prefix: str) -> None:
        import redis

        super().__init__(address, prefix)
        self.client: Any = redis.Redis.from_url(without_prefix(address))

    def trips(self) -> trips.Trips:
        return trips.RedisTrips()

    def prepare_floor(self) -> None:
        self.write("")

    def write(self, text: str) -> None:
        self.client.set(f"{self.prefix}floor", text)

    def durability(self) -> str:
        settings = {**self.client.config_get("appendonly"), **self.client.config_get("appendfsync")}
        kept = settings if settings["appendonly"] == "yes" else {"appendonly": "no"}
        return ",".join(f"{name}={value}" for name, value in sorted(kept.items()))

    def log_bytes(self) -> int | None:
        found = self.client.info("persistence")
        return int(found["aof_current_size"]) if found["aof_enabled"] else None

    def remove(self) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            for number, key in enumerate(self.client.scan_iter(f"{self.prefix}*", count=1000)):
                pipeline.unlink(key)
                if number % 1000 == 999:
                    pipeline.execute()
            pipeline.execute()

    def close(self) -> None:
        self.client.close()


class SQLitePlace(Place):
    """A file in a folder, in the modes of the package: a log, and each commit synchronised."""

    def __init__(self, address: str, prefix: str) -> None:
        super().__init__(address, prefix)
        self._opened: list[sqlite3.Connection] = []
        self._engine: Any = None
        self._modes = Modes()

    def path(self) -> Path:
        return Path(self.address) / f"{self.prefix}flows.db"

    def url(self) -> str:
        return with_prefix(f"sqlite:///{self.path()}", self.prefix)

    def trips(self) -> trips.Trips:
        return trips.SQLiteTrips()

    def open(self, path: Path) -> sqlite3.Connection:
        made = sqlite3.connect(path, isolation_level=None)
        made.execute("PRAGMA journal_mode=wal")
        made.execute("PRAGMA synchronous=full")
        self._opened.append(made)
        return made

    def prepare_floor(self) -> None:
        from sqlalchemy import create_engine

        self._floor = self.open(Path(self.address) / f"{self.prefix}floor.db")
        self._floor.execute("CREATE TABLE floor (id INTEGER PRIMARY KEY, value TEXT)")
        self._floor.execute("INSERT INTO floor VALUES (1, '')")
        # The log is kept in the file; the other mode is SQLite's own.
        self._engine = create_engine(f"sqlite:///{self.address}/{self.prefix}floor.db")
        self.library = SQLAlchemyFloor(self._engine, "floor")

    def write(self, text: str) -> None:
        self._floor.execute("UPDATE floor SET value = ? WHERE id = 1", (text,))

    def durability(self) -> str:
        """Of the connections that the package has opened by now.

        :raises RuntimeError: those of the floor are in other modes
        """
        # A file that is still empty is in another journal mode when it is first looked at.
        if ("wal", "full") not in self._modes.found or self._modes.synchronous() != "full":
            raise RuntimeError(f"the floor does not know the modes {self._modes.found}")
        return "journal_mode=wal,synchronous=full"

    def log_bytes(self) -> int | None:
        return self.path().with_name(f"{self.path().name}-wal").stat().st_size

    def keep_log(self) -> None:
        """A reader that stays at its snapshot keeps the log from being put back to its start."""
        reader = self.open(self.path())
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def remove(self) -> None:
        for path in Path(self.address).glob(f"{self.prefix}*"):
            path.unlink()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
        for each in self._opened:
            each.close()


class DirectoryPlace(Place):
    def __init__(self, address: str, prefix: str) -> None:
        super().__init__(address, prefix)
        self._file: int | None = None

    def _path(self) -> Path:
        return Path(self.address) / f"{self.prefix}flows"

    def url(self) -> str:
        return f"dir://{self._path()}"

    def trips(self) -> trips.Trips:
        return trips.Syncs()

    def prepare_floor(self) -> None:
        path = Path(self.address) / f"{self.prefix}floor"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(self, text: str) -> None:
        assert self._file is not None
        os.write(self._file, f"{text}\n".encode())
        os.fsync(self._file)

    def durability(self) -> str:
        return "fsync"

    def log_bytes(self) -> int | None:
        return sum(path.stat().st_size for path in self._path().glob("books/*/*/journal-*"))

    def remove(self) -> None:
        shutil.rmtree(self._path(), ignore_errors=True)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)


PLACES: dict[str, type[Place]] = {
    "sqlite": SQLitePlace, "directory": DirectoryPlace, "postgresql": PostgreSQLPlace, "mariadb": MariaDBPlace,
    "mongodb": MongoDBPlace, "mongodb-replica-set": MongoDBPlace, "redis": RedisPlace, "redis-aof": RedisPlace,
}  # fmt: skip
