# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from pluggableflow import api, states, task
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow


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
