# SPDX-License-Identifier: Apache-2.0
"""Two calls that are tried with one number after the other; the second always fails, so each try is undone."""

from __future__ import annotations

from typing import Any

from pluggableflow import api, retry, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow


class CallJim(task.Task):
    """A call that succeeds."""

    def execute(self, number: int) -> None:
        print(f"call Jim {number}")

    def revert(self, number: int, **ignored: Any) -> None:
        print(f"hang up on Jim {number}")


class CallJoe(task.Task):
    """A call that nobody answers."""

    def execute(self, number: int) -> None:
        print(f"call Joe {number}")
        raise OSError(f"nobody answers {number}")

    def revert(self, number: int, **ignored: Any) -> None:
        print(f"hang up on Joe {number}")


def create_flow() -> Flow:
    numbers = retry.ParameterizedForEach(name="numbers", rebind={"values": "phone_numbers"}, provides="number")
    return linear_flow.Flow("calls", retry=numbers).add(CallJim(), CallJoe())


if __name__ == "__main__":
    try:
        api.run(None, create_flow(), store={"phone_numbers": [333, 444, 555, 666]})
    except OSError as error:
        print(f"given up: {error}")
