# SPDX-License-Identifier: Apache-2.0
"""Additions that wait for each other's sums, in a graph flow that holds a linear flow.

python examples/classic.py [serial|parallel] [URL of a store]
"""

from __future__ import annotations

import sys

from pluggableflow import api, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow

STORE = {"y1": 1, "y2": 3, "y3": 5, "y4": 7, "y5": 9}


class Add(task.Task):
    """Adds what it finds under two names."""

    def __init__(self, name: str, provides: str, one: str, other: str) -> None:
        super().__init__(name, provides=provides, rebind={"one": one, "other": other})

    def execute(self, one: int, other: int) -> int:
        return one + other


def create_flow() -> Flow:
    start = linear_flow.Flow("start").add(Add("add2", "x2", "y3", "y4"), Add("add1", "x1", "y1", "y2"))
    return graph_flow.Flow("root").add(
        start,
        Add("add5", "x5", "x1", "x3"),
        Add("add3", "x3", "x1", "x2"),
        Add("add4", "x4", "x2", "y5"),
        Add("add6", "x6", "x5", "x4"),
        Add("add7", "x7", "x6", "x6"),
    )


if __name__ == "__main__":
    engine = sys.argv[1] if len(sys.argv) > 1 else "serial"
    connection = sys.argv[2] if len(sys.argv) > 2 else None
    results = api.run(connection, create_flow(), store=STORE, engine=engine)
    for name in sorted(results):
        print(f"{name} = {results[name]}")
