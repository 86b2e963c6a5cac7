# SPDX-License-Identifier: Apache-2.0
"""Flows that together cover every transition, whose tasks write each of their calls to a log of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pluggableflow import retry, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow

LOG = os.environ.get("CRASH_LOG", "")


def log(line: str) -> None:
    """Append one line, in one write that other processes see at once."""
    if LOG:
        handle = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, (line + "\n").encode())
        os.close(handle)


class Step(task.Task):
    """Logs each execute and revert under its idempotency key; fails in the attempts it is told to."""

    def __init__(self, name: str, fails: Any = (), revert_fails: bool = False, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.fails, self.revert_fails = fails, revert_fails

    def execute(self, **kwargs: Any) -> Any:
        attempt = int(self.idempotency_key.split("/")[2])
        log(f"execute {self.name} {attempt}")
        if self.fails == "always" or attempt in self.fails:
            raise ValueError(f"{self.name} fails in attempt {attempt}")
        return f"{self.name}#{attempt}"

    def revert(self, **kwargs: Any) -> None:
        log(f"revert {self.name} {self.idempotency_key.split('/')[2]}")
        if self.revert_fails:
            raise RuntimeError(f"{self.name} cannot be undone")


def linear() -> Flow:
    return linear_flow.Flow("linear").add(
        Step("a", provides="x"), Step("b", requires=["x"], provides="y"), Step("c", requires=["y"])
    )


def unordered() -> Flow:
    return unordered_flow.Flow("unordered").add(*(Step(name) for name in "abcd"))


def diamond() -> Flow:
    return graph_flow.Flow("diamond").add(
        Step("a", provides="x"),
        Step("b", requires=["x"], provides="y"),
        Step("c", requires=["x"], provides="z"),
        Step("d", requires=["y", "z"]),
    )


def reverted() -> Flow:
    return linear_flow.Flow("reverted").add(Step("a"), Step("b"), Step("c", fails="always"), Step("never"))


def retried() -> Flow:
    inner = linear_flow.Flow("inner", retry=retry.Times(3, name="r")).add(Step("b"), Step("c", fails=(1, 2)))
    return linear_flow.Flow("retried").add(Step("a"), inner, Step("d"))


def exhausted() -> Flow:
    inner = linear_flow.Flow("inner", retry=retry.ForEach(["u", "v"], name="each", provides="w"))
    inner.add(Step("b", requires=["w"]), Step("c", fails="always"))
    beside = linear_flow.Flow("beside").add(Step("x"), Step("y"))
    return unordered_flow.Flow("exhausted").add(inner, beside)


def nested_retries() -> Flow:
    inner = linear_flow.Flow("inner", retry=retry.Times(2, name="inner_r"))
    inner.add(Step("b"), Step("c", fails=(1, 2)))
    outer = linear_flow.Flow("outer", retry=retry.Times(2, name="outer_r")).add(Step("a"), inner)
    return linear_flow.Flow("nested_retries").add(outer, Step("z"))


def revert_all() -> Flow:
    inner = linear_flow.Flow("inner", retry=retry.AlwaysRevertAll(name="all"))
    inner.add(Step("b"), Step("c", fails="always"))
    return linear_flow.Flow("revert_all").add(Step("a"), inner)


def revert_failure() -> Flow:
    return linear_flow.Flow("revert_failure").add(
        Step("a"), Step("b", revert_fails=True), Step("c"), Step("d", fails="always")
    )


def decided(depth: str = "ALL") -> Flow:
    flow = graph_flow.Flow("decided")
    a, b, c, d = Step("a", provides="x"), Step("b"), Step("c"), Step("d")
    nested = linear_flow.Flow("nested").add(Step("e"))
    flow.add(a, b, c, d, nested)
    flow.link(a, b, decider=lambda history: False, decider_depth=depth)
    flow.link(b, c)
    flow.link(b, nested)
    flow.link(a, d)
    return flow


def decided_in_retry() -> Flow:
    inner = graph_flow.Flow("inner", retry=retry.Times(2, name="r"))
    a, b, c = Step("a"), Step("b"), Step("c", fails=(1,))
    inner.add(a, b, c)
    inner.link(a, b, decider=lambda history: history["a"].endswith("2"))
    inner.link(a, c)
    return linear_flow.Flow("decided_in_retry").add(inner, Step("z"))


def raising_decider(history: Any) -> bool:
    raise LookupError("the decider fails")


def decider_fails() -> Flow:
    flow = graph_flow.Flow("decider_fails")
    a, b = Step("a"), Step("b")
    flow.add(a, b)
    flow.link(a, b, decider=raising_decider)
    return linear_flow.Flow("outer").add(Step("before"), flow)


FLOWS: dict[str, Callable[[], Flow]] = {
    "linear": linear,
    "unordered": unordered,
    "diamond": diamond,
    "reverted": reverted,
    "retried": retried,
    "exhausted": exhausted,
    "nested_retries": nested_retries,
    "revert_all": revert_all,
    "revert_failure": revert_failure,
    "decided_all": lambda: decided("ALL"),
    "decided_flow": lambda: decided("FLOW"),
    "decided_neighbors": lambda: decided("NEIGHBORS"),
    "decided_atom": lambda: decided("ATOM"),
    "decided_in_retry": decided_in_retry,
    "decider_fails": decider_fails,
}
