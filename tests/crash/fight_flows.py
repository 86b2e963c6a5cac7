# SPDX-License-Identifier: Apache-2.0
"""Small flows that many processes fight for; each call of a task is in the log, with the lease it was made under."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from pluggableflow import api, retry, states, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow, unordered_flow

LOG = ""
#: Of the flow that this process runs.
epoch = 0


def log(**line: Any) -> None:
    """Append a line, in one write; the order of the file is the order of these calls in all processes."""
    handle = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    # On a line of its own, also after one that a killed process has not finished.
    os.write(handle, b"\n" + json.dumps(line).encode() + b"\n")
    os.close(handle)


class Move(task.Task):
    """Logs itself; fails in the attempts up to ``fails``, and when it is undone if ``stuck``."""

    def __init__(self, name: str, fails: int = 0, stuck: bool = False, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.fails, self.stuck = fails, stuck

    def execute(self, **kwargs: Any) -> Any:
        attempt = self._log()
        if attempt <= self.fails:
            raise ValueError(f"{self.name} fails")
        return f"{self.name}#{attempt}"

    def revert(self, **kwargs: Any) -> None:
        self._log()
        if self.stuck:
            raise RuntimeError(f"{self.name} is stuck")

    def _log(self) -> int:
        flow, _, attempt, _ = self.idempotency_key.split("/")
        log(do="call", flow=flow, atom=self.name, attempt=int(attempt), key=self.idempotency_key, epoch=epoch)
        return int(attempt)


def passing() -> Flow:
    return linear_flow.Flow("passing").add(Move("a", provides="x"), Move("b", requires=["x"]), Move("c"))


def at_once() -> Flow:
    return unordered_flow.Flow("at_once").add(*(Move(name) for name in "abcd"))


def tried_again() -> Flow:
    inner = linear_flow.Flow("inner", retry=retry.Times(3, name="r")).add(Move("b"), Move("c", fails=1))
    return linear_flow.Flow("tried_again").add(Move("a"), inner, Move("d"))


def undone() -> Flow:
    return linear_flow.Flow("undone").add(Move("a"), Move("b"), Move("c", fails=9))


def stuck() -> Flow:
    return linear_flow.Flow("stuck").add(Move("a"), Move("b", stuck=True), Move("c", fails=9))


#: Each with the state that it ends in and what the tasks have made that then are in SUCCESS, by name.
KINDS: tuple[tuple[Callable[[], Flow], str, dict[str, str]], ...] = (
    (passing, states.SUCCESS, {"a": "a#1", "b": "b#1", "c": "c#1"}),
    (at_once, states.SUCCESS, {"a": "a#1", "b": "b#1", "c": "c#1", "d": "d#1"}),
    (tried_again, states.SUCCESS, {"a": "a#1", "b": "b#2", "c": "c#2", "d": "d#1"}),
    (passing, states.SUCCESS, {"a": "a#1", "b": "b#1", "c": "c#1"}),
    (undone, states.REVERTED, {}),
    (tried_again, states.SUCCESS, {"a": "a#1", "b": "b#2", "c": "c#2", "d": "d#1"}),
    (stuck, states.FAILURE, {"a": "a#1"}),
)


def make(number: int) -> Flow:
    """The factory of flow ``number``."""
    return KINDS[number % len(KINDS)][0]()


def keep(connection: Any, count: int) -> dict[str, int]:
    """Store so many flows with their factory: uuid to number."""
    made = {}
    for number in range(count):
        engine = api.load_from_factory(connection, make, [number])
        made[engine.storage.flow_uuid] = number
    return made
