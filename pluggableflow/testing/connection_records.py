# SPDX-License-Identifier: Apache-2.0
"""Life of a store; logbooks, flows and atoms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pluggableflow import states
from pluggableflow.connection import SUSPEND, Changes, Connection
from pluggableflow.exceptions import FlowOwned, LeaseLost, NotFound, PluggableFlowError
from pluggableflow.failure import Failure
from pluggableflow.middleware import FLOW_OWNERSHIP_COLUMNS, FlowDetail, LogBook, RetryDetail, TaskDetail, new_uuid
from pluggableflow.testing.abilities import STATED, ConnectionKit
from pluggableflow.testing.records import FACTORY, LONG, SHORT, Raw, claimed, new_book, saved_flow


class RecordTests(ConnectionKit):
    """What is written comes back."""

    # -- life ----------------------------------------------------------------------------------------------------

    def test_abilities_are_declared(self, connection: Connection) -> None:
        assert isinstance(connection.durable, bool) and isinstance(connection.shared, bool)
        assert connection.largest_value_bytes >= 2**20 and connection.largest_commit_bytes >= 2**20
        for ability, stated in STATED.items():
            dropped = ability in self.without and getattr(connection, stated)
            assert not dropped, f"`without` drops {ability!r}, but the connection's {stated!r} is true"

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

    def test_saving_a_book_sets_its_times_by_the_stores_clock(self, connection: Connection) -> None:
        start = claimed(connection, saved_flow(connection)).now
        assert 10**15 < start < 10**16  # microseconds of this time; in another unit there is a digit more or less
        book = new_book("one")
        (one,) = book
        connection.save_logbook(book)
        saved_at, first_update = book.created_at, book.updated_at
        end = claimed(connection, one).now
        assert saved_at is not None and one.created_at is not None
        assert start <= saved_at <= end and start <= one.created_at <= end
        book.add(FlowDetail("two"))
        connection.save_logbook(book)
        one, two = book
        assert book.created_at == saved_at and book.updated_at is not None and first_update is not None
        assert book.updated_at >= first_update and two.created_at is not None and two.created_at >= saved_at
        stored = connection.get_logbook(book.uuid)
        assert (stored.created_at, stored.updated_at) == (book.created_at, book.updated_at)

    def test_a_book_that_cannot_be_saved_whole_is_not_saved_at_all(self, connection: Connection, raw: Raw) -> None:
        book = new_book("one", "two")
        _one, two = book
        two.add(TaskDetail("task"))  # the same name: unique in a flow
        with pytest.raises(PluggableFlowError):
            connection.save_logbook(book)
        assert raw("logbook", book.uuid) is None
        for flow in book:
            assert raw("flow", flow.uuid) is None
            assert all(raw("atom", atom.uuid) is None for atom in flow)
        assert connection.find_flows() == [] and connection.get_logbooks() == []

    def test_a_flow_that_is_stored_already_is_left_as_it_is(self, connection: Connection) -> None:
        book = new_book("flow")
        connection.save_logbook(book)
        (flow,) = book
        before = connection.get_flow_details(flow.uuid)
        lease = claimed(connection, flow).lease
        flow.name, flow.state, flow.meta = "renamed", states.FAILURE, {"new": 1}
        flow.add(TaskDetail("third"))
        flow.add(TaskDetail("third"))  # would not be accepted either
        connection.save_logbook(book)
        connection.release(lease)
        after = connection.get_flow_details(flow.uuid)
        assert (after.name, after.state, after.meta, list(after)) == ("flow", states.PENDING, {}, list(before))

    def test_a_flow_stays_in_the_book_that_it_was_saved_with(self, connection: Connection) -> None:
        first, second = new_book("flow"), LogBook("second")
        connection.save_logbook(first)
        (flow,) = first
        second.add(flow.copy())
        connection.save_logbook(second)
        assert [each.uuid for each in connection.get_flows_for_book(first.uuid)] == [flow.uuid]
        assert connection.get_flows_for_book(second.uuid) == []
        connection.destroy_logbook(second.uuid)
        assert connection.get_flow_details(flow.uuid).parent_uuid == first.uuid

    def test_an_empty_book_and_an_empty_flow_are_kept(self, connection: Connection) -> None:
        book, empty = LogBook("book"), LogBook("empty")
        book.add(FlowDetail("flow"))
        for each in (book, empty):
            connection.save_logbook(each)
            assert connection.get_logbook(each.uuid) == each
        assert [len(each) for each in connection.get_logbooks()] == [1, 0]
        assert connection.get_flows_for_book(empty.uuid) == []
        (flow,) = book
        assert connection.get_atoms_for_flow(flow.uuid) == []

    def test_a_book_with_released_or_expired_flows_is_destroyed(self, connection: Connection) -> None:
        book = new_book("released", "expired")
        connection.save_logbook(book)
        released, expired = book
        connection.release(claimed(connection, released).lease)
        claimed(connection, expired, SHORT)
        connection.destroy_logbook(book.uuid)
        with pytest.raises(NotFound):
            connection.get_logbook(book.uuid)

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

    def test_updating_a_flow_writes_every_column_of_it_but_those_of_ownership(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        before = connection.get_flow_details(flow.uuid)
        flow.name, flow.state, flow.meta, flow.factory = "renamed", states.REVERTED, {"a": (1,)}, FACTORY
        flow.wake_at, flow.deadline_at, flow.priority = 2**53 + 1, 2**60, -7
        flow.request, flow.request_by, flow.request_sequence, flow.request_handled = SUSPEND, "me", 7, 5
        flow.lease_expires_at, flow.created_at = 2**60, 1
        connection.update_flow_details(flow)
        after = connection.get_flow_details(flow.uuid)
        for column in ("name", "state", "meta", "factory", "wake_at", "deadline_at", "priority"):
            assert getattr(after, column) == getattr(flow, column), column
        for column in ("created_at", "parent_uuid", *FLOW_OWNERSHIP_COLUMNS):
            if column != "revision":
                assert getattr(after, column) == getattr(before, column), column
        assert after.revision == 2
        flow.wake_at = flow.deadline_at = flow.factory = None
        connection.update_flow_details(flow)
        after = connection.get_flow_details(flow.uuid)
        assert (after.wake_at, after.deadline_at, after.factory, after.revision) == (None, None, None, 4)

    def test_an_update_that_cannot_be_written_whole_changes_nothing(self, connection: Connection, raw: Raw) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        before = raw("flow", flow.uuid), raw("atom", task.uuid)
        flow.state = task.state = states.FAILURE
        flow.add(TaskDetail("new"))
        flow.add(TaskDetail("new"))
        with pytest.raises(PluggableFlowError):
            connection.update_flow_details(flow)
        assert (raw("flow", flow.uuid), raw("atom", task.uuid)) == before
        assert len(connection.get_flow_details(flow.uuid)) == 2

    def test_updating_a_flow_keeps_atoms_that_it_does_not_name(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        connection.update_flow_details(flow.copy(retain_contents=False))
        assert len(connection.get_flow_details(flow.uuid)) == 2
        named = flow.copy(retain_contents=False)
        named.add(next(iter(flow)))
        connection.update_flow_details(named)
        assert [atom.name for atom in connection.get_flow_details(flow.uuid)] == ["task", "retry"]

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

    def test_updating_an_atom_writes_every_column_but_its_place(self, connection: Connection) -> None:
        flow, other = saved_flow(connection), saved_flow(connection, "other")
        atom, _retry = flow
        atom.name, atom.version, atom.state, atom.intention = "renamed", "3.4", states.REVERTED, states.REVERT
        atom.attempt, atom.signature, atom.results, atom.revert_results = 3, "signature", {"a": 1}, (1, 2)
        atom.failure = Failure.from_exception(ValueError("broken"))
        atom.revert_failure = Failure.from_exception(KeyError("revert"))
        atom.meta, atom.not_before, atom.deadline_at = {"progress": 0.5}, 2**53 + 1, 2**60
        atom.started_at, atom.finished_at = 1, 2
        written = atom.copy()
        written.parent_uuid = other.uuid
        connection.update_atom_details(written)
        found = connection.get_atom_details(atom.uuid)
        for column, value in atom.to_record().items():
            if column != "revision":
                assert found.to_record()[column] == value, column
        names = [[each.name for each in connection.get_atoms_for_flow(one.uuid)] for one in (flow, other)]
        assert names == [["renamed", "retry"], ["task", "retry"]]
        connection.update_atom_details(RetryDetail("renamed", atom.uuid))
        assert isinstance(connection.get_atom_details(atom.uuid), TaskDetail)

    def test_updating_an_atom_fences_an_expired_holder(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow, SHORT)
        task.put(states.SUCCESS, 1)
        connection.update_atom_details(task)
        with pytest.raises(LeaseLost):
            connection.commit(claim.lease, claim.revision, Changes(changed={task.uuid: {"results": "2"}}))
        assert connection.get_atom_details(task.uuid).results == 1

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
            assert len(page) <= 3 and page[-1].uuid not in seen, "a page comes again"
            seen += [flow.uuid for flow in page]
        assert seen == expected

    def test_a_search_gives_a_hundred_flows_where_no_limit_is_named(self, connection: Connection) -> None:
        book = new_book(*(f"flow{number}" for number in range(101)))
        connection.save_logbook(book)
        found = connection.find_flows()
        assert len(found) == 100 and len(connection.find_flows(after=found[-1].uuid)) == 1

    def test_conditions_of_a_search_take_any_collection_and_hold_on_every_page(self, connection: Connection) -> None:
        wanted = [states.SUCCESS, states.RUNNING]
        for number in range(12):
            state = [states.SUCCESS, states.FAILURE, states.RUNNING][number % 3]
            saved_flow(connection, f"flow{number}", state=state)
        everything = connection.find_flows()
        expected = [flow.uuid for flow in everything if flow.state in wanted]
        for form in (list, tuple, set, frozenset, dict.fromkeys):
            assert [flow.uuid for flow in connection.find_flows(states=form(wanted))] == expected
        seen: list[str] = []
        while page := connection.find_flows(states=wanted, limit=3, after=seen[-1] if seen else None):
            assert page[-1].uuid not in seen, "a page comes again"
            seen += [flow.uuid for flow in page]
        assert seen == expected
        middle = next(flow for flow in everything if flow.state == states.FAILURE)  # which is not itself listed
        later = everything[everything.index(middle) + 1 :]
        assert [flow.uuid for flow in connection.find_flows(states=wanted, after=middle.uuid)] == [
            flow.uuid for flow in later if flow.state in wanted
        ]
        assert [len(connection.find_flows(limit=limit)) for limit in (1, 12, 1000)] == [1, 12, 12]

    def test_a_search_by_age_is_exact(self, connection: Connection) -> None:
        flows = [saved_flow(connection, f"flow{number}") for number in range(5)]
        for flow in flows:
            assert flow.created_at is not None
            for moment in (flow.created_at, flow.created_at + 1):
                older = [each.uuid for each in flows if each.created_at is not None and each.created_at < moment]
                found = connection.find_flows(created_before=moment)
                assert sorted(each.uuid for each in found) == sorted(older)

    def test_a_search_finds_what_commits_have_changed(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        connection.commit(claim.lease, 0, Changes(flow={"state": states.REVERTING, "name": "renamed"}))
        (found,) = connection.find_flows(states=[states.REVERTING])
        assert (found.name, found.revision, len(found)) == ("renamed", 1, 0)
        assert connection.find_flows(states=[states.PENDING]) == connection.find_flows(name="flow") == []
        assert [each.uuid for each in connection.find_flows(name="renamed", owner="tests")] == [flow.uuid]
