# SPDX-License-Identifier: Apache-2.0
"""Counts what a driver sends: commands, and round trips, which are times that it sends something and waits for it.

Several commands that are sent together are one round trip. Each counter is made before the connections that it is to
count, and counts all that its driver opens from then on, whoever opened it; what connecting itself takes and the
renewals of leases, one in some seconds, are counted as well. Counting slows a run, so nothing is timed in it.
"""

from __future__ import annotations

import functools
import os
import tempfile
import threading
from abc import ABC, abstractmethod
from typing import Any

from counting import Statements


class Trips(ABC):
    """Counts of one driver."""

    @abstractmethod
    def seen(self) -> dict[str, int]:
        """``round_trips`` and ``statements`` so far; a word that is not there could not be counted."""

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """Give back what counting took; what is open goes on."""


class _Turns:
    """Round trips of connections that each send and receive in turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        self.trips = self.commands = 0

    def sent(self, connection: object) -> None:
        with self._lock:
            if id(connection) not in self._waiting:
                self._waiting.add(id(connection))
                self.trips += 1

    def received(self, connection: object) -> None:
        with self._lock:
            self._waiting.discard(id(connection))

    def commanded(self) -> None:
        with self._lock:
            self.commands += 1


def _before(owner: Any, method: str, note: Any) -> None:
    """Call ``note`` with the object each time before one of its methods is called."""
    real = getattr(owner, method)

    @functools.wraps(real)
    def noted(self: Any, *args: Any, **options: Any) -> Any:
        note(self)
        return real(self, *args, **options)

    setattr(owner, method, noted)


class RedisTrips(Trips):
    """Of redis-py: what is packed, by it or for it, is a command, and a read ends a trip."""

    def __init__(self) -> None:
        from pluggableflow_redis import client
        from redis import connection

        self._turns = _Turns()
        _before(connection.AbstractConnection, "send_packed_command", self._turns.sent)
        _before(connection.AbstractConnection, "read_response", self._turns.received)
        for serializer in (connection.PythonRespSerializer, connection.HiredisRespSerializer):
            _before(serializer, "pack", lambda _serializer: self._turns.commanded())
        _before(client, "_request", lambda _parts: self._turns.commanded())

    def seen(self) -> dict[str, int]:
        return {"round_trips": self._turns.trips, "statements": self._turns.commands}


class PyMySQLTrips(Trips):
    """Of PyMySQL: a statement is what it executes, however many are in its text, and a read ends a trip."""

    def __init__(self) -> None:
        from pymysql.connections import Connection

        self._turns = _Turns()
        _before(Connection, "_write_bytes", self._turns.sent)
        _before(Connection, "_read_bytes", self._turns.received)
        _before(Connection, "_execute_command", lambda _connection: self._turns.commanded())

    def seen(self) -> dict[str, int]:
        return {"round_trips": self._turns.trips, "statements": self._turns.commands}


class PsycopgTrips(Trips):
    """Of psycopg 3, from libpq's own trace of messages: a statement is a Query or an Execute."""

    def __init__(self) -> None:
        from sqlalchemy import event, pool

        self._files: list[tuple[Any, Any]] = []
        self._missed = False
        event.listen(pool.Pool, "connect", self._trace)

    def _trace(self, driver: Any, _record: Any) -> None:
        pgconn = getattr(driver, "pgconn", None)
        if pgconn is None:
            self._missed = True
        elif all(known is not driver for known, _ in self._files):  # a pool over another pool tells it twice
            from psycopg.pq import Trace

            file = tempfile.TemporaryFile()  # noqa: SIM115  (open until close)
            self._files.append((driver, file))
            pgconn.trace(os.dup(file.fileno()))  # libpq's stream is that descriptor's for good
            pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)

    def seen(self) -> dict[str, int]:
        trips = statements = 0
        if self._missed:
            return {}
        for _, file in self._files:
            size = os.fstat(file.fileno()).st_size
            came_back = True
            for line in os.pread(file.fileno(), size, 0).split(b"\n"):
                if line.startswith(b"F\t"):
                    trips += came_back
                    came_back = False
                    statements += line.split(b"\t", 3)[2].startswith((b"Query", b"Execute"))
                elif line.startswith(b"B\t"):
                    came_back = True
        return {"round_trips": trips, "statements": statements}

    def close(self) -> None:
        for driver, file in self._files:
            if not driver.closed:
                driver.pgconn.untrace()
            file.close()


class PyMongoTrips(Trips):
    """Of PyMongo, by its own hook; each of its commands is a round trip. It does not tell of its heartbeats."""

    def __init__(self) -> None:
        from pymongo import monitoring

        turns = self._turns = _Turns()

        class Listener(monitoring.CommandListener):
            def started(self, event: Any) -> None:
                turns.commanded()

            def succeeded(self, event: Any) -> None:
                pass

            def failed(self, event: Any) -> None:
                pass

        monitoring.register(Listener())

    def seen(self) -> dict[str, int]:
        return {"round_trips": self._turns.commands, "statements": self._turns.commands}


class SQLiteTrips(Trips):
    """Of SQLite, which has no server to go to."""

    def __init__(self) -> None:
        self._statements, self._counted = Statements(), 0

    def seen(self) -> dict[str, int]:
        taken = self._statements.take()
        self._counted += taken["reads"] + taken["writes"]
        return {"statements": self._counted}


class Syncs(Trips):
    """Of a folder, which has no server and no language: how often it synchronises a file or a folder."""

    def __init__(self) -> None:
        self._turns = _Turns()
        for name in ("fsync", "fdatasync"):
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: Any) -> Any:
        def sync(descriptor: int) -> None:
            self._turns.commanded()
            real(descriptor)

        return sync

    def seen(self) -> dict[str, int]:
        return {"syncs": self._turns.commands}
