# SPDX-License-Identifier: Apache-2.0
"""Random flows, run by the engine and followed event by event in a slow reference, also over crashes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import reference as ref
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from strategies import build, flows

from pluggableflow import api, states
from pluggableflow.connection import Changes, Lease
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.middleware import AtomDetail

CASES = 10_000 if os.environ.get("PLUGGABLEFLOW_LONG") else 300
PROFILE = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
FINISHED = (states.SUCCESS, states.FAILURE, states.REVERTED)


class Crash(BaseException):
    """The process dies."""


class Followed(MemoryConnection):
    """A store that lets the reference follow what each commit holds, and dies around a commit of a given number."""

    def __init__(self, reference: ref.Reference) -> None:
        super().__init__()
        self.reference = reference
        self.pending: list[ref.Event] = []
        self.number, self.crash_at, self.before = 0, 0, False

    def log(self, *happened: str, arguments: dict[str, Any] | None = None) -> None:
        if arguments is not None:
            expected = self.reference.arguments(happened[1])
            assert {name: arguments.get(name) for name in expected} == expected, happened
        self.pending.append(happened)

    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        self.number += 1
        if self.number == self.crash_at and self.before:
            self.pending.clear()
            raise Crash
        revision = super().commit(lease, revision, changes)
        self.follow()
        for atom in self.get_atoms_for_flow(lease.flow_uuid):
            known = self.reference.state.get(atom.name)
            for state, start in ((states.RUNNING, "start"), (states.REVERTING, "start_revert")):
                starts = known != state or atom.name in self.reference.interrupted
                written = any(column.get("state") == state for column in self._written(changes, atom))
                if atom.state == state and starts and written:
                    self.let((start, atom.name))
        if self.number == self.crash_at:
            raise Crash
        return revision

    @staticmethod
    def _written(changes: Changes, atom: AtomDetail) -> list[Any]:
        added = [record for record in changes.added if record["uuid"] == atom.uuid]
        return [*added, changes.changed[atom.uuid]] if atom.uuid in changes.changed else added

    def follow(self) -> None:
        for happened in self.pending:
            if happened[0] in ("finish", "finish_revert"):
                self._resume(happened[1], happened[0])
            self.let(happened)
        self.pending.clear()

    def _resume(self, name: str, finish: str) -> None:
        if name in self.reference.interrupted:
            self.let(("start" if finish == "finish" else "start_revert", name))

    def let(self, happened: ref.Event) -> None:
        enabled = self.reference.enabled()
        assert happened in enabled, f"{happened} happened, but only {enabled} could; {self.reference.state}"
        self.reference.do(happened)


def run(script: ref.Flow, options: dict[str, bool], crashes: list[tuple[int, bool]]) -> Followed:
    """Run a flow to its end, over crashes, each so many commits after the one before."""
    connection = Followed(ref.Reference(script, **options))
    detail = api.create_flow_detail(build(script, connection.log), connection=connection)
    for distance, before in [*crashes, (0, False)]:
        connection.crash_at, connection.before = connection.number + distance if distance else 0, before
        stored = connection.get_flow_details(detail.uuid)
        if stored.state in FINISHED:
            break
        engine = api.load(connection, build(script, connection.log), stored, **options)
        try:
            engine.run()
        except Crash:
            event("crashed")
            connection.reference.crash()
            continue
        except Exception as error:
            assert engine.storage.get_flow_state() in (states.REVERTED, states.FAILURE), repr(error)
        break
    check(connection, detail.uuid)
    return connection


def check(connection: Followed, flow_uuid: str) -> None:
    """Compare what is stored with where the reference has come to."""
    reference = connection.reference
    assert not reference.enabled(), f"nothing more happened, but {reference.enabled()} could"
    stored = connection.get_flow_details(flow_uuid)
    assert stored.state == reference.final_state
    event(stored.state)
    for name, state in reference.state.items():
        atom = next((each for each in stored if each.name == name), None)
        assert (atom.state if atom else states.PENDING) == state, name
        if atom is None:
            continue
        assert atom.attempt == reference.attempt[name], name
        if name in reference.history:
            assert [value for value, _ in atom.results] == [value for value, _ in reference.history[name]]
            assert [set(failures) for _, failures in atom.results] == [set(f) for _, f in reference.history[name]]
        elif state == states.SUCCESS:
            assert atom.results == reference.result[name]
        assert (atom.failure is not None) == (name in reference.failure), name


options_ = st.fixed_dictionaries(
    {"defer_reverts": st.booleans(), "never_resolve": st.sampled_from([False] * 5 + [True])}
)
crashes_ = st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=4)


@pytest.mark.timeout(3600)
@PROFILE
@given(flows(), options_)
def test_every_event_of_the_engine_is_one_that_the_reference_allows(script: ref.Flow, options: dict[str, bool]) -> None:
    run(script, options, [])


@pytest.mark.timeout(3600)
@PROFILE
@given(flows(), options_, crashes_)
def test_the_same_holds_over_crashes_and_resumptions(
    script: ref.Flow, options: dict[str, bool], crashes: list[tuple[int, bool]]
) -> None:
    run(script, options, crashes)
