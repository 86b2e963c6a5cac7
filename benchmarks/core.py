# SPDX-License-Identifier: Apache-2.0
"""Cost of a task by pattern, size and store, per phase, next to its floor and its peers.

    python benchmarks/core.py [--sizes 10,100,1000,10000] [--stores none,memory,sqlite] [--peers] [--json]

Each row is one run in a process of its own: microseconds a task to build, compile, prepare and run; peak memory
that the flow added, in bytes a task (a second run under tracemalloc, so that it slows nothing that is timed);
commits and statements a task. The floor of a store is one plain single-row commit of distinct values through the
same driver in the same process, and the rows that write say how much the log of the database grew. At the end the
exponents fitted to total time over size (1.00 is linear). Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import multiprocessing
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

#: Largest size at which a peer is measured, by store: it takes too long beyond.
PEER_LIMITS = {"none": 1000, "sqlite": 100}
PATTERNS = ("linear", "unordered", "graph", "revert")


def _ours() -> Any:
    from pluggableflow import task
    from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow

    return SimpleNamespace(
        Task=task.Task, linear_flow=linear_flow, unordered_flow=unordered_flow, graph_flow=graph_flow
    )


def _taskflow() -> Any:
    from taskflow import task
    from taskflow.patterns import graph_flow, linear_flow, unordered_flow

    return SimpleNamespace(
        Task=task.Task, linear_flow=linear_flow, unordered_flow=unordered_flow, graph_flow=graph_flow
    )


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in this process and return its figures."""
    if case.get("peer") == "taskflow":
        return _measure_taskflow(case)
    from workloads import make

    from pluggableflow import api

    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "bench.db"
        url = {"none": None, "memory": "memory://", "sqlite": f"sqlite:///{database}"}[case["store"]]
        connection = api.connect(url) if url else None
        counts = _count(connection) if connection is not None else {}
        count, timings = case["count"], {}
        if not case["gc"]:
            gc.collect()
            gc.disable()
        if case["memory"]:
            tracemalloc.start()

        def lap(phase: str, begun: float) -> float:
            now = time.perf_counter()
            timings[phase] = (now - begun) / count * 1e6
            return now

        at = begun = time.perf_counter()
        flow = make(_ours(), case["pattern"], count)
        at = lap("build", at)
        options = {"max_workers": 4, "prefetch": 16} if case["engine"] == "parallel" else {}
        engine = api.load(connection, flow, engine=case["engine"], **options)
        engine.compile()
        at = lap("compile", at)
        engine.prepare()
        at = lap("prepare", at)
        log_before = _log_bytes(database)
        with contextlib.suppress(ArithmeticError):
            engine.run()
        lap("run", at)
        lap("total", begun)
        row = {**case, **{phase: round(us, 2) for phase, us in timings.items()}}
        if case["memory"]:
            row["bytes_a_task"] = round(tracemalloc.get_traced_memory()[1] / count)
            tracemalloc.stop()
        if counts:
            row["commits_a_task"] = round(counts["commits"] / count, 3)
        if case["store"] == "sqlite":
            row["log_bytes_a_task"] = round((_log_bytes(database) - log_before) / count)
            row["floor_us"] = round(_sqlite_floor(Path(folder), min(count, 1000)), 1)
            row["run_to_floor"] = round(timings["run"] / row["floor_us"], 2)
        if connection is not None:
            connection.close()
        return row


def _count(connection: Any) -> dict[str, int]:
    counts, real = {"commits": 0}, connection.commit

    def commit(*args: Any) -> int:
        counts["commits"] += 1
        return int(real(*args))

    connection.commit = commit
    return counts


def _log_bytes(database: Path) -> int:
    """Bytes of the database and its log; the log is put back to its start at checkpoints, so both are counted."""
    return sum(path.stat().st_size for path in (database, database.with_name(database.name + "-wal")) if path.exists())


def _sqlite_floor(folder: Path, commits: int) -> float:
    """Microseconds of one plain commit of one row with a distinct value, SQLite in WAL mode, synchronous=FULL."""
    import sqlite3

    from workloads import value

    database = sqlite3.connect(folder / "floor.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE floor (id INTEGER PRIMARY KEY, value TEXT)")
    database.execute("INSERT INTO floor VALUES (1, '')")
    begun = time.perf_counter()
    for _ in range(commits):
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE floor SET value = ? WHERE id = 1", (str(value()),))
        database.execute("COMMIT")
    spent = time.perf_counter() - begun
    database.close()
    return spent / commits * 1e6


def _measure_taskflow(case: dict[str, Any]) -> dict[str, Any]:
    import taskflow.engines
    from taskflow.persistence import backends
    from workloads import make

    count = case["count"]
    with tempfile.TemporaryDirectory() as folder:
        backend = None
        if case["store"] == "sqlite":
            backend = backends.fetch({"connection": f"sqlite:///{folder}/taskflow.db"})
            with contextlib.closing(backend.get_connection()) as connection:
                connection.upgrade()
        begun = time.perf_counter()
        flow = make(_taskflow(), case["pattern"], count)
        engine = taskflow.engines.load(flow, backend=backend, engine=case["engine"])
        engine.compile()
        engine.prepare()
        at = time.perf_counter()
        with contextlib.suppress(ArithmeticError):
            engine.run()
        ended = time.perf_counter()
    return {**case, "run": round((ended - at) / count * 1e6, 2), "total": round((ended - begun) / count * 1e6, 2)}


def _in_own_process(case: dict[str, Any]) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, (case,))


def exponent(sizes: list[int], totals: list[float]) -> float:
    """Slope of log(time) over log(size) by least squares."""
    fit = statistics.linear_regression([math.log(size) for size in sizes], [math.log(total) for total in totals])
    return fit.slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10,100,1000,10000,30000,100000")
    parser.add_argument("--stores", default="none,memory,sqlite")
    parser.add_argument("--patterns", default=",".join(PATTERNS))
    parser.add_argument("--engine", default="serial", choices=("serial", "parallel"))
    parser.add_argument("--durable-limit", type=int, default=10000, help="largest size with a store")
    parser.add_argument("--peers", action="store_true", help="also TaskFlow, at small sizes, where installed")
    parser.add_argument("--no-gc", action="store_true", help="with the garbage collector off")
    parser.add_argument("--memory", action="store_true", help="trace memory instead of time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = [int(each) for each in options.sizes.split(",")]
    rows: list[dict[str, Any]] = []
    for store in options.stores.split(","):
        for pattern in options.patterns.split(","):
            series = []
            for count in sizes:
                if store != "none" and count > options.durable_limit:
                    continue
                case = {
                    "store": store, "pattern": pattern, "count": count, "engine": options.engine,
                    "gc": not options.no_gc, "memory": options.memory,
                }  # fmt: skip
                series.append(_report(_in_own_process(case), options.json))
                if options.peers and count <= PEER_LIMITS.get(store, 0):
                    rows.append(_report(_in_own_process({**case, "peer": "taskflow"}), options.json))
            rows += series
            large = [row for row in series if row["count"] >= 1000]
            if len(large) > 1:
                slope = exponent([row["count"] for row in large], [row["total"] * row["count"] for row in large])
                print(f"  {store} {pattern}: time grows with exponent {slope:.2f} from {large[0]['count']} tasks on")


def _report(row: dict[str, Any], as_json: bool) -> dict[str, Any]:
    print(json.dumps(row) if as_json else "  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
