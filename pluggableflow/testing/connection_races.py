# SPDX-License-Identifier: Apache-2.0
"""Races."""

from __future__ import annotations

import functools

from pluggableflow.connection import Changes, Connection, Lease
from pluggableflow.exceptions import FlowOwned
from pluggableflow.middleware import new_uuid
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.records import LONG, at_once, atom_record, claimed, saved_flow


class RaceTests(ConnectionKit):
    """Threads that use one connection at once."""

    def test_of_many_threads_that_claim_one_flow_one_wins(self, connection: Connection) -> None:
        flow = saved_flow(connection, factory={"name": "m:f"})
        for flow_uuid in (flow.uuid, None):
            outcomes = at_once(8, functools.partial(_try_claim, connection, flow_uuid))
            winners = [lease for lease in outcomes if lease is not None]
            assert len(winners) == 1
            connection.release(winners[0])

    def test_of_many_commits_on_one_revision_one_is_applied(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        record = atom_record(flow, "added")

        def commit(_number: int) -> int:
            return connection.commit(claim.lease, 0, Changes(added=[record]))

        assert at_once(8, commit) == [1] * 8
        stored = connection.get_flow_details(flow.uuid)
        assert stored.revision == 1 and len(stored) == 3

    def test_threads_commit_to_different_flows_at_the_same_time(self, connection: Connection) -> None:
        flows = [saved_flow(connection, f"flow{number}") for number in range(6)]

        def work(number: int) -> int:
            claim = claimed(connection, flows[number])
            revision = claim.revision
            for step in range(25):
                added = [atom_record(flows[number], f"atom{step}")]
                revision = connection.commit(claim.lease, revision, Changes(added=added))
                connection.renew(claim.lease, LONG)
            return revision

        assert at_once(6, work) == [25] * 6
        for flow in flows:
            names = [atom.name for atom in connection.get_atoms_for_flow(flow.uuid)][2:]
            assert names == [f"atom{step}" for step in range(25)]


def _try_claim(connection: Connection, flow_uuid: str | None, _number: int) -> Lease | None:
    try:
        claim = connection.claim(token=new_uuid(), owner="racer", lease_seconds=LONG, flow_uuid=flow_uuid)
    except FlowOwned:
        return None
    return claim.lease if claim is not None else None
