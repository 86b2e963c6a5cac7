# SPDX-License-Identifier: Apache-2.0
"""What the least imaginable engine would take: a plain call, a plain commit of one row."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

from workloads import value


def _unit() -> int:
    return value()


def call_floor(calls: int) -> float:
    """Microseconds of one plain call of a function that returns a distinct value, kept in a dictionary."""
    kept: dict[int, int] = {}
    begun = time.perf_counter()
    for number in range(calls):
        kept[number] = _unit()
    return (time.perf_counter() - begun) / calls * 1e6


def commit_floor(folder: Path, commits: int, journal: str = "wal", synchronous: str = "full") -> float:
    """Microseconds of one plain commit of one row with a distinct value in SQLite, as durable as asked."""
    path = folder / f"floor-{journal}-{synchronous}.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode={journal}")
        database.execute(f"PRAGMA synchronous={synchronous}")
        database.execute("CREATE TABLE floor (id INTEGER PRIMARY KEY, value TEXT)")
        database.execute("INSERT INTO floor VALUES (1, '')")
        begun = time.perf_counter()
        for _ in range(commits):
            database.execute("BEGIN IMMEDIATE")
            database.execute("UPDATE floor SET value = ? WHERE id = 1", (str(value()),))
            database.execute("COMMIT")
        return (time.perf_counter() - begun) / commits * 1e6
