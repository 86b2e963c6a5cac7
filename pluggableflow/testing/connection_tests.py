# SPDX-License-Identifier: Apache-2.0
"""The contract of :class:`pluggableflow.connection.Connection`, as tests.

The author of a backend subclasses :class:`ConnectionTests` and supplies two fixtures: ``connection``, a new empty
store that is closed afterwards, and ``raw``, a function ``raw(kind, uuid)`` that reads the stored columns of a
``"logbook"``, ``"flow"`` or ``"atom"`` without the connection (``None`` if there is no such record), so that writes
are checked without the read path. A test of the kit cannot be overridden.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import math
import threading
import uuid as uuids
from collections.abc import Callable
from typing import Any

import pytest

from pluggableflow import codec, states
from pluggableflow.connection import CANCEL, SUSPEND, Changes, Claim, Connection, Lease
from pluggableflow.exceptions import (
    FlowOwned,
    InvalidState,
    LeaseLost,
    NotFound,
    OptionError,
    PluggableFlowError,
    ValueTooLarge,
)
from pluggableflow.failure import Failure
from pluggableflow.middleware import FlowDetail, LogBook, Record, RetryDetail, TaskDetail, new_uuid

#: Long enough that no lease of a test runs out by itself.
LONG = 600.0
#: Has run out by the time the call returns.
SHORT = 1e-6

Raw = Callable[[str, str], dict[str, Any] | None]


def new_book(*flow_names: str, name: str = "book") -> LogBook:
    """A book with a flow of each name, each with a task and a retry."""
    book = LogBook(name)
    for flow_name in flow_names:
        flow = FlowDetail(flow_name)
        flow.add(TaskDetail("task"))
        flow.add(RetryDetail("retry"))
        book.add(flow)
    return book


def saved_flow(connection: Connection, name: str = "flow", **columns: Any) -> FlowDetail:
    """A stored flow of its own book."""
    book = new_book(name)
    (flow,) = book
    for column, value in columns.items():
        setattr(flow, column, value)
    connection.save_logbook(book)
    return flow


def claimed(connection: Connection, flow: FlowDetail, seconds: float = LONG, **options: Any) -> Claim:
    """A successful claim of a flow."""
    found = connection.claim(token=new_uuid(), owner="tests", lease_seconds=seconds, flow_uuid=flow.uuid, **options)
    assert found is not None
    return found


def atom_record(flow: FlowDetail, name: str, **columns: Any) -> Record:
    """A complete record of a new task."""
    detail = TaskDetail(name)
    detail.parent_uuid = flow.uuid
    return {**detail.to_record(), **columns}


class ConnectionTests:
    """Every method of the contract. See the module."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        overridden = sorted(name for name in vars(cls) if name.startswith("test_") and hasattr(ConnectionTests, name))
        if overridden:
            raise TypeError(f"{cls.__name__} overrides {', '.join(overridden)}; tests of the kit cannot be overridden")

    # -- life -----------------------------------------------------------------------------------------------------

    def test_abilities_are_declared(self, connection: Connection) -> None:
        assert isinstance(connection.durable, bool) and isinstance(connection.shared, bool)
        assert connection.largest_value_bytes >= 2**20 and connection.largest_commit_bytes >= 2**20

    def test_upgrade_may_be_called_again_and_keeps_data(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        connection.upgrade()
        connection.upgrade()
        connection.validate()
        assert connection.get_flow_details(flow.uuid) == flow

    def test_close_may_be_called_again(self, connection: Connection) -> None:
        connection.close()
        connection.close()

    def test_clear_all_deletes_everything_also_what_is_leased(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        lease = claimed(connection, flow).lease
        connection.clear_all()
        assert connection.get_logbooks() == []
        assert connection.find_flows() == []
        assert raw("flow", flow.uuid) is None
        assert all(raw("atom", atom.uuid) is None for atom in flow)
        with pytest.raises(LeaseLost):
            connection.commit(lease, 0, Changes(flow={"state": states.RUNNING}))

    # -- logbooks -------------------------------------------------------------------------------------------------

    def test_a_book_comes_back_equal(self, connection: Connection) -> None:
        book = new_book("one", "two")
        book.meta = {"key": ("tuple", {1, 2})}
        first, _second = book
        first.meta, first.priority, first.wake_at = {"a": 1}, 7, 12345
        first.factory = {"name": "module:function", "args": [], "kwargs": {}}
        connection.save_logbook(book)
        assert book.created_at and book.updated_at and first.created_at
        assert connection.get_logbook(book.uuid) == book

    def test_what_is_written_is_in_the_store(self, connection: Connection, raw: Raw) -> None:
        book = new_book("flow")
        connection.save_logbook(book)
        (flow,) = book
        stored = raw("flow", flow.uuid)
        assert stored is not None
        assert {**flow.to_record()} == {column: stored[column] for column in flow.to_record()}
        for atom in flow:
            stored = raw("atom", atom.uuid)
            assert stored is not None
            assert atom.to_record() == {column: stored[column] for column in atom.to_record()}
        stored = raw("logbook", book.uuid)
        assert stored is not None and stored["name"] == "book"

    def test_saving_a_book_again_updates_its_meta_and_adds_only_new_flows(self, connection: Connection) -> None:
        book = new_book("one")
        connection.save_logbook(book)
        created_at = book.created_at
        (one,) = book
        one.state = states.FAILURE
        book.meta = {"new": True}
        book.add(FlowDetail("two"))
        connection.save_logbook(book)
        stored = connection.get_logbook(book.uuid)
        assert stored.meta == {"new": True} and stored.created_at == created_at
        assert [(flow.name, flow.state) for flow in stored] == [("one", states.PENDING), ("two", states.PENDING)]

    def test_books_are_listed_oldest_first(self, connection: Connection) -> None:
        assert connection.get_logbooks() == []
        books = [new_book("flow", name=name) for name in "bac"]
        for book in books:
            connection.save_logbook(book)
        expected = sorted(books, key=lambda book: (book.created_at, book.uuid))
        assert [book.uuid for book in connection.get_logbooks()] == [book.uuid for book in expected]

    def test_a_lazy_read_leaves_out_what_is_below(self, connection: Connection) -> None:
        book = new_book("one", "two")
        connection.save_logbook(book)
        assert len(connection.get_logbook(book.uuid, lazy=True)) == 0
        assert [len(each) for each in connection.get_logbooks(lazy=True)] == [0]
        assert [len(flow) for flow in connection.get_flows_for_book(book.uuid, lazy=True)] == [0, 0]
        assert [len(flow) for flow in connection.get_flows_for_book(book.uuid)] == [2, 2]
        (first, _second) = book
        assert len(connection.get_flow_details(first.uuid, lazy=True)) == 0

    def test_destroying_a_book_takes_everything_below(self, connection: Connection, raw: Raw) -> None:
        book, other = new_book("one", "two"), new_book("three")
        connection.save_logbook(book)
        connection.save_logbook(other)
        connection.destroy_logbook(book.uuid)
        assert raw("logbook", book.uuid) is None
        for flow in book:
            assert raw("flow", flow.uuid) is None
            assert all(raw("atom", atom.uuid) is None for atom in flow)
        assert connection.get_logbook(other.uuid) == other

    def test_a_book_with_a_leased_flow_is_destroyed_only_by_force(self, connection: Connection) -> None:
        book = new_book("flow")
        connection.save_logbook(book)
        (flow,) = book
        lease = claimed(connection, flow).lease
        with pytest.raises(FlowOwned):
            connection.destroy_logbook(book.uuid)
        assert connection.get_logbook(book.uuid).name == "book"
        connection.destroy_logbook(book.uuid, force=True)
        with pytest.raises(LeaseLost):
            connection.commit(lease, 0, Changes(flow={"state": states.RUNNING}))
        with pytest.raises(LeaseLost):
            connection.renew(lease, LONG)
        connection.release(lease)

    def test_an_unknown_uuid_is_named(self, connection: Connection) -> None:
        unknown = new_uuid()
        calls: list[Callable[[], object]] = [
            lambda: connection.get_logbook(unknown),
            lambda: connection.destroy_logbook(unknown),
            lambda: connection.get_flow_details(unknown),
            lambda: connection.get_flows_for_book(unknown),
            lambda: connection.get_atoms_for_flow(unknown),
            lambda: connection.get_atom_details(unknown),
            lambda: connection.update_flow_details(FlowDetail("flow", unknown)),
            lambda: connection.update_atom_details(TaskDetail("task", unknown)),
            lambda: connection.find_flows(after=unknown),
            lambda: connection.request(unknown, SUSPEND, "me"),
            lambda: connection.claim(token="t", owner="o", lease_seconds=LONG, flow_uuid=unknown),
        ]
        for call in calls:
            with pytest.raises(NotFound, match=unknown):
                call()

    # -- flows and atoms ------------------------------------------------------------------------------------------

    def test_updating_a_flow_writes_it_and_its_atoms(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        flow.state, flow.meta, flow.priority = states.SUSPENDED, {"k": [1]}, 3
        task.put(states.SUCCESS, {"value": (1, 2)})
        flow.add(TaskDetail("third"))
        connection.update_flow_details(flow)
        stored = connection.get_flow_details(flow.uuid)
        assert (stored.state, stored.meta, stored.priority) == (states.SUSPENDED, {"k": [1]}, 3)
        assert [atom.name for atom in stored] == ["task", "retry", "third"]
        assert next(iter(stored)).results == {"value": (1, 2)}

    def test_updating_a_flow_keeps_atoms_that_it_does_not_name(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        connection.update_flow_details(flow.copy(retain_contents=False))
        assert len(connection.get_flow_details(flow.uuid)) == 2

    def test_updates_never_touch_ownership_but_fence_an_expired_holder(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow, SHORT)
        before = connection.get_flow_details(flow.uuid, lazy=True)
        flow.token, flow.epoch, flow.owner, flow.revision = "mine", 99, "me", 55
        connection.update_flow_details(flow)
        after = connection.get_flow_details(flow.uuid, lazy=True)
        assert (after.token, after.epoch, after.owner) == (before.token, before.epoch, before.owner)
        assert after.revision == before.revision + 2
        with pytest.raises(LeaseLost):
            connection.commit(claim.lease, claim.revision, Changes(flow={"state": states.FAILURE}))

    def test_updates_are_refused_under_a_live_lease(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claimed(connection, flow)
        flow.state = states.FAILURE
        task, _retry = flow
        task.state = states.FAILURE
        with pytest.raises(FlowOwned) as owned:
            connection.update_flow_details(flow)
        assert owned.value.owner == "tests" and owned.value.epoch == 1 and 0 < owned.value.seconds_left <= LONG
        with pytest.raises(FlowOwned):
            connection.update_atom_details(task)
        stored = connection.get_flow_details(flow.uuid)
        assert stored.state == states.PENDING
        assert all(atom.state == states.PENDING for atom in stored)

    def test_updating_an_atom_writes_it(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        task, retry = flow
        task.put(states.FAILURE, Failure.from_exception(ValueError("broken")))
        retry.put(states.SUCCESS, 3)
        for atom in (task, retry):
            connection.update_atom_details(atom)
            assert connection.get_atom_details(atom.uuid) == atom
        assert connection.get_flow_details(flow.uuid, lazy=True).revision == 4

    def test_flows_are_found_by_every_condition(self, connection: Connection) -> None:
        first = saved_flow(connection, "alpha", state=states.SUCCESS)
        second = saved_flow(connection, "beta", state=states.FAILURE)
        connection.claim(token="t", owner="somebody", lease_seconds=LONG, flow_uuid=second.uuid)

        def found(**conditions: Any) -> list[str]:
            return [flow.name for flow in connection.find_flows(**conditions)]

        assert sorted(found()) == ["alpha", "beta"]
        assert found(states=[states.SUCCESS]) == ["alpha"]
        assert found(states=[]) == []
        assert found(name="beta") == ["beta"] and found(name="Beta") == []
        assert found(owner="somebody") == ["beta"] and found(owner="nobody") == []
        assert first.created_at is not None
        assert found(created_before=first.created_at) == []
        assert found(name="beta", states=[states.SUCCESS]) == []

    def test_pages_of_flows_cover_everything_once_in_order(self, connection: Connection) -> None:
        flows = [saved_flow(connection, f"flow{number}") for number in range(7)]
        expected = [flow.uuid for flow in sorted(flows, key=lambda flow: (flow.created_at, flow.uuid))]
        seen: list[str] = []
        while page := connection.find_flows(limit=3, after=seen[-1] if seen else None):
            assert len(page) <= 3
            seen += [flow.uuid for flow in page]
        assert seen == expected

    # -- commit ---------------------------------------------------------------------------------------------------

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

    # -- ownership ------------------------------------------------------------------------------------------------

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

    # -- races ----------------------------------------------------------------------------------------------------

    def test_of_many_threads_that_claim_one_flow_one_wins(self, connection: Connection) -> None:
        flow = saved_flow(connection, factory={"name": "m:f"})
        for flow_uuid in (flow.uuid, None):
            outcomes = _at_once(8, functools.partial(_try_claim, connection, flow_uuid))
            winners = [lease for lease in outcomes if lease is not None]
            assert len(winners) == 1
            connection.release(winners[0])

    def test_of_many_commits_on_one_revision_one_is_applied(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        record = atom_record(flow, "added")

        def commit(_number: int) -> int:
            return connection.commit(claim.lease, 0, Changes(added=[record]))

        assert _at_once(8, commit) == [1] * 8
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

        assert _at_once(6, work) == [25] * 6
        for flow in flows:
            names = [atom.name for atom in connection.get_atoms_for_flow(flow.uuid)][2:]
            assert names == [f"atom{step}" for step in range(25)]


def _try_claim(connection: Connection, flow_uuid: str | None, _number: int) -> Lease | None:
    try:
        claim = connection.claim(token=new_uuid(), owner="racer", lease_seconds=LONG, flow_uuid=flow_uuid)
    except FlowOwned:
        return None
    return claim.lease if claim is not None else None


def _at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What ``work`` returns for each number, called by as many threads that set off together."""
    barrier, outcomes, errors = threading.Barrier(count), [None] * count, []

    def run(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return outcomes
