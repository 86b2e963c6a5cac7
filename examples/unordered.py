# SPDX-License-Identifier: Apache-2.0
"""Parts that do not wait for each other are made at the same time, then put together."""

from __future__ import annotations

from pluggableflow import api, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow, unordered_flow


class Make(task.Task):
    """Makes one part."""

    def execute(self) -> str:
        return f"one {self.name}"


class Assemble(task.Task):
    """Puts the parts together."""

    def execute(self, frame: str, engine: str, wheels: str) -> str:
        return f"a car of {frame}, {engine} and {wheels}"


def create_flow() -> Flow:
    parts = unordered_flow.Flow("parts").add(*(Make(name, provides=name) for name in ("frame", "engine", "wheels")))
    return linear_flow.Flow("car").add(parts, Assemble(provides="car"))


if __name__ == "__main__":
    print(api.run(None, create_flow(), engine="parallel")["car"])
