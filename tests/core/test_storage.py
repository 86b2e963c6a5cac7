# SPDX-License-Identifier: Apache-2.0
"""What is known of a flow's atoms, written by several threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from pluggableflow import api, task
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.patterns import unordered_flow
from pluggableflow.storage import Storage
from pluggableflow.testing.records import at_once


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_what_many_threads_inject_is_all_there() -> None:
    connection = MemoryConnection()
    for _ in range(20):
        _book, detail = api.temporary_flow_detail(connection)
        storage = Storage(detail, connection)
        at_once(16, lambda number, storage=storage: storage.inject({str(number): number}))  # type: ignore[misc]
        expected = {str(number): number for number in range(16)}
        assert storage.fetch_all() == expected
        assert Storage(connection.get_flow_details(detail.uuid), connection).fetch_all() == expected


@pytest.mark.usefixtures("switching")
def test_what_tasks_write_beside_the_commits_of_a_run_is_all_stored() -> None:
    connection = MemoryConnection()

    def note(name: str) -> None:
        for step in range(20):
            engine.storage.update_atom_metadata(name, {str(step): step})

    names = [f"task{number}" for number in range(8)]
    flow = unordered_flow.Flow("flow")
    for name in names:
        flow.add(task.FunctorTask(note, name=name, inject={"name": name}))
    engine = api.load(connection, flow, engine="parallel", max_workers=8)
    engine.run()
    stored = connection.get_flow_details(engine.storage.flow_uuid)
    for detail in stored:
        assert {name: value for name, value in detail.meta.items() if name.isdigit()} == {
            str(step): step for step in range(20)
        }
