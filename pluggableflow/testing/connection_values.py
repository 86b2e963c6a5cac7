# SPDX-License-Identifier: Apache-2.0
"""Sizes, types, names, order and damage of what is stored."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid as uuids

import pytest

from pluggableflow import codec
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import ValueTooLarge
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.records import Raw, atom_record, claimed, saved_flow


class ValueTests(ConnectionKit):
    """Every value and name comes back as it was."""

    def test_a_value_that_is_too_large_is_refused_and_nothing_is_written(
        self, connection: Connection, raw: Raw, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        monkeypatch.setattr(connection, "largest_value_bytes", 2**16, raising=False)
        before = raw("flow", flow.uuid), raw("atom", task.uuid)
        with pytest.raises(ValueTooLarge):
            connection.commit(claim.lease, 0, Changes(changed={task.uuid: {"results": "x" * (2**16 + 1)}}))
        assert (raw("flow", flow.uuid), raw("atom", task.uuid)) == before

    def test_a_value_of_a_megabyte_comes_back(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        value = "é\U0001f600" * 50_000
        connection.commit(claim.lease, 0, Changes(changed={task.uuid: {"results": codec.dumps(value)}}))
        assert connection.get_atom_details(task.uuid).results == value

    def test_every_type_of_the_codec_comes_back(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        value = {
            "plain": [None, True, 1, -(2**70), 1.5, math.inf, "text \x00 \U0001f600"],
            "tuple": (1, (2,)), "set": {1, 2}, "bytes": b"\x00\xff", (1, 2): "key",
            "time": datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
            "delta": datetime.timedelta(microseconds=1), "decimal": decimal.Decimal("1.10"), "uuid": uuids.UUID(int=5),
        }  # fmt: skip
        connection.commit(claim.lease, 0, Changes(changed={task.uuid: {"results": codec.dumps(value)}}))
        assert connection.get_atom_details(task.uuid).results == value

    def test_names_are_compared_by_code_point(self, connection: Connection) -> None:
        flow = saved_flow(connection, "Flow")
        names = ["a", "A", "a ", " a", "ä", "a\u0308", "\U0001f600", "x" * 255]
        claim = claimed(connection, flow)
        connection.commit(claim.lease, 0, Changes(added=[atom_record(flow, name) for name in names]))
        assert [atom.name for atom in connection.get_atoms_for_flow(flow.uuid)] == ["task", "retry", *names]
        assert connection.find_flows(name="flow") == [] and connection.find_flows(name="Flow ") == []

    def test_ten_thousand_atoms_keep_their_order(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        names = [f"atom {(number * 7919) % 10_000}" for number in range(10_000)]
        connection.commit(claim.lease, 0, Changes(added=[atom_record(flow, name) for name in names]))
        assert [atom.name for atom in connection.get_atoms_for_flow(flow.uuid)][2:] == names
