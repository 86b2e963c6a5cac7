# SPDX-License-Identifier: Apache-2.0
"""Leases and requests."""

from __future__ import annotations

from typing import Any

import pytest

from pluggableflow import states
from pluggableflow.connection import CANCEL, REQUEST_KINDS, SUSPEND, Changes, Connection, Lease
from pluggableflow.exceptions import FlowOwned, InvalidState, LeaseLost, OptionError
from pluggableflow.middleware import FLOW_COLUMNS, new_uuid
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.records import FACTORY, LONG, SHORT, Raw, by_age, claimed, new_book, saved_flow, scan


class OwnershipTests(ConnectionKit):
    """One owner at a time."""

    def test_a_claim_takes_a_free_flow_and_tells_its_revision(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        assert (claim.lease.epoch, claim.revision, claim.request) == (1, 0, None)
        assert claim.lease.expires_at - claim.now == int(LONG * 1e6)
        stored = raw("flow", flow.uuid)
        assert stored is not None
        assert (stored["token"], stored["owner"], stored["epoch"]) == (claim.lease.token, "tests", 1)

    def test_a_claim_of_a_leased_flow_names_the_owner(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        claimed(connection, flow)
        before = raw("flow", flow.uuid)
        with pytest.raises(FlowOwned, match="tests"):
            claimed(connection, flow)
        with pytest.raises(FlowOwned):
            claimed(connection, flow, evict_epoch=7)
        assert raw("flow", flow.uuid) == before

    def test_a_claim_that_is_sent_again_keeps_its_epoch(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        token = new_uuid()
        for _ in range(2):
            claim = connection.claim(token=token, owner="o", lease_seconds=LONG, flow_uuid=flow.uuid)
            assert claim is not None and claim.lease.epoch == 1

    def test_an_expired_or_evicted_lease_is_taken_with_a_higher_epoch(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claimed(connection, flow, SHORT)
        second = claimed(connection, flow)
        assert second.lease.epoch == 2
        assert claimed(connection, flow, evict_epoch=2).lease.epoch == 3
        with pytest.raises(LeaseLost):
            connection.renew(second.lease, LONG)

    def test_a_claim_that_is_sent_again_only_extends_the_lease(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        first = connection.claim(token="mine", owner="tests", lease_seconds=LONG, flow_uuid=flow.uuid)
        assert first is not None
        connection.commit(first.lease, 0, Changes(flow={"state": states.RUNNING}))
        again = connection.claim(token="mine", owner="tests", lease_seconds=2 * LONG, flow_uuid=flow.uuid)
        assert again is not None and (again.lease.epoch, again.revision) == (1, 1)
        assert again.lease.expires_at - again.now == int(2 * LONG * 1e6)
        stored = raw("flow", flow.uuid)
        assert stored is not None and stored["lease_expires_at"] == again.lease.expires_at
        assert connection.commit(first.lease, 1, Changes(flow={"state": states.RUNNING})) == 2

    def test_a_claim_that_is_sent_again_after_a_takeover_is_refused(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection, factory=FACTORY)
        claimed(connection, flow, SHORT)
        evicting: dict[str, Any] = {"token": "first", "owner": "first", "lease_seconds": LONG, "evict_epoch": 1}
        first = connection.claim(flow_uuid=flow.uuid, **evicting)
        assert first is not None and first.lease.epoch == 2
        second = claimed(connection, flow, evict_epoch=2)
        before = raw("flow", flow.uuid)
        with pytest.raises(FlowOwned) as owned:
            connection.claim(flow_uuid=flow.uuid, **evicting)
        assert (owned.value.owner, owned.value.epoch) == ("tests", 3)
        with pytest.raises(FlowOwned):
            connection.claim(token="first", owner="first", lease_seconds=LONG, flow_uuid=flow.uuid)
        assert connection.claim(token="first", owner="first", lease_seconds=LONG) is None
        assert raw("flow", flow.uuid) == before
        assert connection.commit(second.lease, 0, Changes()) == 1

    def test_a_claim_by_uuid_takes_any_free_flow(self, connection: Connection) -> None:
        for state in (states.SUCCESS, states.SUSPENDED, states.REVERTED, states.FAILURE):
            flow = saved_flow(connection, state=state, wake_at=2**60)
            claim = claimed(connection, flow, evict_epoch=5)
            assert (claim.lease.flow_uuid, claim.lease.epoch) == (flow.uuid, 1)
            assert connection.get_flow_details(flow.uuid, lazy=True).state == state
            assert connection.commit(claim.lease, 0, Changes(flow={"state": states.PENDING})) == 1

    def test_a_claim_changes_neither_revision_nor_contents(self, connection: Connection) -> None:
        flow = saved_flow(connection, factory=FACTORY, meta={"a": 1})
        before = connection.get_flow_details(flow.uuid)
        lease = claimed(connection, flow).lease
        connection.renew(lease, LONG)
        connection.release(lease)
        after = connection.get_flow_details(flow.uuid)
        assert list(after) == list(before)
        for column in ("name", "state", "meta", "factory", "revision", "priority", "created_at", "request_sequence"):
            assert getattr(after, column) == getattr(before, column), column

    def test_a_scan_takes_an_expired_and_a_released_flow_again(self, connection: Connection) -> None:
        expired, released = (saved_flow(connection, name, factory=FACTORY) for name in ("expired", "released"))
        lost = claimed(connection, expired, SHORT).lease
        connection.release(claimed(connection, released).lease)
        assert sorted(scan(connection)) == sorted([expired.uuid, released.uuid])
        assert [flow.epoch for flow in connection.find_flows(owner="scanner")] == [2, 2]
        with pytest.raises(LeaseLost):
            connection.renew(lost, LONG)

    def test_a_scan_sees_what_commits_and_updates_make_runnable(self, connection: Connection) -> None:
        flow, other = saved_flow(connection, factory=FACTORY), saved_flow(connection, "other")
        claim = claimed(connection, flow)
        connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING, "wake_at": 2**60}))
        connection.release(claim.lease)
        assert scan(connection) == []
        flow.wake_at, other.factory, other.priority = None, FACTORY, 1
        connection.update_flow_details(flow)
        connection.update_flow_details(other)
        assert scan(connection) == [other.uuid, flow.uuid]
        finished = claimed(connection, flow, evict_epoch=2)
        connection.commit(finished.lease, finished.revision, Changes(flow={"state": states.SUCCESS}))
        connection.release(finished.lease)
        assert scan(connection) == []

    def test_a_scan_orders_by_any_priority(self, connection: Connection) -> None:
        priorities = [0, -(2**31), 2**31, -1, 1, 0]
        flows = [saved_flow(connection, f"f{n}", factory=FACTORY, priority=p) for n, p in enumerate(priorities)]
        expected = sorted(flows, key=lambda flow: (-flow.priority, flow.created_at, flow.uuid))
        assert scan(connection) == [flow.uuid for flow in expected]

    def test_a_scan_takes_flows_of_one_age_by_their_uuids(self, connection: Connection) -> None:
        book = new_book(*(f"flow{number}" for number in range(10)))
        for flow in book:
            flow.factory = FACTORY
        connection.save_logbook(book)
        assert scan(connection) == by_age(book)

    def test_a_token_of_64_characters_and_a_fraction_of_a_second_are_taken(self, connection: Connection) -> None:
        flow, token = saved_flow(connection), "t" * 63 + "é"
        claim = connection.claim(token=token, owner="o" * 255, lease_seconds=600.25, flow_uuid=flow.uuid)
        assert claim is not None and claim.lease.expires_at - claim.now == 600_250_000
        stored = connection.get_flow_details(flow.uuid, lazy=True)
        assert (stored.token, stored.owner) == (token, "o" * 255)

    def test_a_scan_takes_what_is_runnable_by_priority_and_age(self, connection: Connection) -> None:
        made_again = {"name": "module:function"}
        saved_flow(connection, "no factory")
        saved_flow(connection, "suspended", factory=made_again, state=states.SUSPENDED)
        saved_flow(connection, "finished", factory=made_again, state=states.SUCCESS)
        saved_flow(connection, "later", factory=made_again, wake_at=2**60)
        leased = saved_flow(connection, "leased", factory=made_again)
        claimed(connection, leased)
        runnable = [
            saved_flow(connection, state, factory=made_again, state=state, priority=priority, wake_at=1)
            for state, priority in [
                (states.PENDING, 0),
                (states.RUNNING, 5),
                (states.REVERTING, 0),
                (states.RESUMING, 5),
            ]
        ]
        expected = sorted(runnable, key=lambda flow: (-flow.priority, flow.created_at, flow.uuid))
        assert scan(connection) == [flow.uuid for flow in expected]

    def test_a_scan_that_is_sent_again_takes_no_second_flow(self, connection: Connection) -> None:
        for name in ("one", "two"):
            saved_flow(connection, name, factory={"name": "m:f"})
        first = connection.claim(token="token", owner="o", lease_seconds=LONG)
        again = connection.claim(token="token", owner="o", lease_seconds=LONG)
        assert first is not None and again is not None
        assert first.lease.flow_uuid == again.lease.flow_uuid and again.lease.epoch == 1

    def test_renewing_extends_the_lease_also_after_it_ran_out(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        lease = claimed(connection, flow, SHORT).lease
        renewal = connection.renew(lease, LONG)
        assert renewal.expires_at - renewal.now == int(LONG * 1e6)
        assert lease.expires_at == renewal.expires_at and renewal.request is None
        stored = raw("flow", flow.uuid)
        assert stored is not None and stored["lease_expires_at"] == renewal.expires_at
        with pytest.raises(FlowOwned):
            claimed(connection, flow)

    def test_renewing_a_lost_lease_changes_nothing(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        released, lost = claimed(connection, flow).lease, claimed(connection, flow, evict_epoch=1).lease
        claimed(connection, flow, evict_epoch=2)
        gone = Lease(new_uuid(), "token", 1, "tests", 5)
        before = raw("flow", flow.uuid)
        for lease in (released, lost, gone):
            expiry = lease.expires_at
            with pytest.raises(LeaseLost, match=lease.flow_uuid):
                connection.renew(lease, LONG)
            assert lease.expires_at == expiry
            connection.release(lease)
        assert raw("flow", flow.uuid) == before

    def test_a_lease_may_be_shortened(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        lease = claimed(connection, flow).lease
        assert connection.renew(lease, SHORT).expires_at == lease.expires_at
        assert claimed(connection, flow).lease.epoch == 2

    def test_releasing_frees_the_flow_and_leaves_a_trace(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        lease = claimed(connection, flow).lease
        connection.release(lease)
        connection.release(lease)
        stored = connection.get_flow_details(flow.uuid, lazy=True)
        assert (stored.token, stored.lease_expires_at, stored.owner, stored.epoch) == (None, None, "tests", 1)
        second = claimed(connection, flow)
        connection.release(lease)
        assert connection.renew(second.lease, LONG).now > 0

    def test_a_request_stays_pending_until_a_commit_acknowledges_it(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        first = connection.request(flow.uuid, SUSPEND, "operator")
        assert (first.kind, first.by, first.sequence) == (SUSPEND, "operator", 1)
        assert connection.renew(claim.lease, LONG).request == first
        second = connection.request(flow.uuid, CANCEL, "operator")
        assert second.sequence == 2
        assert connection.renew(claim.lease, LONG).request == second
        connection.commit(claim.lease, 0, Changes(flow={"request_handled": 2}))
        assert connection.renew(claim.lease, LONG).request is None
        connection.release(claim.lease)
        third = connection.request(flow.uuid, SUSPEND, "operator")
        assert claimed(connection, flow).request == third

    def test_a_finished_flow_takes_no_request(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection, state=states.SUCCESS)
        before = raw("flow", flow.uuid)
        with pytest.raises(InvalidState):
            connection.request(flow.uuid, SUSPEND, "operator")
        with pytest.raises(OptionError):
            connection.request(flow.uuid, "DANCE", "operator")
        assert raw("flow", flow.uuid) == before

    def test_acknowledging_a_request_leaves_a_newer_one_pending(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        first = connection.request(flow.uuid, SUSPEND, "one")
        assert connection.renew(claim.lease, LONG).request == first
        second = connection.request(flow.uuid, CANCEL, "two")  # after the holder was told, before it commits
        connection.commit(claim.lease, 0, Changes(flow={"request_handled": first.sequence}))
        assert connection.renew(claim.lease, LONG).request == second
        assert claimed(connection, flow, evict_epoch=1).request == second

    def test_a_request_touches_nothing_else(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection, meta={"a": 1})
        claim = claimed(connection, flow)
        before = raw("flow", flow.uuid) or {}
        for kind in REQUEST_KINDS:
            connection.request(flow.uuid, kind, "an operator, é \U0001f600")
        after = raw("flow", flow.uuid) or {}
        asked = {"request": REQUEST_KINDS[-1], "request_by": "an operator, é \U0001f600", "request_sequence": 3}
        for column in set(FLOW_COLUMNS) - {"updated_at"}:
            assert after[column] == {**before, **asked}[column], column
        assert connection.commit(claim.lease, 0, Changes(flow={"state": states.SUSPENDED})) == 1

    def test_a_request_is_accepted_in_every_unfinished_state_only(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim, revision, sequence = claimed(connection, flow), 0, 0
        for state in (*sorted(states.UNFINISHED), *sorted(states.FINISHED)):
            revision = connection.commit(claim.lease, revision, Changes(flow={"state": state}))
            if state in states.UNFINISHED:
                sequence += 1
                assert connection.request(flow.uuid, SUSPEND, "operator").sequence == sequence
            else:
                with pytest.raises(InvalidState):
                    connection.request(flow.uuid, SUSPEND, "operator")
        assert connection.get_flow_details(flow.uuid, lazy=True).request_sequence == sequence
