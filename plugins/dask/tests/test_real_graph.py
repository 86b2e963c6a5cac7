# SPDX-License-Identifier: Apache-2.0
"""Tasks of a real workflow graph on the cluster, in the order that the graph asks for."""

from __future__ import annotations

import gzip
import json
import sys
from graphlib import TopologicalSorter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from distributed import Client
from pluggableflow_dask import DaskExecutor
from timed import ran

from pluggableflow import api, task
from pluggableflow.patterns import graph_flow

GRAPHS = Path(__file__).parents[4] / "shared" / "workflows"
COUNT = 2000


def parents() -> dict[str, list[str]]:
    """The first tasks of the largest graph, each after its parents."""
    if not GRAPHS.is_dir():
        pytest.skip(f"no workflow graphs in {GRAPHS}")
    read = (json.loads(gzip.decompress(path.read_bytes())) for path in GRAPHS.glob("*.json.gz"))
    tasks = max((each["workflow"]["specification"]["tasks"] for each in read), key=len)
    every = {each["id"]: list(each["parents"]) for each in tasks}
    first = list(TopologicalSorter(every).static_order())[:COUNT]
    assert len(first) == COUNT
    return {name: every[name] for name in first}


@pytest.mark.timeout(300)
def test_two_thousand_tasks_of_a_real_graph_run_after_their_parents_though_a_worker_dies(
    address: str, tmp_path: Path
) -> None:
    graph = parents()
    marker = tmp_path / "died"
    tasks = {
        name: task.FunctorTask(
            ran, name=name, provides=f"times of {name}", inject={"marker": str(marker) if place == COUNT // 2 else None}
        )
        for place, name in enumerate(graph)
    }
    flow = graph_flow.Flow("real").add(*tasks.values())
    for name, before in graph.items():
        for each in before:
            flow.link(tasks[each], tasks[name])
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(4)
        times = api.run(None, flow, engine="parallel", executor=DaskExecutor(client=client))
    assert marker.exists()
    for name, before in graph.items():
        for each in before:
            assert times[f"times of {each}"][1] <= times[f"times of {name}"][0]
