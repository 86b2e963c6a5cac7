# SPDX-License-Identifier: Apache-2.0
"""Builds and runs flows of 100 small tasks by the names of TaskFlow alone; ``compare.py`` runs it on both packages.

Prints one line of JSON: pattern and store to the seconds that each round took, building and loading included.
"""

import json
import os
import sys
import tempfile
import time

from taskflow import engines, task
from taskflow.patterns import graph_flow, linear_flow, unordered_flow
from taskflow.persistence import backends

COUNT = 100
WIDTH = 10


class Add(task.Task):
    def execute(self, **numbers):
        return 1 + sum(numbers.values()) % 1000


def linear():
    flow = linear_flow.Flow("linear")
    for number in range(COUNT):
        needs = [f"v{number - 1}"] if number else []
        flow.add(Add(f"t{number}", provides=f"v{number}", requires=needs))
    return flow


def unordered():
    flow = unordered_flow.Flow("unordered")
    for number in range(COUNT):
        flow.add(Add(f"t{number}", provides=f"v{number}"))
    return flow


def graph():
    """Ten layers of ten tasks; each needs two of the layer before."""
    flow = graph_flow.Flow("graph")
    for number in range(COUNT):
        layer, place = divmod(number, WIDTH)
        above = (layer - 1) * WIDTH
        needs = [f"v{above + place}", f"v{above + (place + 1) % WIDTH}"] if layer else []
        flow.add(Add(f"t{number}", provides=f"v{number}", requires=needs))
    return flow


def one_round(make, store, folder):
    backend = None
    if store == "sqlite":
        backend = backends.fetch({"connection": f"sqlite:///{folder}/{time.monotonic_ns()}.db"})
        backend.get_connection().upgrade()
    begun = time.perf_counter()
    results = engines.run(make(), backend=backend, engine="serial")
    seconds = time.perf_counter() - begun
    assert len(results) == COUNT, results
    if backend is not None:
        backend.close()
    return seconds


def main():
    rounds = int(sys.argv[1])
    found = {}
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder:
        for make in (linear, unordered, graph):
            for store in ("memory", "sqlite"):
                found[f"{make.__name__}, {store}"] = [one_round(make, store, folder) for _ in range(rounds)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
