# SPDX-License-Identifier: Apache-2.0
"""Replays real workflow graphs with scaled sleeps, against the lower bound of their makespan.

    python benchmarks/replay.py FOLDER [--workers 4] [--seconds 3] [--connection sqlite:///replay.sqlite]

FOLDER holds WfFormat 1.5 files (``*.json.gz``). Each task sleeps its recorded runtime times a scale, chosen so that
the lower bound, max(critical path, total work / workers), takes ``--seconds``. A task's priority is the length of the
chain that it begins, as an author who knows the runtimes would set it. Prints the ratio of the makespan to the bound,
and to a greedy scheduler that costs nothing: where a graph is narrow at first, no scheduler reaches the bound.
"""

from __future__ import annotations

import argparse
import heapq
import time
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from workloads import parents_of, read_workflow

from pluggableflow import api, task
from pluggableflow.patterns import graph_flow


class Sleep(task.Task):
    """Sleeps for its share of the recorded runtime."""

    def __init__(self, name: str, seconds: float, chain_seconds: float) -> None:
        super().__init__(name=name)
        self.seconds = seconds
        self.priority = round(chain_seconds * 1e6)

    def execute(self) -> float:
        begun = time.perf_counter()
        time.sleep(self.seconds)
        return time.perf_counter() - begun


def read(path: Path) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Runtime in seconds, and parents, of each task."""
    workflow = read_workflow(path)
    runtimes = {each["id"]: float(each["runtimeInSeconds"]) for each in workflow["execution"]["tasks"]}
    parents = parents_of(workflow)
    return {name: runtimes.get(name, 0.0) for name in parents}, parents


def chains(runtimes: dict[str, float], parents: dict[str, list[str]]) -> dict[str, float]:
    """Seconds of the longest chain that each task begins."""
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, before in parents.items():
        for each in before:
            children[each].append(name)
    found: dict[str, float] = {}
    for name in reversed(list(TopologicalSorter(parents).static_order())):
        found[name] = runtimes[name] + max((found[each] for each in children[name]), default=0.0)
    return found


def greedy(runtimes: dict[str, float], parents: dict[str, list[str]], longest: dict[str, float], workers: int) -> float:
    """Makespan of a scheduler without any cost that always starts the ready task with the longest chain."""
    order = TopologicalSorter(parents)
    order.prepare()
    now, running, ready = 0.0, [], []
    while order.is_active():
        for name in order.get_ready():
            heapq.heappush(ready, (-longest[name], name))
        while ready and len(running) < workers:
            name = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + runtimes[name], name))
        now, name = heapq.heappop(running)
        order.done(name)
    return now


def replay(path: Path, workers: int, seconds: float, connection: Any) -> str:
    runtimes, parents = read(path)
    longest = chains(runtimes, parents)
    bound = max(max(longest.values()), sum(runtimes.values()) / workers)
    scale = seconds / bound
    flow = graph_flow.Flow(path.name)
    tasks = {name: Sleep(name, runtime * scale, longest[name]) for name, runtime in runtimes.items()}
    flow.add(*tasks.values())
    for name, before in parents.items():
        for each in before:
            flow.link(tasks[each], tasks[name])
    begun = time.perf_counter()
    api.run(connection, flow, engine="parallel", max_workers=workers)
    makespan = time.perf_counter() - begun
    ratio, to_greedy = makespan / seconds, makespan / scale / greedy(runtimes, parents, longest, workers)
    figures = f"bound {seconds:.2f} s  makespan {makespan:.2f} s  ratio {ratio:.3f}  to greedy {to_greedy:.3f}"
    return f"{path.name:45} {len(tasks):5} tasks  {figures}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connection", help="default: no store")
    options = parser.parse_args()
    connection = api.connect(options.connection) if options.connection else None
    paths = sorted(options.folder.glob("*.json.gz"))
    if not paths:
        parser.error(f"{options.folder} holds no *.json.gz")
    for path in paths:
        print(replay(path, options.workers, options.seconds, connection), flush=True)


if __name__ == "__main__":
    main()
