# SPDX-License-Identifier: Apache-2.0
"""Backs up the SQLite databases of a service: stop it, copy and verify each database, start it again.

If anything fails, the copies are removed and the service is started by reverting. The service is a file here that says
"running" or "stopped"; without databases of yours, two are made for the demonstration.

    pluggableflow run examples/backup_databases.py [-p folder=DIR] [-p databases='["a.sqlite", "b.sqlite"]']
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pluggableflow import task
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow, unordered_flow


class Stop(task.Task):
    """Stops the service; reverting starts it."""

    def __init__(self, service: Path) -> None:
        super().__init__("stop the service")
        self.service = service

    def execute(self) -> None:
        self.service.write_text("stopped")

    def revert(self, **ignored: Any) -> None:
        self.service.write_text("running")


class Start(task.Task):
    """Starts the service."""

    def __init__(self, service: Path) -> None:
        super().__init__("start the service")
        self.service = service

    def execute(self) -> None:
        self.service.write_text("running")


class Backup(task.Task):
    """Copies one database page by page; provides the path of the copy."""

    def __init__(self, database: Path, copy: Path) -> None:
        super().__init__(f"back up {database}", provides=f"copy of {database}")
        self.database, self.copy_path = database, copy

    def execute(self) -> str:
        source = f"{self.database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(source, uri=True)) as read, closing(sqlite3.connect(self.copy_path)) as write:
            read.backup(write)
        return str(self.copy_path)

    def revert(self, **ignored: Any) -> None:
        self.copy_path.unlink(missing_ok=True)


class Verify(task.Task):
    """Lets SQLite check the copy."""

    def __init__(self, database: Path) -> None:
        super().__init__(f"verify {database}", rebind={"copy": f"copy of {database}"}, provides=f"check of {database}")

    def execute(self, copy: str) -> str:
        with closing(sqlite3.connect(copy)) as connection:
            found: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            raise RuntimeError(f"{copy} is damaged: {found}")
        return found


def _demo_databases(folder: Path) -> list[Path]:
    paths = [folder / "customers.sqlite", folder / "orders.sqlite"]
    for path in paths:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, name TEXT)")
            connection.execute("INSERT INTO items (name) VALUES (?)", (path.stem,))
    return paths


def create_flow(folder: str = "backup_databases.demo", databases: list[str] | None = None) -> Flow:
    """The flow that backs up ``databases`` (demonstration ones if none are given) into ``folder``."""
    place = Path(folder).absolute()
    place.mkdir(parents=True, exist_ok=True)
    paths = [Path(each).absolute() for each in databases] if databases else _demo_databases(place)
    service = place / "service.state"
    copies = unordered_flow.Flow("copies")
    for number, path in enumerate(paths):
        copies.add(linear_flow.Flow(str(path)).add(Backup(path, place / f"{number}-{path.name}.bak"), Verify(path)))
    return linear_flow.Flow("backup").add(Stop(service), copies, Start(service))


def report(results: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in sorted(results.items()))


if __name__ == "__main__":
    from pluggableflow import api

    print(report(api.run(None, create_flow())))
