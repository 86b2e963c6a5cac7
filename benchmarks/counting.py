# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks count: function calls of the interpreter, SQL of the driver, bytes handed to the system."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "WITH")
_SYNCHRONOUS = ("off", "normal", "full", "extra")


class Calls:
    """Counts the calls of Python and of C functions in this thread; a generator that goes on counts as a call."""

    def __init__(self) -> None:
        self._seen = {"call": 0, "return": 0, "c_call": 0, "c_return": 0, "c_exception": 0}

    def __enter__(self) -> Calls:
        seen = self._seen

        def count(_frame: Any, event: str, _argument: Any) -> None:
            seen[event] += 1

        sys.setprofile(count)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.setprofile(None)

    def take(self) -> tuple[int, int]:
        """Calls of Python and of C functions since the last time."""
        taken = self._seen["call"], self._seen["c_call"]
        self._seen["call"] = self._seen["c_call"] = 0
        return taken


class Statements:
    """Counts what every SQLite connection that SQLAlchemy opens from now on executes, whoever opened it.

    The driver reports each statement that it runs, so the counts mean the same for each package. PRAGMA is not
    counted, BEGIN and COMMIT are not statements, and a commit counts when its transaction, in the same connection,
    executed at least one INSERT, UPDATE, DELETE or REPLACE.
    """

    def __init__(self) -> None:
        from sqlalchemy import event, pool

        self._counts: list[dict[str, int]] = []
        event.listen(pool.Pool, "connect", self._trace)

    def _trace(self, driver: Any, _record: Any) -> None:
        counts = {"reads": 0, "writes": 0, "commits": 0, "pending": 0}
        self._counts.append(counts)

        def ran(statement: str) -> None:
            word = statement.lstrip()[:8].upper().split(None, 1)[0].rstrip(";")
            if word in ("COMMIT", "END"):
                counts["commits"] += counts["pending"] > 0
                counts["pending"] = 0
            elif word in ("BEGIN", "ROLLBACK"):
                counts["pending"] = 0
            elif word in _WRITES:
                counts["writes"] += 1
                counts["pending"] += 1
            elif word == "SELECT":
                counts["reads"] += 1

        driver.set_trace_callback(ran)

    def take(self) -> dict[str, int]:
        """Reads, writes and commits that wrote, since the last time."""
        taken = {key: sum(each[key] for each in self._counts) for key in ("reads", "writes", "commits")}
        for each in self._counts:
            each.update(dict.fromkeys(taken, 0))
        return taken


class Modes:
    """Reads back how durable the SQLite connections are that SQLAlchemy hands out, once for each connection."""

    def __init__(self) -> None:
        from sqlalchemy import event, pool

        self.found: set[tuple[str, str]] = set()
        self._key = f"benchmark-{id(self)}"
        event.listen(pool.Pool, "checkout", self._read)

    def _read(self, driver: Any, record: Any, _proxy: Any) -> None:
        if record.info.get(self._key) is driver:
            return
        record.info[self._key] = driver
        if isinstance(driver, sqlite3.Connection) or hasattr(driver, "set_trace_callback"):
            journal = driver.execute("PRAGMA journal_mode").fetchone()[0]
            self.found.add((journal, _SYNCHRONOUS[driver.execute("PRAGMA synchronous").fetchone()[0]]))

    def journal(self) -> str:
        return ",".join(sorted({journal for journal, _ in self.found}))

    def synchronous(self) -> str:
        return ",".join(sorted({synchronous for _, synchronous in self.found}))


def file_bytes(database: Path) -> int:
    """Bytes of the database and its log; a log is put back to its start at checkpoints, so both are counted."""
    files = [database, *(database.with_name(database.name + end) for end in ("-wal", "-journal"))]
    found = 0
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def written_bytes() -> int | None:
    """Bytes that this process handed to the system so far, where the system tells it; no checkpoint takes any back."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/io").read_text().splitlines():
            if line.startswith("wchar:"):
                return int(line.split()[1])
    return None


class Growth:
    """How much the files of a database grew, and how much was written, while something ran."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._files, self._written = file_bytes(database), written_bytes()

    def a_task(self, count: int) -> dict[str, int]:
        """Bytes a task, as columns of a row.

        :raises RuntimeError: nothing was written, so the figures would be those of a store that skips writes
        """
        grown, now = file_bytes(self._database) - self._files, written_bytes()
        found = {"log_bytes_a_task": round(grown / count)}
        if now is not None and self._written is not None:
            written = now - self._written
            found["written_bytes_a_task"] = round(written / count)
            if written < count:
                raise RuntimeError(f"{count} tasks wrote {written} bytes: they were not stored")
        return found


def distinct_values(database: Path, query: str, expected: int) -> int:
    """How many distinct values a finished run left in the store.

    :raises RuntimeError: not the expected number
    """
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found = int(connection.execute(query).fetchone()[0])
    if found != expected:
        raise RuntimeError(f"{database.name} holds {found} distinct values, not {expected}")
    return found


@contextlib.contextmanager
def calls_or_nothing(wanted: bool) -> Iterator[Calls | None]:
    """A counter of calls that runs, or ``None``."""
    if not wanted:
        yield None
        return
    with Calls() as calls:
        yield calls
