# SPDX-License-Identifier: Apache-2.0
"""Records that cannot be read."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from pluggableflow import codec, states
from pluggableflow.connection import SUSPEND, Changes, Connection
from pluggableflow.exceptions import DamagedRecord
from pluggableflow.middleware import FlowDetail
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.records import FACTORY, LONG, atom_record, claimed, saved_flow, scan

#: Text that no release of the codec writes.
BROKEN = '{"broken'

Damage = Callable[[str, str], None]


def three_flows(connection: Connection) -> list[FlowDetail]:
    """Three runnable flows, each of its own book, oldest first; the middle one is to be damaged."""
    flows = [saved_flow(connection, f"flow{number}", factory=FACTORY) for number in range(3)]
    return sorted(flows, key=lambda flow: (flow.created_at or 0, flow.uuid))


class DamageTests(ConnectionKit):
    """A damaged record is named, and hinders no call about others."""

    @pytest.mark.parametrize("column", ["meta", "factory", "codec_version"])
    def test_a_flow_that_cannot_be_decoded_is_named_and_listed(self, connection: Connection, column: str) -> None:
        flows = three_flows(connection)
        bad = flows[1]
        claim = claimed(connection, bad)
        value = codec.CODEC_VERSION + 1 if column == "codec_version" else BROKEN
        connection.commit(claim.lease, 0, Changes(flow={column: value}))
        connection.release(claim.lease)
        for lazy in (True, False):
            self._assert_named("flow", bad.uuid, functools.partial(connection.get_flow_details, bad.uuid, lazy))
        found = connection.find_flows()
        assert [flow.uuid for flow in found] == [flow.uuid for flow in flows]
        assert [flow.damage is not None for flow in found] == [False, True, False]
        assert (found[1].name, found[1].state, found[1].epoch) == (bad.name, states.PENDING, 1)
        assert [flow.uuid for flow in connection.find_flows(name=bad.name)] == [bad.uuid]
        assert [flow.uuid for flow in connection.find_flows(after=bad.uuid)] == [flows[2].uuid]
        self._assert_others_work(connection, flows)

    def test_a_flow_that_cannot_be_decoded_can_be_repaired(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        connection.commit(claim.lease, 0, Changes(flow={"meta": BROKEN, "factory": BROKEN}))
        connection.release(claim.lease)
        connection.update_flow_details(flow)
        found = connection.get_flow_details(flow.uuid)
        assert (found.meta, found.factory, found.revision) == ({}, None, 3)

    @pytest.mark.parametrize(
        "column", ["kind", "version", "results", "failure", "revert_results", "revert_failure", "meta"]
    )
    def test_an_atom_that_cannot_be_decoded_is_named(self, connection: Connection, column: str) -> None:
        flows = three_flows(connection)
        task, retry = flows[1]
        claim = claimed(connection, flows[1])
        connection.commit(claim.lease, 0, Changes(changed={task.uuid: {column: BROKEN}}))
        connection.release(claim.lease)
        self._assert_named("atom", task.uuid, lambda: connection.get_atom_details(task.uuid))
        self._assert_named("atom", task.uuid, lambda: connection.get_atoms_for_flow(flows[1].uuid))
        self._assert_named("atom", task.uuid, lambda: connection.get_flow_details(flows[1].uuid))
        assert connection.get_flow_details(flows[1].uuid, lazy=True).revision == 1
        assert connection.get_atom_details(retry.uuid).name == "retry"
        assert [flow.damage for flow in connection.find_flows()] == [None] * 3
        self._assert_others_work(connection, flows)

    @pytest.mark.parametrize("kind", ["logbook", "flow", "atom"])
    def test_a_record_that_the_store_damaged_is_named(self, connection: Connection, damage: Damage, kind: str) -> None:
        flows = three_flows(connection)
        bad = flows[1]
        task, _retry = bad
        book_uuid = bad.parent_uuid
        assert book_uuid is not None
        reads: dict[str, tuple[str, Callable[[], object]]] = {
            "logbook": (book_uuid, lambda: connection.get_logbook(book_uuid)),
            "flow": (bad.uuid, lambda: connection.get_flow_details(bad.uuid)),
            "atom": (task.uuid, lambda: connection.get_flow_details(bad.uuid)),
        }
        uuid, read = reads[kind]
        damage(kind, uuid)
        with pytest.raises(DamagedRecord) as damaged:
            read()
        named = damaged.value.record_kind, damaged.value.uuid
        # Where atoms lie within their flow, nobody can tell which of them it was.
        assert named == (kind, uuid) or (kind == "atom" and named == ("flow", bad.uuid))
        assert named[1] in str(damaged.value)
        others = [flow.uuid for flow in connection.find_flows() if flow.uuid != bad.uuid]
        assert others == [flows[0].uuid, flows[2].uuid]
        self._assert_others_work(connection, flows)

    @staticmethod
    def _assert_named(kind: str, uuid: str, read: Callable[[], object]) -> None:
        with pytest.raises(DamagedRecord, match=uuid) as damaged:
            read()
        assert (damaged.value.record_kind, damaged.value.uuid) == (kind, uuid)

    @staticmethod
    def _assert_others_work(connection: Connection, flows: list[FlowDetail]) -> None:
        """Of three flows the middle one is damaged, or its atom or book: everything about the others goes on."""
        for flow in (flows[0], flows[2]):
            assert flow.parent_uuid is not None
            assert connection.get_flow_details(flow.uuid) == flow
            assert connection.get_flows_for_book(flow.parent_uuid) == [flow]
            assert connection.get_logbook(flow.parent_uuid).name == "book"
            connection.update_flow_details(flow)
        added = saved_flow(connection, "added", factory=FACTORY)
        assert {flows[0].uuid, flows[2].uuid, added.uuid} <= set(scan(connection))
        for flow in (flows[0], flows[2], added):
            claim = claimed(connection, flow, evict_epoch=1)
            connection.commit(claim.lease, claim.revision, Changes(added=[atom_record(flow, "new")]))
            assert connection.request(flow.uuid, SUSPEND, "operator") == connection.renew(claim.lease, LONG).request
            connection.release(claim.lease)
            assert flow.parent_uuid is not None
            connection.destroy_logbook(flow.parent_uuid)
        connection.upgrade()
        connection.validate()
        connection.clear_all()
        assert connection.find_flows() == [] and connection.get_logbooks() == []
