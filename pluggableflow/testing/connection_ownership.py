# SPDX-License-Identifier: Apache-2.0
"""Leases and requests."""

from __future__ import annotations

import pytest

from pluggableflow import states
from pluggableflow.connection import CANCEL, SUSPEND, Changes, Connection
from pluggableflow.exceptions import FlowOwned, InvalidState, LeaseLost, OptionError
from pluggableflow.middleware import new_uuid
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.records import LONG, SHORT, Raw, claimed, saved_flow


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
        taken = []
        while claim := connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG):
            taken.append(claim.lease.flow_uuid)
        assert taken == [flow.uuid for flow in expected]

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
