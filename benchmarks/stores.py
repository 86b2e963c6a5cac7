# SPDX-License-Identifier: Apache-2.0
"""Where flows are kept while they are measured: private servers and folders, which go when the benchmark ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

import servers

#: Store to what starts its server in a folder; with ``None`` its address is the folder.
STARTS: dict[str, tuple[type[servers.Server], dict[str, Any]] | None] = {
    "sqlite": None,
    "directory": None,
    "postgresql": (servers.PostgreSQLServer, {}),
    "mariadb": (servers.MariaDBServer, {}),
    "mongodb": (servers.MongoDBServer, {}),
    "mongodb-replica-set": (servers.MongoDBServer, {"replica_set": True}),
    "redis": (servers.RedisServer, {}),
    "redis-aof": (servers.RedisServer, {"aof": True}),
}
WHERE = """Private servers, with fsync on, and files are in a new folder below that of temporary files (TMPDIR): put
that on the disk to be measured. Where a server is not installed, one line says so and the store is left out. A server
that runs already is used instead if its URL is in the environment, PLUGGABLEFLOW_TEST_POSTGRESQL_URL, ..._MARIADB_URL,
..._MONGODB_URL, ..._MONGODB_REPLICA_SET_URL, ..._REDIS_URL, ..._REDIS_AOF_URL; its own tables, keys and collections are
left alone, and those of the benchmark, whose names begin with bench_, are removed. Servers and files also go on Ctrl-C
and on SIGTERM."""


def leave(*_signal: object) -> None:
    """End by unwinding, so that who stops the benchmark finds none of its files or servers."""
    sys.exit(143)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of a block that must not stop in the middle."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


class Stores(contextlib.ExitStack):
    """Starts each server when it is first asked for, and ends all of them."""

    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__()
        self._say = say
        self._addresses: dict[str, str | None] = {}
        self._folder: Path | None = None

    def address(self, store: str) -> str | None:
        """The URL of a server, or a folder; ``None``, and a line of why, if there is none."""
        if store not in self._addresses:
            self._addresses[store] = self._open(store)
        return self._addresses[store]

    def is_private(self, store: str) -> bool:
        """Whether it goes with the benchmark."""
        return _given(store) is None

    def close(self) -> None:
        with deferred():
            super().close()

    def __exit__(self, *error: Any) -> bool | None:
        with deferred():
            return super().__exit__(*error)

    def _open(self, store: str) -> str | None:
        if self._folder is None:
            with deferred():
                made = tempfile.TemporaryDirectory(prefix="pluggableflow-", ignore_cleanup_errors=True)
                self._folder = Path(self.enter_context(made))
        folder, start = self._folder / store, STARTS[store]
        given = _given(store)
        if start is None:
            folder.mkdir()
            return str(folder)
        if given is not None:
            return given
        kind, options = start
        try:
            with deferred():
                server = kind(folder, **options)
                # A replica set would take its time to hand over. PostgreSQL leaves shared memory if it is killed.
                self.callback(server.stop if kind is servers.PostgreSQLServer else server.kill)
        except servers.ServerMissing as missing:
            self._say(f"{store} is not measured: {missing}")
            return None
        return str(server.url)


def _given(store: str) -> str | None:
    return os.environ.get(f"PLUGGABLEFLOW_TEST_{store.upper().replace('-', '_')}_URL") if STARTS[store] else None
