# SPDX-License-Identifier: Apache-2.0
"""The flows that the benchmarks run, each of N trivial tasks, for this package and for TaskFlow."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

#: Tasks of a first run that is not measured: imports and what is made once then cost the measured one nothing.
WARM_UP = 11
_values = itertools.count()


def value() -> int:
    """A value that was never written before: a store that skips identical writes would look faster than it is."""
    return next(_values)


def make(api: Any, pattern: str, count: int) -> Any:
    """A flow of ``count`` tasks.

    :param api: a namespace with ``Task``, ``linear_flow``, ``unordered_flow``, ``graph_flow``
    :param pattern: linear, unordered, graph (layers of ten, three inputs each), or revert (linear, the last fails)
    """

    unit = _unit(api)

    class Layered(api.Task):  # type: ignore[misc]
        def execute(self, **inputs: int) -> int:
            return value()

    class Failing(api.Task):  # type: ignore[misc]
        def execute(self) -> int:
            raise ArithmeticError("the last task fails")

    if pattern == "linear":
        flow = api.linear_flow.Flow("linear")
        for number in range(count):
            flow.add(unit(name=f"t{number}", provides=f"v{number}"))
    elif pattern == "unordered":
        flow = api.unordered_flow.Flow("unordered")
        for number in range(count):
            flow.add(unit(name=f"t{number}", provides=f"v{number}"))
    elif pattern == "graph":
        flow = api.graph_flow.Flow("graph")
        width = 10
        for number in range(count):
            above = number // width * width - width
            needs = [] if above < 0 else [f"v{above + (number + shift) % width}" for shift in (0, 3, 7)]
            flow.add(Layered(name=f"t{number}", provides=f"v{number}", requires=needs))
    elif pattern == "revert":
        flow = api.linear_flow.Flow("revert")
        for number in range(count - 1):
            flow.add(unit(name=f"t{number}", provides=f"v{number}"))
        flow.add(Failing(name="last"))
    else:
        raise ValueError(f"no pattern {pattern!r}")
    return flow


def _unit(api: Any) -> Any:
    class Unit(api.Task):  # type: ignore[misc]
        def execute(self) -> int:
            return value()

    return Unit


def read_workflow(path: Path) -> Any:
    """A real workflow, of a file in WfFormat 1.5 (``*.json.gz``)."""
    return json.loads(gzip.decompress(path.read_bytes()))["workflow"]


def parents_of(workflow: Any) -> dict[str, list[str]]:
    """Its tasks, each with those that it waits for."""
    return {each["id"]: list(each["parents"]) for each in workflow["specification"]["tasks"]}


def make_like(api: Any, path: Path) -> Any:
    """A graph flow of trivial tasks in the shape of a real workflow."""
    parents, unit = parents_of(read_workflow(path)), _unit(api)
    flow = api.graph_flow.Flow(path.name)
    tasks = {name: unit(name=name) for name in parents}
    flow.add(*tasks.values())
    for name, before in parents.items():
        for each in before:
            flow.link(tasks[each], tasks[name])
    return flow
