# SPDX-License-Identifier: Apache-2.0
"""Sums the squares of numbers: one task per part of them, and one that adds the parts."""

from __future__ import annotations

from pluggableflow import api, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow

PARTS = 4


class SumSquares(task.Task):
    """Sums the squares of every so manyth number."""

    def __init__(self, part: int) -> None:
        super().__init__(f"part {part}", provides=f"sum_{part}")
        self.part = part

    def execute(self, numbers: list[int]) -> int:
        return sum(number * number for number in numbers[self.part :: PARTS])


class Total(task.Task):
    """Adds what all parts came to."""

    def execute(self, **sums: int) -> int:
        return sum(sums.values())


def create_flow() -> Flow:
    flow = graph_flow.Flow("sum of squares")
    flow.add(*(SumSquares(part) for part in range(PARTS)))
    return flow.add(Total(requires=[f"sum_{part}" for part in range(PARTS)], provides="total"))


if __name__ == "__main__":
    print(api.run(None, create_flow(), store={"numbers": list(range(1, 101))}, engine="parallel")["total"])
