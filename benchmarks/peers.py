# SPDX-License-Identifier: Apache-2.0
"""One run of a peer, each by its own recommended API and as durable as it is by itself."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from counting import Growth, Modes, Statements, distinct_values
from floors import commit_floor
from workloads import WARM_UP, make, value

#: Peer to the package it needs.
PACKAGES = {"taskflow": "taskflow", "dbos": "dbos", "dbos-wal": "dbos"}
#: Largest size at which a peer is measured, by peer and store: beyond, it takes too long. No entry: no such store.
LIMITS = {
    ("taskflow", "none"): 1000, ("taskflow", "sqlite"): 100,
    ("dbos", "sqlite"): 10000, ("dbos-wal", "sqlite"): 10000,
}  # fmt: skip
#: The ways in which DBOS expresses a pattern, each with its largest size.
DBOS_WAYS = {
    "linear": {"steps in a row": 10000},
    "unordered": {"steps gathered": 1000, "steps on a queue": 1000},
}


def missing(peer: str) -> str | None:
    """A line that says how to get a peer that is not installed here, or ``None`` if it is."""
    package = PACKAGES[peer]
    if importlib.util.find_spec(package):
        return None
    return f"{peer} is not measured: {package} is not installed here (pip install {package}, in a venv of its own)"


def ways(peer: str, store: str, pattern: str, count: int) -> list[str]:
    """The ways in which a peer runs this; none if it cannot, or not in a bearable time."""
    if count > LIMITS.get((peer, store), 0):
        return []
    if peer == "taskflow":
        return ["flow"]
    return [way for way, limit in DBOS_WAYS.get(pattern, {}).items() if count <= limit]


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case of a peer in this process and return its row; ``case["what"]`` is time or statements."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "peer.db"
        durable = case["store"] == "sqlite"
        modes = Modes() if durable else None
        statements = Statements() if durable and case["what"] == "statements" else None
        run = _taskflow if case["peer"] == "taskflow" else _dbos
        timings, found = run(case, database, statements)
        row = {**case}
        if case["what"] == "time":
            row |= {f"{phase}_us": round(spent / case["count"] * 1e6, 2) for phase, spent in timings.items()}
        row |= found
        if modes is not None:
            row |= {"journal": modes.journal(), "synchronous": modes.synchronous()}
            if case["what"] == "time" and len(modes.found) == 1:
                floor = commit_floor(Path(folder), min(case["count"], 1000), *modes.found.copy().pop())
                row |= {"floor_us": round(floor, 1), "run_to_floor": round(row["run_us"] / floor, 2)}
        return row


def _watched(run: Callable[[], Any], database: Path, count: int, statements: Statements | None) -> dict[str, Any]:
    """Run, and the columns of what was written meanwhile; ``seconds`` is the time."""
    growth = Growth(database) if database.exists() else None
    if statements is not None:
        statements.take()
    begun, processor = time.perf_counter(), time.process_time()
    run()
    found: dict[str, Any] = {"seconds": time.perf_counter() - begun}
    found["run_cpu_us"] = round((time.process_time() - processor) / count * 1e6, 2)
    if statements is not None:
        found |= {f"{key}_a_task": round(number / count, 3) for key, number in statements.take().items()}
    if growth is not None:
        found |= growth.a_task(count)
    return found


def _taskflow(
    case: dict[str, Any], database: Path, statements: Statements | None
) -> tuple[dict[str, float], dict[str, Any]]:
    import taskflow.engines
    from taskflow import task
    from taskflow.patterns import graph_flow, linear_flow, unordered_flow
    from taskflow.persistence import backends

    names = SimpleNamespace(
        Task=task.Task, linear_flow=linear_flow, unordered_flow=unordered_flow, graph_flow=graph_flow
    )
    backend, count = None, case["count"]
    if case["store"] == "sqlite":
        backend = backends.fetch({"connection": f"sqlite:///{database}"})
        with contextlib.closing(backend.get_connection()) as connection:
            connection.upgrade()
    warm = taskflow.engines.load(make(names, case["pattern"], WARM_UP), engine=case["engine"])
    with contextlib.suppress(ArithmeticError):
        warm.run()
    at = [time.perf_counter()]
    flow = make(names, case["pattern"], count)
    at.append(time.perf_counter())
    engine = taskflow.engines.load(flow, backend=backend, engine=case["engine"])
    at.append(time.perf_counter())
    engine.compile()
    at.append(time.perf_counter())
    engine.prepare()
    at.append(time.perf_counter())
    phases = ("build", "load", "compile", "prepare")
    timings = {phase: end - begin for phase, begin, end in zip(phases, at[:-1], at[1:], strict=True)}

    def run() -> None:
        with contextlib.suppress(ArithmeticError):
            engine.run()

    found = _watched(run, database, count, statements)
    timings["run"] = found.pop("seconds")
    timings["total"] = sum(timings.values())
    if backend is not None:
        backend.close()
        if case["pattern"] != "revert":
            stored = "SELECT count(DISTINCT results) FROM atomdetails WHERE name GLOB 't[0-9]*'"
            found["distinct_values"] = distinct_values(database, stored, count)
    return timings, found


def _dbos(
    case: dict[str, Any], database: Path, statements: Statements | None
) -> tuple[dict[str, float], dict[str, Any]]:
    from dbos import DBOS, DBOSConfig

    count = case["count"]
    if case["peer"] == "dbos-wal":
        with contextlib.closing(sqlite3.connect(database)) as made:
            made.execute("PRAGMA journal_mode=WAL")  # the file remembers it; DBOS leaves it as it finds it
    DBOS(config=DBOSConfig(name="bench", system_database_url=f"sqlite:///{database}", log_level="ERROR"))
    try:

        @DBOS.step()
        def unit() -> int:
            return value()

        @DBOS.step()
        async def gathered_unit() -> int:
            return value()

        @DBOS.workflow()
        def in_a_row(number: int) -> int:
            return len([unit() for _ in range(number)])

        @DBOS.workflow()
        async def gathered(number: int) -> int:
            return len(await asyncio.gather(*(gathered_unit() for _ in range(number))))

        @DBOS.workflow()
        def queued(number: int) -> int:
            return len([handle.get_result() for handle in [queue.enqueue(unit) for _ in range(number)]])

        runs: dict[str, Callable[[], Any]] = {
            "steps in a row": lambda: in_a_row(count),
            "steps gathered": lambda: asyncio.run(gathered(count)),
            "steps on a queue": lambda: queued(count),
        }
        begun = time.perf_counter()
        DBOS.launch()
        if case["way"] == "steps on a queue":
            queue = DBOS.register_queue("bench")
        launched = time.perf_counter() - begun
        count = WARM_UP
        runs[case["way"]]()
        count = case["count"]
        found = _watched(runs[case["way"]], database, count, statements)
    finally:
        DBOS.destroy(destroy_registry=True)
    spent = found.pop("seconds")
    found["launch_ms"] = round(launched * 1e3, 1)
    stored = "SELECT count(DISTINCT output) FROM operation_outputs WHERE function_name LIKE '%unit'"
    found["distinct_values"] = distinct_values(database, stored, WARM_UP + count)
    return {"run": spent, "total": spent}, found
