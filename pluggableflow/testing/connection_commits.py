# SPDX-License-Identifier: Apache-2.0
"""Commits."""

from __future__ import annotations

import pytest

from pluggableflow import states
from pluggableflow.connection import Changes, Connection, Lease
from pluggableflow.exceptions import LeaseLost, NotFound, PluggableFlowError, StorageFailure
from pluggableflow.middleware import ATOM_COLUMNS, FLOW_COLUMNS, FlowDetail, LogBook, Record, new_uuid
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.records import FACTORY, SHORT, Raw, atom_record, claimed, saved_flow


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

    def test_a_commit_writes_only_the_given_columns(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection, priority=3, meta={"kept": 1}, factory=FACTORY)
        task, retry = flow
        task.put(states.SUCCESS, "kept")
        task.meta, task.signature = {"progress": 0.5}, "kept"
        connection.update_atom_details(task)
        claim = claimed(connection, flow)
        before = {each.uuid: raw(kind, each.uuid) or {} for kind, each in (("flow", flow), ("atom", task))}
        changed: dict[str, Record] = {task.uuid: {"attempt": 7, "finished_at": 2**60}, retry.uuid: {"results": None}}
        connection.commit(claim.lease, claim.revision, Changes(flow={"wake_at": 2**60}, changed=changed))
        after = raw("flow", flow.uuid) or {}
        expected = {**before[flow.uuid], "wake_at": 2**60, "revision": claim.revision + 1}
        assert after["updated_at"] >= before[flow.uuid]["updated_at"]
        assert {column: after[column] for column in FLOW_COLUMNS if column != "updated_at"} == {
            column: expected[column] for column in FLOW_COLUMNS if column != "updated_at"
        }
        after = raw("atom", task.uuid) or {}
        expected = {**before[task.uuid], "attempt": 7, "finished_at": 2**60}
        assert {column: after[column] for column in ATOM_COLUMNS if column != "revision"} == {
            column: expected[column] for column in ATOM_COLUMNS if column != "revision"
        }

    def test_a_commit_writes_every_column(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        of_flow: Record = {"state": states.REVERTING, "meta": '{"a":1}', "factory": '{"name":"m:f"}'}
        of_flow |= {"wake_at": 2**53 + 1, "deadline_at": 2**60, "priority": -7, "request_handled": 5}
        of_atom: Record = {"version": "3.4", "state": states.REVERTED, "intention": states.REVERT}
        texts = "signature", "results", "failure", "revert_results", "revert_failure", "meta"
        of_atom |= {column: f'"{column}"' for column in texts}
        numbers = "attempt", "not_before", "deadline_at", "started_at", "finished_at"
        of_atom |= {column: 2**53 + number for number, column in enumerate(numbers)}
        added: Record = {**atom_record(flow, "added"), **of_atom}
        connection.commit(claim.lease, 0, Changes(of_flow, [added], {task.uuid: of_atom}))
        name: Record = {"name": "renamed"}
        connection.commit(claim.lease, 1, Changes(name, [], {task.uuid: name}))
        for kind, uuid, columns in (("flow", flow.uuid, of_flow), ("atom", task.uuid, of_atom)):
            stored = raw(kind, uuid) or {}
            assert {column: stored[column] for column in (*columns, "name")} == {**columns, **name}
        stored = raw("atom", str(added["uuid"])) or {}
        assert {column: stored[column] for column in added if column != "revision"} == {
            column: added[column] for column in added if column != "revision"
        }

    def test_a_commit_may_empty_a_column(self, connection: Connection) -> None:
        flow = saved_flow(connection, wake_at=5, meta={"a": 1}, factory=FACTORY)
        task, _retry = flow
        claim = claimed(connection, flow)
        connection.commit(claim.lease, 0, Changes(changed={task.uuid: {"results": "1", "not_before": 5}}))
        emptied: Record = {"results": None, "not_before": None}
        changes = Changes({"wake_at": None, "meta": None, "factory": None}, [], {task.uuid: emptied})
        connection.commit(claim.lease, 1, changes)
        found = connection.get_flow_details(flow.uuid)
        assert (found.wake_at, found.meta, found.factory) == (None, {}, None)
        assert [(atom.results, atom.not_before) for atom in found][0] == (None, None)

    def test_an_empty_commit_raises_the_revision(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        assert [connection.commit(claim.lease, revision, Changes()) for revision in range(3)] == [1, 2, 3]
        assert connection.commit(claim.lease, 2, Changes()) == 3
        assert connection.get_flow_details(flow.uuid, lazy=True).revision == 3

    def test_a_commit_adds_to_and_changes_a_flow_of_no_atoms(self, connection: Connection) -> None:
        book = LogBook("book")
        flow = FlowDetail("flow")
        book.add(flow)
        connection.save_logbook(book)
        claim = claimed(connection, flow)
        record = atom_record(flow, "first")
        connection.commit(claim.lease, 0, Changes(added=[record]))
        connection.commit(claim.lease, 1, Changes(changed={str(record["uuid"]): {"state": states.SUCCESS}}))
        (atom,) = connection.get_atoms_for_flow(flow.uuid)
        assert (atom.uuid, atom.parent_uuid, atom.state) == (record["uuid"], flow.uuid, states.SUCCESS)

    def test_a_commit_that_is_sent_again_after_a_later_one_or_a_takeover_is_refused(
        self, connection: Connection
    ) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        first = Changes(changed={task.uuid: {"results": "1"}})
        connection.commit(claim.lease, 0, first)
        second = claimed(connection, flow, evict_epoch=1)
        with pytest.raises(LeaseLost):
            connection.commit(claim.lease, 0, first)  # applied once, but the lease is another's by now
        connection.commit(second.lease, 1, Changes(changed={task.uuid: {"results": "2"}}))
        with pytest.raises(LeaseLost):
            connection.commit(second.lease, 0, first)
        assert connection.get_atom_details(task.uuid).results == 2

    def test_a_holder_before_last_cannot_commit_on_the_revision_of_the_present_one(
        self, connection: Connection
    ) -> None:
        flow = saved_flow(connection)
        first = claimed(connection, flow)
        second = claimed(connection, flow, evict_epoch=1)
        for revision in range(3):
            connection.commit(second.lease, revision, Changes(added=[atom_record(flow, f"atom{revision}")]))
            for stale in range(5):
                with pytest.raises(LeaseLost):
                    connection.commit(first.lease, stale, Changes(added=[atom_record(flow, "stale")]))
        assert [atom.name for atom in connection.get_atoms_for_flow(flow.uuid)][2:] == ["atom0", "atom1", "atom2"]

    def test_a_commit_to_a_flow_that_is_gone_is_refused(self, connection: Connection) -> None:
        unknown = Lease(new_uuid(), "token", 1, "tests", 2**60)
        with pytest.raises(LeaseLost) as lost:
            connection.commit(unknown, 0, Changes(flow={"state": states.RUNNING}))
        assert lost.value.flow_uuid == unknown.flow_uuid
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        assert flow.parent_uuid is not None
        connection.destroy_logbook(flow.parent_uuid, force=True)
        added = [atom_record(flow, "late")]
        with pytest.raises(LeaseLost):
            connection.commit(claim.lease, 0, Changes({"state": states.RUNNING}, added))
        with pytest.raises(NotFound):
            connection.get_atom_details(str(added[0]["uuid"]))

    def test_only_the_token_and_the_revision_decide(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        lease = Lease(flow.uuid, claim.lease.token, 77, "somebody else", 1)
        assert connection.commit(lease, 0, Changes(flow={"state": states.RUNNING})) == 1
        stored = connection.get_flow_details(flow.uuid, lazy=True)
        assert (stored.epoch, stored.owner, stored.lease_expires_at) == (1, "tests", claim.lease.expires_at)

    def test_a_commit_cannot_add_an_atom_that_is_there(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        before = raw("flow", flow.uuid), raw("atom", task.uuid)
        for again in (
            atom_record(flow, "task", uuid=task.uuid, state=states.SUCCESS),
            atom_record(flow, "other", uuid=task.uuid),
            atom_record(flow, "task"),
        ):
            with pytest.raises(StorageFailure):
                connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING}, added=[again]))
            assert (raw("flow", flow.uuid), raw("atom", task.uuid)) == before

    def test_a_commit_cannot_change_an_atom_that_is_not_there(self, connection: Connection, raw: Raw) -> None:
        flow, other = saved_flow(connection), saved_flow(connection)
        task, foreign = next(iter(flow)), next(iter(other))
        claim = claimed(connection, flow)
        before = raw("flow", flow.uuid), raw("atom", task.uuid), raw("atom", foreign.uuid)
        for uuid in (new_uuid(), foreign.uuid):
            changed: dict[str, Record] = {each: {"state": states.RUNNING} for each in (task.uuid, uuid)}
            with pytest.raises(NotFound):
                connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING}, changed=changed))
            with pytest.raises(LeaseLost):
                connection.commit(claim.lease, 2, Changes(changed=changed))
            assert (raw("flow", flow.uuid), raw("atom", task.uuid), raw("atom", foreign.uuid)) == before
