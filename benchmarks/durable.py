# SPDX-License-Identifier: Apache-2.0
"""What a task costs in one durable store: time next to the plainest write of that store, and what is sent to it."""

from __future__ import annotations

import contextlib
import logging
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from counting import written_bytes
from ours import count_commits
from places import PLACES, Place
from stores import leave
from workloads import WARM_UP, make, make_like, value

#: Pattern to the engine's options.
ENGINES: dict[str, dict[str, Any]] = {
    "linear": {"engine": "serial"},
    "graph": {"engine": "parallel", "max_workers": 4, "prefetch": 16},
}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in this process, which makes no other, and return its row.

    ``case["what"]`` is durable (time) or sent (counts); ``case["address"]`` is where the store is.
    """
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    logging.disable(logging.WARNING)  # the column durability says what a store would warn of
    with PLACES[case["store"]](case["address"], case["prefix"]) as place:
        return (_time if case["what"] == "durable" else _sent)(place, case)


#: Longer than all rounds take.
_LEASE_SECONDS = 3600.0


class _Runs:
    """Runs flows in one store, each new, and knows what they should have left there."""

    def __init__(self, place: Place, pattern: str, workflow: str | None = None) -> None:
        from pluggableflow import api
        from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow
        from pluggableflow.task import Task

        self._api, self._place, self._pattern, self._workflow = api, place, pattern, workflow
        self._names = SimpleNamespace(
            Task=Task, linear_flow=linear_flow, unordered_flow=unordered_flow, graph_flow=graph_flow
        )
        self._flows: dict[str, int] = {}
        self.connection = api.connect(place.url())
        self._commits = count_commits(self.connection)
        self.wall = self.cpu = 0.0
        self.commits = 0

    def load(self, count: int) -> Any:
        """A new flow of so many tasks; a workflow has its own number, and only a smaller flow is none."""
        if self._workflow is not None and count > WARM_UP:
            flow = make_like(self._names, Path(self._workflow))
        else:
            flow = make(self._names, self._pattern, count)
        engine = self._api.load(self.connection, flow, **ENGINES[self._pattern])
        engine.compile()
        engine.prepare()
        self._flows[engine.storage.flow_detail.uuid] = count
        return engine

    def run(self, engine: Any) -> None:
        """Run a flow that is loaded; ``wall``, ``cpu`` and ``commits`` are then those of this run."""
        before = self._commits["commits"]
        wall, cpu = time.perf_counter(), time.process_time()
        engine.run()
        self.wall, self.cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.commits = self._commits["commits"] - before

    def distinct_values(self) -> int:
        """How many distinct values all runs left in the store, read by a new connection.

        :raises RuntimeError: not one for each task
        """
        self.connection.close()
        reader = self._api.connect(self._place.url())
        try:
            found = {atom.results for flow in self._flows for atom in reader.get_atoms_for_flow(flow)}
        finally:
            reader.close()
        expected = sum(self._flows.values())
        if len(found) != expected:
            raise RuntimeError(f"{self._place.address} holds {len(found)} distinct values, not {expected}")
        return expected


class _SingleRow:
    """The least that our own connection can commit: one column of one atom, under a lease as in a run, no engine."""

    def __init__(self, place: Place) -> None:
        from pluggableflow import api
        from pluggableflow.connection import Changes
        from pluggableflow.middleware import FlowDetail, LogBook, TaskDetail, new_uuid

        self.connection, self._changes = api.connect(place.url()), Changes
        book, flow, atom = LogBook("single"), FlowDetail("single"), TaskDetail("single")
        flow.add(atom)
        book.add(flow)
        self.connection.save_logbook(book)
        claim = self.connection.claim(
            token=new_uuid(), owner="benchmark", lease_seconds=_LEASE_SECONDS, flow_uuid=flow.uuid
        )
        assert claim is not None
        self._lease, self._revision, self._atom = claim.lease, claim.revision, atom.uuid

    def write(self, text: str) -> None:
        changes = self._changes(changed={self._atom: {"results": text}})
        self._revision = self.connection.commit(self._lease, self._revision, changes)

    def close(self) -> None:
        self.connection.release(self._lease)
        self.connection.close()


def _time(place: Place, case: dict[str, Any]) -> dict[str, Any]:
    """Rounds, each a flow between two lots of every kind of plain write, so that all meet the same machine."""
    tasks = case["tasks"]
    runs = _Runs(place, case["pattern"], case.get("workflow"))
    place.prepare_floor()
    runs.run(runs.load(WARM_UP))
    wall, cpu, commits = [], [], 0
    with contextlib.closing(_SingleRow(place)) as single:
        kinds = {"single": single.write, "floor": place.write}
        if place.library is not None:
            kinds["library"] = place.library.write
        floors: dict[str, list[float]] = {kind: [] for kind in kinds}
        for write in kinds.values():
            _seconds(write, WARM_UP)
        for _ in range(case["rounds"]):
            engine = runs.load(tasks)
            position, written = place.log_bytes(), written_bytes()
            before = [_seconds(write, tasks // 2) for write in kinds.values()]
            runs.run(engine)
            after = [_seconds(write, tasks - tasks // 2) for write in kinds.values()]
            _check_growth(place, position, written, tasks)
            wall.append(runs.wall / tasks * 1e6)
            cpu.append(runs.cpu / tasks * 1e6)
            for kind, one, other in zip(kinds, before, after, strict=True):
                floors[kind].append((one + other) / tasks * 1e6)
            commits += runs.commits
    row = {**_shown(case, place), "rounds": case["rounds"]}
    row |= {"run_us": round(statistics.median(wall), 1), "run_cpu_us": round(statistics.median(cpu), 1)}
    for kind, lot in floors.items():
        ratios = [one / other for one, other in zip(wall, lot, strict=True)]
        row |= {f"{kind}_us": round(statistics.median(lot), 1), f"run_to_{kind}": round(statistics.median(ratios), 2)}
        if kind == "floor":
            row["ratios"] = f"{min(ratios):.2f}..{max(ratios):.2f}"
    row["commits_a_task"] = round(commits / case["rounds"] / tasks, 3)
    return {**row, "distinct_values": runs.distinct_values()}


def _sent(place: Place, case: dict[str, Any]) -> dict[str, Any]:
    """One flow, counted at the driver and at the store's log."""
    tasks = case["tasks"]
    counter = place.trips()
    try:
        runs = _Runs(place, case["pattern"], case.get("workflow"))
        place.keep_log()
        runs.run(runs.load(WARM_UP))
        engine = runs.load(tasks)
        position, before = place.log_bytes(), counter.seen()
        runs.run(engine)
        after = counter.seen()
        reached = place.log_bytes()
        row = {**_shown(case, place), "commits_a_task": round(runs.commits / tasks, 3)}
        counts = ("syncs",) if "syncs" in after else ("round_trips", "statements")
        for name in counts:
            known = name in after and name in before
            row[f"{name}_a_task"] = round((after[name] - before[name]) / tasks, 3) if known else "not counted"
        if position is None or reached is None:
            row["log_bytes_a_task"] = "not read"
        elif reached <= position:
            raise RuntimeError(f"the log of {place.address} did not grow: {tasks} tasks were not stored")
        else:
            row["log_bytes_a_task"] = round((reached - position) / tasks)
        return {**row, "distinct_values": runs.distinct_values()}
    finally:
        counter.close()


def _shown(case: dict[str, Any], place: Place) -> dict[str, Any]:
    engine = ENGINES[case["pattern"]]
    options = {name: option for name, option in engine.items() if name != "engine"}
    shown = {name: case[name] for name in ("what", "store", "pattern", "tasks")}
    if "workflow" in case:
        shown["workflow"] = Path(case["workflow"]).name
    return {**shown, "engine": engine["engine"], **options, "durability": place.durability()}


def _seconds(write: Callable[[str], None], writes: int) -> float:
    """Seconds of so many plain writes, each of a value of its own."""
    texts = [str(value()) for _ in range(writes)]
    begun = time.perf_counter()
    for text in texts:
        write(text)
    return time.perf_counter() - begun


def _check_growth(place: Place, position: int | None, written: int | None, tasks: int) -> None:
    """Make sure that the log grew. One that was put back to its start does not tell: then what this process wrote does.

    :raises RuntimeError: nothing was written, so the figures would be those of a store that skips writes
    """
    reached, now = place.log_bytes(), written_bytes()
    if position is None or reached is None or reached > position:
        return
    if written is None or now is None or now - written < tasks:
        raise RuntimeError(f"{tasks} tasks wrote nothing to {place.address}: they were not stored")
