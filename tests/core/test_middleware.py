# SPDX-License-Identifier: Apache-2.0
"""Details of flows and atoms as objects."""

from __future__ import annotations

from pluggableflow import states
from pluggableflow.middleware import FlowDetail, TaskDetail


def test_a_detail_that_becomes_another_keeps_its_identity_and_has_the_atoms_of_the_other_alone() -> None:
    given, stored = FlowDetail("flow", "uuid"), FlowDetail("flow", "uuid")
    given.add(TaskDetail("gone"))
    stored.add(TaskDetail("there"))
    stored.state, stored.meta = states.SUCCESS, {"answer": 42}
    assert given.become(stored) is given
    assert given == stored
    assert [detail.name for detail in given] == ["there"]
    assert next(iter(given)) is next(iter(stored))
