# SPDX-License-Identifier: Apache-2.0
"""Three calls, one after the other, whose number comes from the store or is injected into the task."""

from __future__ import annotations

from pluggableflow import api, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow


class Call(task.Task):
    """Calls a number."""

    def execute(self, number: int) -> None:
        print(f"{self.name} {number}")


def create_flow() -> Flow:
    return linear_flow.Flow("calls").add(
        Call("call Jim", inject={"number": 555}),
        Call("call Joe", rebind={"number": "joe"}),
        Call("call Jim again", inject={"number": 556}),
    )


if __name__ == "__main__":
    api.run(None, create_flow(), store={"joe": 444})
