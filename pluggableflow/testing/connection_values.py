# SPDX-License-Identifier: Apache-2.0
"""Sizes, types, names, order and damage of what is stored."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import uuid as uuids
from typing import Any, NamedTuple

import pytest

from pluggableflow import codec, states
from pluggableflow.connection import Changes, Connection, Lease
from pluggableflow.exceptions import LeaseLost, NotFound, PluggableFlowError, ValueTooLarge
from pluggableflow.middleware import FlowDetail, LogBook, Record, TaskDetail
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.records import LONG, Raw, atom_record, by_age, claimed, new_book, saved_flow

#: Texts above this are not really stored, so that a test run fits in the memory of a small machine.
PROBED_BYTES = 2**26
#: Names that a store must keep apart: case, blanks, composed and decomposed letters, letters that some languages sort
#: as one, digits of different scripts, characters beyond 16 bits.
NAMES = (
    "a", "A", "a ", " a", "a  ", "a\t", "á", "a\u0301", "a\u200d", "ss", "ß", "\u1e9e", "i", "ı", "İ", "1", "\u0661",
    "\U0001f600", "\U0001f601", "\U00020000", "\ufb01", "fi", "%", "_", "a_", "'", '"', "\\", "{a}", "a:b", "a/b",
    "a.b", "$a", "*", "\n", "x" * 255, "x" * 254 + "y", "\U0001f600" * 255,
)  # fmt: skip


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    label: str


class Pair(NamedTuple):
    first: Any
    second: Any


#: One value of every type that the codec writes.
VALUES: dict[str, Any] = {
    "none": None, "booleans": [True, False], "integers": [0, -1, 2**53 + 1, 2**63, -(2**70)],
    "floats": [0.1, -0.0, 1e308, 5e-324, math.inf, -math.inf], "text": "\x00\x1f\x7f\u2028\ud800 é \U0001f600 \\ \" '",
    "list": [[], [[1]]], "tuple": (1, (2,), ()), "set": {1, "1", (1,)}, "frozen set": frozenset({1}),
    "dictionary": {1: "int", "1": "str", (1, 2): "tuple", None: 0, "!": "tag", "$key": 1, "a.b": 2, "": 3},
    "bytes": b"\x00\xff", "byte array": bytearray(b"\x01"), "complex": 1 + 2j,
    "date": datetime.date(1, 1, 1), "time of day": datetime.time(23, 59, 59, 999999),
    "time": datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
    "naive time": datetime.datetime(9999, 12, 31, 23, 59, 59, 999999), "delta": datetime.timedelta(-1, 1, 1),
    "decimal": decimal.Decimal("1.10"), "uuid": uuids.UUID(int=5),
    "enum": Colour.RED, "dataclass": Point(1, "one"), "named tuple": Pair(1, {"two"}),
}  # fmt: skip


class ValueTests(ConnectionKit):
    """Every value and name comes back as it was."""

    def test_a_value_of_a_megabyte_comes_back(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        value = "é\U0001f600" * 50_000
        connection.commit(claim.lease, 0, Changes(changed={task.uuid: {"results": codec.dumps(value)}}))
        assert connection.get_atom_details(task.uuid).results == value

    def test_a_value_of_the_largest_size_comes_back(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        size = min(connection.largest_value_bytes, connection.largest_commit_bytes, PROBED_BYTES)
        text = codec.dumps("x" * (size - 2))
        connection.commit(claim.lease, 0, Changes(changed={task.uuid: {"results": text}}))
        assert len(connection.get_atom_details(task.uuid).results) == size - 2

    @pytest.mark.parametrize("place", ["flow", "added", "changed"])
    def test_a_value_above_the_largest_size_is_refused_wherever_it_stands(
        self, connection: Connection, raw: Raw, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        flow = saved_flow(connection)
        task, retry = flow
        claim = claimed(connection, flow)
        if connection.largest_value_bytes > PROBED_BYTES:
            monkeypatch.setattr(connection, "largest_value_bytes", PROBED_BYTES, raising=False)
        text = "x" * (connection.largest_value_bytes + 1)
        changes = Changes({"state": states.RUNNING}, [atom_record(flow, "new")], {retry.uuid: {"attempt": 5}})
        if place == "flow":
            changes.flow["meta"] = text
        elif place == "added":
            changes.added[0]["results"] = text
        else:
            changes.changed[task.uuid] = {"results": text}
        self._assert_refused(connection, raw, flow, claim.lease, changes)

    def test_a_commit_of_the_largest_size_is_whole(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        size = min(connection.largest_commit_bytes, PROBED_BYTES)
        changes = self._changes_of(flow, size)
        assert connection.commit(claim.lease, 0, changes) == 1
        found = connection.get_atoms_for_flow(flow.uuid)[2:]
        assert [codec.dumps(atom.results) for atom in found] == [record["results"] for record in changes.added]

    def test_a_commit_above_the_largest_size_is_refused(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        changes = self._changes_of(flow, connection.largest_commit_bytes)
        changes.flow["priority"] = 1
        self._assert_refused(connection, raw, flow, claim.lease, changes)

    @staticmethod
    def _changes_of(flow: FlowDetail, size: int) -> Changes:
        """New atoms with one text of a megabyte or less, which take exactly ``size`` bytes in all."""
        bare = atom_record(flow, "atom 0000", results="")
        fixed = sum(len(value) if isinstance(value, str) else 16 for value in bare.values())
        count = -(-size // 2**20)
        each, left = divmod(size, count)
        texts = [codec.dumps("x" * (each - fixed - 2 + more)) for more in (0, 1)]
        return Changes(added=[{**atom_record(flow, f"atom {n:04}"), "results": texts[n < left]} for n in range(count)])

    @staticmethod
    def _assert_refused(connection: Connection, raw: Raw, flow: FlowDetail, lease: Lease, changes: Changes) -> None:
        before = raw("flow", flow.uuid), [raw("atom", atom.uuid) for atom in flow]
        with pytest.raises(ValueTooLarge):
            connection.commit(lease, 0, changes)
        assert (raw("flow", flow.uuid), [raw("atom", atom.uuid) for atom in flow]) == before
        assert len(connection.get_atoms_for_flow(flow.uuid)) == 2
        assert connection.commit(lease, 0, Changes(flow={"state": states.RUNNING})) == 1

    @pytest.mark.parametrize("what", VALUES)
    def test_every_type_of_the_codec_comes_back(self, connection: Connection, what: str) -> None:
        value = VALUES[what]
        flow = saved_flow(connection, meta={"key": value}, factory={"name": "module:function", "args": [value]})
        task, retry = flow
        claim = claimed(connection, flow)
        text, meta = codec.dumps(value), codec.dumps({"key": value})
        changed: dict[str, Record] = {
            task.uuid: {"results": text, "revert_results": text, "meta": meta},
            retry.uuid: {"results": codec.dumps([(value, {})]), "meta": meta},
        }
        connection.commit(claim.lease, 0, Changes(changed=changed))
        found = connection.get_flow_details(flow.uuid)
        task, retry = found
        assert found.factory is not None and found.parent_uuid is not None
        several = [task.results, task.revert_results, task.meta["key"], retry.results[0][0], retry.meta["key"]]
        for each in (*several, found.meta["key"], found.factory["args"][0]):
            assert each == value and type(each) is type(value)
        book = connection.get_logbook(found.parent_uuid)
        book.meta = {"key": value}
        connection.save_logbook(book)
        assert connection.get_logbook(book.uuid) == book

    # -- names and order ------------------------------------------------------------------------------------------

    def test_names_of_atoms_are_compared_by_code_point(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        connection.commit(claim.lease, 0, Changes(added=[atom_record(flow, name) for name in NAMES]))
        assert [atom.name for atom in connection.get_atoms_for_flow(flow.uuid)] == ["task", "retry", *NAMES]
        with pytest.raises(PluggableFlowError):
            connection.commit(claim.lease, 1, Changes(added=[atom_record(flow, "a ")]))

    def test_names_of_flows_and_books_are_compared_by_code_point(self, connection: Connection) -> None:
        books = [new_book(name, name=name) for name in NAMES]
        for book in books:
            connection.save_logbook(book)
        for book in books:
            (flow,) = book
            assert connection.get_logbook(book.uuid).name == book.name
            assert [each.uuid for each in connection.find_flows(name=flow.name)] == [flow.uuid]
        assert connection.find_flows(name="a   ") == [] and connection.find_flows(name="x" * 253) == []

    def test_owners_and_tokens_are_compared_by_code_point(self, connection: Connection) -> None:
        owners = ["owner", "Owner", "owner ", "öwner", "o\u0308wner", "\U0001f600"]
        leases = []
        for owner in owners:
            flow = saved_flow(connection)
            claim = connection.claim(token=f"{owner} token", owner=owner, lease_seconds=LONG, flow_uuid=flow.uuid)
            assert claim is not None
            leases.append(claim.lease)
        for lease in leases:
            assert [flow.uuid for flow in connection.find_flows(owner=lease.owner)] == [lease.flow_uuid]
            for token in (lease.token.upper(), f"{lease.token} "):
                other = dataclasses.replace(lease, token=token)
                with pytest.raises(LeaseLost):
                    connection.commit(other, 0, Changes(flow={"state": states.RUNNING}))
                with pytest.raises(LeaseLost):
                    connection.renew(other, LONG)
                connection.release(other)
            assert connection.commit(lease, 0, Changes(flow={"state": states.RUNNING})) == 1

    def test_ids_are_compared_by_code_point(self, connection: Connection) -> None:
        ids = ["id", "ID", "id ", "\u0131d"]
        for each in ids:
            book = LogBook(f"book of {each}", each)
            flow = FlowDetail(f"flow of {each}", each)
            flow.add(TaskDetail(f"task of {each}", each))
            book.add(flow)
            connection.save_logbook(book)
        for each in ids:
            assert connection.get_logbook(each, lazy=True).name == f"book of {each}"
            assert connection.get_flow_details(each, lazy=True).name == f"flow of {each}"
            assert connection.get_atom_details(each).name == f"task of {each}"
        with pytest.raises(NotFound):
            connection.get_flow_details("Id")

    def test_ten_thousand_atoms_keep_their_order(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        names = [f"atom {(number * 7919) % 10_000}" for number in range(10_000)]
        for revision in range(10):
            added = [atom_record(flow, name) for name in names[revision * 1000 : revision * 1000 + 1000]]
            connection.commit(claim.lease, revision, Changes(added=added))
        found = connection.get_flow_details(flow.uuid)
        assert [atom.name for atom in found][2:] == names
        changed: dict[str, Record] = {atom.uuid: {"state": states.SUCCESS} for atom in list(found)[::-20]}
        connection.commit(claim.lease, 10, Changes(changed=changed))
        atoms = connection.get_atoms_for_flow(flow.uuid)
        assert [atom.name for atom in atoms][2:] == names
        assert {atom.uuid for atom in atoms if atom.state == states.SUCCESS} == set(changed)

    def test_flows_of_one_age_are_ordered_by_uuid(self, connection: Connection) -> None:
        book = new_book(*(f"flow{number}" for number in range(20)))
        connection.save_logbook(book)
        expected = by_age(book)
        assert [flow.uuid for flow in connection.get_flows_for_book(book.uuid)] == expected
        assert [flow.uuid for flow in connection.get_logbook(book.uuid)] == expected
        assert [flow.uuid for flow in connection.find_flows()] == expected
        seen: list[str] = []
        while page := connection.find_flows(limit=3, after=seen[-1] if seen else None):
            assert page[-1].uuid not in seen, "a page comes again"
            seen += [flow.uuid for flow in page]
        assert seen == expected
