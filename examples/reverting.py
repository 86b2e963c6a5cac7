# SPDX-License-Identifier: Apache-2.0
"""A linear flow whose last step fails: what was done is undone, last first, with what it had returned."""

from __future__ import annotations

from typing import Any

from pluggableflow import api, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow


class Book(task.Task):
    """Books something, and cancels it when it is reverted."""

    def execute(self) -> str:
        print(f"book {self.name}")
        return f"booking of the {self.name}"

    def revert(self, result: str, flow_failures: dict[str, Any]) -> None:
        reasons = ", ".join(failure.exception_str for failure in flow_failures.values())
        print(f"cancel {result}, because {reasons}")


class Pay(task.Task):
    """Fails."""

    def execute(self) -> None:
        raise ValueError("the card was refused")


def create_flow() -> Flow:
    return linear_flow.Flow("journey").add(Book("flight"), Book("hotel"), Pay())


if __name__ == "__main__":
    try:
        api.run(None, create_flow())
    except ValueError as error:
        print(f"the journey was given up: {error}")
