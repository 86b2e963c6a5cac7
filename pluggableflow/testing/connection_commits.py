# SPDX-License-Identifier: Apache-2.0
"""Commits."""

from __future__ import annotations

import pytest

from pluggableflow import states
from pluggableflow.connection import Changes, Connection, Lease
from pluggableflow.exceptions import LeaseLost, PluggableFlowError
from pluggableflow.middleware import Record
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.records import SHORT, Raw, atom_record, claimed, saved_flow


class CommitTests(ConnectionKit):
    """All or nothing, and only under the lease."""

    def test_a_commit_writes_all_its_changes_and_nothing_else(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        task, retry = flow
        claim = claimed(connection, flow)
        added = atom_record(flow, "added", state=states.RUNNING, attempt=1)
        changed: Record = {"state": states.SUCCESS, "results": "[1]"}
        changes = Changes(flow={"state": states.RUNNING}, added=[added], changed={task.uuid: changed})
        assert connection.commit(claim.lease, claim.revision, changes) == claim.revision + 1
        stored = raw("atom", task.uuid)
        assert stored is not None and (stored["state"], stored["results"]) == (states.SUCCESS, "[1]")
        stored = raw("atom", str(added["uuid"]))
        assert stored is not None and (stored["name"], stored["attempt"]) == ("added", 1)
        after = connection.get_flow_details(flow.uuid)
        assert (after.state, after.revision) == (states.RUNNING, 1)
        assert [atom.name for atom in after] == ["task", "retry", "added"]
        assert connection.get_atom_details(retry.uuid) == retry

    def test_a_commit_that_is_sent_again_succeeds_and_changes_nothing(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        changes = Changes(added=[atom_record(flow, "added")], flow={"state": states.RUNNING})
        for _ in range(3):
            assert connection.commit(claim.lease, claim.revision, changes) == 1
        stored = connection.get_flow_details(flow.uuid)
        assert stored.revision == 1 and len(stored) == 3

    @pytest.mark.parametrize("fault", ["token", "revision behind", "revision ahead", "taken over", "released"])
    def test_a_stale_lease_changes_nothing(self, connection: Connection, raw: Raw, fault: str) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        lease, revision = claim.lease, claim.revision
        for _ in range(3):
            revision = connection.commit(lease, revision, Changes(flow={"state": states.RUNNING}))
        if fault == "token":
            lease = Lease(flow.uuid, "other", lease.epoch, lease.owner, lease.expires_at)
        elif fault == "revision behind":
            revision -= 2
        elif fault == "revision ahead":
            revision += 1
        elif fault == "taken over":
            claimed(connection, flow, evict_epoch=lease.epoch)
        else:
            connection.release(lease)
        before = raw("flow", flow.uuid), raw("atom", task.uuid)
        added = atom_record(flow, "late")
        changes = Changes({"state": states.FAILURE}, [added], {task.uuid: {"state": states.FAILURE}})
        with pytest.raises(LeaseLost):
            connection.commit(lease, revision, changes)
        assert (raw("flow", flow.uuid), raw("atom", task.uuid)) == before
        assert raw("atom", str(added["uuid"])) is None

    def test_an_expired_lease_that_nobody_took_still_commits(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow, SHORT)
        assert connection.commit(claim.lease, claim.revision, Changes(flow={"state": states.RUNNING})) == 1

    def test_a_commit_that_fails_half_way_leaves_nothing(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        added = atom_record(flow, "added")
        twice = atom_record(flow, "added")  # the same name: unique in a flow
        before = raw("flow", flow.uuid), raw("atom", task.uuid)
        changes = Changes({"state": states.RUNNING}, [added, twice], {task.uuid: {"state": states.RUNNING}})
        with pytest.raises(PluggableFlowError):
            connection.commit(claim.lease, claim.revision, changes)
        assert (raw("flow", flow.uuid), raw("atom", task.uuid)) == before
        assert raw("atom", str(added["uuid"])) is None
        assert connection.commit(claim.lease, claim.revision, Changes(added=[added])) == 1
