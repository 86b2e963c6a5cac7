# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from typing import Any

import pytest

from pluggableflow import api, retry, states, task
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.exceptions import WrappedFailure
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow


class Step(task.Task):
    def execute(self) -> None:
        pass


def test_a_flow_whose_only_task_was_ignored_still_votes_after_a_resumption() -> None:
    votes: list[str] = []

    def yes(history: Any) -> bool:
        votes.append("yes")
        return True

    def build() -> Flow:
        empty, only = linear_flow.Flow("empty"), Step("only")
        inner = graph_flow.Flow("inner").add(empty, only)
        inner.link(empty, only, decider=lambda history: False, decider_depth="FLOW")
        slow, last = Step("slow"), Step("last")
        outer = graph_flow.Flow("outer").add(inner, slow, last)
        return outer.link(inner, last, decider=yes).link(slow, last)

    connection = MemoryConnection()
    detail = api.create_flow_detail(build(), connection=connection)
    engine = api.load(connection, build(), detail)
    engine.atom_notifier.register(states.IGNORE, lambda *_: engine.suspend())
    engine.run()
    stored = connection.get_flow_details(detail.uuid)
    assert stored.state == states.SUSPENDED
    resumed = api.load(connection, build(), stored)
    resumed.run()
    assert votes == ["yes"]
    found = resumed.storage.get_atoms_states(["only", "slow", "last"])
    assert [found[name][0] for name in ("only", "slow", "last")] == [states.IGNORE, states.SUCCESS, states.SUCCESS]


def test_a_retry_history_keeps_failures_without_their_tracebacks() -> None:
    class Fails(task.Task):
        def execute(self) -> None:
            try:
                raise KeyError("cause")
            except KeyError as error:
                raise ValueError("broken") from error

    flow = linear_flow.Flow("flow", retry=retry.Times(3, name="times")).add(Fails("fails"))
    connection = MemoryConnection()
    detail = api.create_flow_detail(flow, connection=connection)
    engine = api.load(connection, flow, detail)
    histories: list[Any] = []

    def keep(_state: str, details: dict[str, Any]) -> None:
        histories.append(connection.get_flow_details(detail.uuid))

    engine.atom_notifier.register(states.FAILURE, keep)
    with pytest.raises(ValueError, match="broken"):
        engine.run()
    stored = {atom.name: atom for atom in histories[-1]}
    assert len(stored["times"].results) == 3
    for _value, failures in stored["times"].results:
        assert failures["fails"].traceback_str == ""
        assert [cause.traceback_str for cause in failures["fails"].causes] == [""]
        assert failures["fails"].causes[0].check(KeyError)
    assert "raise ValueError" in stored["fails"].failure.traceback_str


def test_a_retry_that_took_its_RETRY_back_does_not_retry_after_a_resumption() -> None:
    asked, attempts = threading.Event(), []

    class Fails(task.Task):
        def execute(self) -> None:
            raise ValueError

    class FailsLater(task.Task):
        def execute(self) -> None:
            asked.wait(60)
            raise ValueError

    class ThinksAgain(retry.Retry):
        def execute(self, history: Any, **_: Any) -> None:
            attempts.append(len(history) + 1)

        def on_failure(self, history: Any, **_: Any) -> Any:
            asked.set()
            if len(history[-1][1]) == 1:
                return retry.RETRY
            engine.suspend()
            return retry.REVERT

    def build() -> Flow:
        return unordered_flow.Flow("flow", ThinksAgain()).add(Fails("fails"), FailsLater("later"))

    connection = MemoryConnection()
    detail = api.create_flow_detail(build(), connection=connection)
    engine = api.load(connection, build(), detail, engine="parallel", max_workers=2)
    engine.run()
    stored = connection.get_flow_details(detail.uuid)
    assert stored.state == states.SUSPENDED
    resumed = api.load(connection, build(), stored, engine="parallel", max_workers=2)
    with pytest.raises(WrappedFailure):
        resumed.run()
    assert connection.get_flow_details(detail.uuid).state == states.REVERTED
    assert attempts == [1]
