# SPDX-License-Identifier: Apache-2.0
"""A retry around a nested flow, which undoes and repeats that flow alone, and one around everything."""

from __future__ import annotations

from typing import Any

from pluggableflow import api, retry, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow


class Step(task.Task):
    """Does something that can be undone."""

    def execute(self) -> None:
        print(f"do {self.name}")

    def revert(self, **ignored: Any) -> None:
        print(f"undo {self.name}")


class Connect(task.Task):
    """Works with one of the addresses only."""

    def execute(self, address: str) -> None:
        print(f"connect to {address}")
        if address != "third":
            raise ConnectionError(f"{address} does not answer")


def nested() -> Flow:
    inner = linear_flow.Flow("inner", retry=retry.ForEach(["first", "third"], name="addresses", provides="address"))
    inner.add(Step("prepare"), Connect())
    return linear_flow.Flow("outer").add(Step("unpack"), inner, Step("finish"))


def everything() -> Flow:
    outer = linear_flow.Flow("all", retry=retry.ForEach(["second", "third"], name="addresses", provides="address"))
    return outer.add(Step("unpack"), Connect(), Step("finish"))


if __name__ == "__main__":
    print("-- around the nested flow")
    api.run(None, nested())
    print("-- around everything")
    api.run(None, everything())
