# SPDX-License-Identifier: Apache-2.0
"""One run of this package: time, calls, memory or SQL, phase by phase."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from counting import Growth, Modes, Statements, calls_or_nothing, distinct_values
from floors import call_floor, commit_floor
from workloads import WARM_UP, make

#: Phases whose cost is in proportion to the tasks; loading, between build and compile, is paid once for each flow.
PHASES = ("build", "compile", "prepare", "run")


class _Phases:
    """What each phase took, by the clock or in calls."""

    def __init__(self, count: int, calls: Any) -> None:
        self._count, self._calls = count, calls
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, tuple[int, int]] = {}
        if calls is not None:
            calls.take()
        self._begun_cpu = time.process_time()
        self._at = time.perf_counter()

    def end(self, phase: str) -> None:
        self.seconds[phase] = time.perf_counter() - self._at
        self.cpu = time.process_time() - self._begun_cpu
        if self._calls is not None:
            self.operations[phase] = self._calls.take()
        self._at = time.perf_counter()

    def columns(self) -> dict[str, Any]:
        """Per task: microseconds, or calls where those were counted (the clock then tells nothing)."""
        if self._calls is None:
            found = {f"{phase}_us": round(spent / self._count * 1e6, 2) for phase, spent in self.seconds.items()}
            found["total_us"] = round(sum(self.seconds.values()) / self._count * 1e6, 2)
            return {**found, "total_cpu_us": round(self.cpu / self._count * 1e6, 2)}
        found = {phase: round(sum(both) / self._count, 2) for phase, both in self.operations.items()}
        python, c = (sum(both[kind] for both in self.operations.values()) / self._count for kind in (0, 1))
        return {**found, "total": round(python + c, 2), "python": round(python, 2), "c": round(c, 2)}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in this process and return its row.

    ``case["what"]`` is time, operations (calls through ``sys.setprofile``), memory (``tracemalloc``) or statements
    (the SQL of the driver): each slows the others, so each is a run of its own.
    """
    from pluggableflow import api
    from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow
    from pluggableflow.task import Task

    names = SimpleNamespace(Task=Task, linear_flow=linear_flow, unordered_flow=unordered_flow, graph_flow=graph_flow)
    count, what, durable = case["count"], case["what"], case["store"] == "sqlite"
    row = dict(case)
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "bench.db"
        url = {"none": None, "memory": "memory://", "sqlite": f"sqlite:///{database}"}[case["store"]]
        modes = Modes() if durable else None
        statements = Statements() if durable and what == "statements" else None
        connection = api.connect(url) if url else None
        begun = time.perf_counter()
        _warm_up(api, names, case, url and url.replace("bench.db", "warm.db"))
        row["warm_up_ms"] = round((time.perf_counter() - begun) * 1e3, 1)
        commits = count_commits(connection) if connection is not None else None
        if case["gc"] == "off":
            gc.collect()
            gc.disable()
        if what == "memory":
            tracemalloc.start()
        with calls_or_nothing(what == "operations") as calls:
            phases = _Phases(count, calls)
            flow = make(names, case["pattern"], count)
            phases.end("build")
            engine = api.load(connection, flow, **_options(case))
            phases.end("load")
            engine.compile()
            phases.end("compile")
            engine.prepare()
            phases.end("prepare")
            growth = Growth(database) if durable else None
            if statements is not None:
                statements.take()
            processor = time.process_time()
            with contextlib.suppress(ArithmeticError):
                engine.run()
            processor = time.process_time() - processor
            phases.end("run")
        if what in ("time", "operations"):
            row |= phases.columns()
        if what == "time":
            row["run_cpu_us"] = round(processor / count * 1e6, 2)
        if what == "memory":
            row["bytes_a_task"] = round(tracemalloc.get_traced_memory()[1] / count)
            tracemalloc.stop()
        if commits is not None and what != "memory":
            row["commits_a_task"] = round(commits["commits"] / count, 3)
        if statements is not None:
            row |= {f"{key}_a_task": round(number / count, 3) for key, number in statements.take().items()}
        if growth is not None:
            row |= growth.a_task(count)
        if connection is not None:
            connection.close()
        if durable and case["pattern"] != "revert":
            stored = "SELECT count(DISTINCT results) FROM pluggableflow_atoms"
            row["distinct_values"] = distinct_values(database, stored, count)
        if modes is not None:
            row |= {"journal": modes.journal(), "synchronous": modes.synchronous()}
        if what == "time":
            floor = commit_floor(Path(folder), min(count, 1000)) if durable else call_floor(max(count, 1000))
            row |= {"floor_us": round(floor, 3), "run_to_floor": round(row["run_us"] / floor, 2)}
    return row


def _options(case: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"max_workers": 4, "prefetch": 16} if case["engine"] == "parallel" else {}
    return {"engine": case["engine"], **options}


def _warm_up(api: Any, names: Any, case: dict[str, Any], url: str | None) -> None:
    """A small run of the same kind in a store of its own."""
    with contextlib.closing(api.connect(url)) as connection, contextlib.suppress(ArithmeticError):
        flow = make(names, case["pattern"], WARM_UP)
        api.load(connection if url else None, flow, **_options(case)).run()


def count_commits(connection: Any) -> dict[str, int]:
    """Count the commits of a connection from now on."""
    counts, real = {"commits": 0}, connection.commit

    def commit(*args: Any) -> int:
        counts["commits"] += 1
        return int(real(*args))

    connection.commit = commit
    return counts
