# SPDX-License-Identifier: Apache-2.0
"""Servers of a test's own, which it may kill; what they acknowledge is synchronised before."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import servers

from tests.conftest import start_or_skip


class MongoDBServer(servers.MongoDBServer):
    """Given up after a second, rather than ten."""

    @property
    def url(self) -> str:
        return f"{super().url}&serverSelectionTimeoutMS=1000"


KINDS: dict[str, Callable[[Path], servers.Server]] = {
    "postgresql": servers.PostgreSQLServer,
    "mariadb": servers.MariaDBServer,
    "mongodb_replica_set": lambda folder: MongoDBServer(folder, replica_set=True),
    "redis_aof": lambda folder: servers.RedisServer(folder, aof=True),
}


@contextlib.contextmanager
def killable(kind: str) -> Iterator[servers.Server]:
    """A server. Not below pytest's folder, which every new run of pytest closes to other users."""
    with tempfile.TemporaryDirectory() as folder:
        server: servers.Server = start_or_skip(lambda: KINDS[kind](Path(folder) / "server"))
        try:
            yield server
        finally:
            server.kill()
