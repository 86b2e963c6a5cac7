# SPDX-License-Identifier: Apache-2.0
"""Races."""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from pluggableflow import codec
from pluggableflow.connection import SUSPEND, Changes, Claim, Connection, Lease
from pluggableflow.exceptions import FlowOwned, LeaseLost, NotFound
from pluggableflow.middleware import AtomDetail, FlowDetail, LogBook, Record, new_uuid
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.records import FACTORY, LONG, at_once, atom_record, claimed, new_book, saved_flow, scan

#: After this a call counts as hung.
LIMIT_SECONDS = 60.0


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

    def test_threads_that_scan_take_each_flow_once(self, connection: Connection) -> None:
        flows = [saved_flow(connection, f"flow{number}", factory=FACTORY).uuid for number in range(40)]
        taken = at_once(8, lambda _number: scan(connection))
        assert sorted(itertools.chain(*taken)) == sorted(flows)
        assert {flow.epoch for flow in connection.find_flows()} == {1}

    def test_of_many_threads_that_evict_one_holder_one_wins(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claimed(connection, flow)

        def evict(_number: int) -> Claim | None:
            try:
                return claimed(connection, flow, evict_epoch=1)
            except FlowOwned:
                return None

        (winner,) = [claim for claim in at_once(8, evict) if claim is not None]
        assert winner.lease.epoch == 2
        assert connection.commit(winner.lease, 0, Changes()) == 1

    def test_a_release_beside_a_takeover_frees_its_own_lease_only(self, connection: Connection) -> None:
        for turn in range(20):
            flow = saved_flow(connection)
            first = claimed(connection, flow).lease

            def work(number: int, flow: FlowDetail = flow, first: Lease = first) -> Claim | None:
                return claimed(connection, flow, evict_epoch=1) if number else connection.release(first)

            _released, second = at_once(2, work, ahead=turn)
            assert second.lease.epoch == 2 and connection.renew(second.lease, LONG).now > 0

    def test_an_update_beside_a_claim_comes_first_or_is_refused(self, connection: Connection) -> None:
        for turn in range(6):
            flow = saved_flow(connection)
            task, _retry = flow

            def work(number: int, flow: FlowDetail = flow, task: AtomDetail = task) -> Any:
                if number == 0:
                    return claimed(connection, flow)
                try:
                    if number == 1:
                        connection.update_flow_details(flow.copy(retain_contents=False))
                    else:
                        connection.update_atom_details(task)
                except FlowOwned:
                    return 0
                return 2

            claim, *raised = at_once(3, work, ahead=turn)
            assert claim.revision == sum(raised)
            assert connection.commit(claim.lease, claim.revision, Changes()) == claim.revision + 1

    def test_a_book_that_many_threads_save_at_once_is_created_once(self, connection: Connection) -> None:
        book = new_book("one", "two")
        copies = [LogBook.from_record(book.to_record(), [flow.copy() for flow in book]) for _ in range(4)]
        at_once(4, lambda number: connection.save_logbook(copies[number]))
        stored = connection.get_logbook(book.uuid)
        assert [len(flow) for flow in stored] == [2, 2] and len(connection.get_logbooks()) == 1
        assert {copy.created_at for copy in copies} == {stored.created_at}
        ages = {flow.uuid: flow.created_at for flow in stored}
        assert all(flow.created_at in (None, ages[flow.uuid]) for copy in copies for flow in copy)

    def test_a_book_that_is_saved_and_destroyed_at_once_is_seen_whole_or_not_at_all(
        self, connection: Connection
    ) -> None:
        whole = ["one 2", "two 2"]

        def seen(book: LogBook) -> list[str]:
            try:
                return sorted(f"{flow.name} {len(flow)}" for flow in connection.get_logbook(book.uuid))
            except NotFound:
                return []

        for turn in range(20):
            book, done = new_book("one", "two"), list[int]()
            connection.save_logbook(book.copy())

            def work(number: int, book: LogBook = book, done: list[int] = done) -> Any:
                if number == 3:
                    found = [seen(book)]
                    while len(done) < 3:
                        found.append(seen(book))
                    return found
                try:
                    if number == 0:
                        connection.save_logbook(book.copy())
                    else:
                        with contextlib.suppress(NotFound):
                            connection.destroy_logbook(book.uuid, force=number == 1)
                finally:
                    done.append(number)
                return []

            looks = at_once(4, work, ahead=turn)[3]
            last = seen(book)
            assert all(look in ([], whole) for look in (*looks, last))
            assert len(connection.find_flows()) == len(last) and len(connection.get_logbooks()) == bool(last)
            if last:
                connection.destroy_logbook(book.uuid)

    def test_requests_of_many_threads_are_all_numbered(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        requests = at_once(8, lambda number: connection.request(flow.uuid, SUSPEND, f"thread {number}"))
        assert sorted(request.sequence for request in requests) == list(range(1, 9))
        last = max(requests, key=lambda request: request.sequence)
        assert claimed(connection, flow).request == last

    def test_no_request_is_lost_and_no_commit_is_refused_while_they_race(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        count = 40

        def work(number: int) -> int:
            if number == 0:
                return [connection.request(flow.uuid, SUSPEND, "operator").sequence for _ in range(count)][-1]
            revision = handled = 0
            while handled < count:
                pending = connection.renew(claim.lease, LONG).request
                if pending is not None:
                    assert pending.sequence > handled
                    handled = pending.sequence
                    changes = Changes(flow={"request_handled": handled})
                    revision = connection.commit(claim.lease, revision, changes)
            return revision

        asked, revision = at_once(2, work)
        assert asked == count and connection.renew(claim.lease, LONG).request is None
        assert connection.get_flow_details(flow.uuid, lazy=True).revision == revision

    def test_renewing_waits_for_no_other_call_of_the_connection(self, connection: Connection) -> None:
        self.needs("frozen holder")
        flow, other = saved_flow(connection), saved_flow(connection, "other")
        claim, mine = claimed(connection, flow), claimed(connection, other)
        connection.commit(claim.lease, 0, Changes())  # so that what is opened once is open
        connection.renew(mine.lease, LONG)
        under_way, may_go_on = threading.Event(), threading.Event()

        def stop_at_the_network(_frame: Any, event: str, function: Any) -> None:
            if event == "c_call" and isinstance(getattr(function, "__self__", None), socket.socket):
                sys.setprofile(None)
                under_way.set()
                may_go_on.wait()

        def commit() -> int:
            sys.setprofile(stop_at_the_network)
            try:
                return connection.commit(claim.lease, 1, Changes(added=[atom_record(flow, "added")]))
            finally:
                sys.setprofile(None)
                under_way.set()

        with ThreadPoolExecutor(2) as pool:
            committing = pool.submit(commit)
            under_way.wait()
            renewing = [pool.submit(connection.renew, mine.lease, LONG)]
            done, _waiting = wait(renewing, LIMIT_SECONDS)
            may_go_on.set()
            assert done, "it waited for a commit that waited for the network"
            assert renewing[0].result().now > 0 and committing.result() == 2

    def test_a_reader_sees_whole_commits_only(self, connection: Connection) -> None:
        flow = saved_flow(connection)
        task, retry = flow
        claim = claimed(connection, flow)

        def work(number: int) -> None:
            if number == 0:
                for revision in range(60):
                    results = codec.dumps(revision + 1)
                    changed: dict[str, Record] = {
                        task.uuid: {"results": results},
                        retry.uuid: {"attempt": revision + 1},
                    }
                    added = [atom_record(flow, f"{revision} {half}") for half in "ab"]
                    connection.commit(claim.lease, revision, Changes({"priority": revision + 1}, added, changed))
                return
            revision = 0
            while revision < 60:
                found = connection.get_flow_details(flow.uuid)
                first, second, *others = found
                assert found.revision >= revision
                revision = found.revision
                assert (found.priority, first.results or 0, second.attempt) == (revision,) * 3
                assert [atom.name for atom in others] == [f"{n} {half}" for n in range(revision) for half in "ab"]

        at_once(3, work)

    def test_a_book_is_destroyed_by_one_of_many_and_a_claim_beside_it_is_whole(self, connection: Connection) -> None:
        for turn in range(8):
            book = new_book("flow")
            connection.save_logbook(book)

            def work(number: int, book: LogBook = book) -> str:
                (flow,) = book
                try:
                    if number:
                        connection.destroy_logbook(book.uuid)
                        return "destroyed"
                    connection.commit(claimed(connection, flow).lease, 0, Changes(added=[atom_record(flow, "new")]))
                    return "committed"
                except (NotFound, FlowOwned, LeaseLost) as error:
                    return type(error).__name__

            outcomes = at_once(4, work, ahead=turn)
            if "committed" in outcomes:
                assert "destroyed" not in outcomes
                (flow,) = connection.get_logbook(book.uuid)
                assert [atom.name for atom in flow] == ["task", "retry", "new"]
            else:
                assert outcomes.count("destroyed") == 1
                with pytest.raises(NotFound):
                    connection.get_logbook(book.uuid)


def _try_claim(connection: Connection, flow_uuid: str | None, _number: int) -> Lease | None:
    try:
        claim = connection.claim(token=new_uuid(), owner="racer", lease_seconds=LONG, flow_uuid=flow_uuid)
    except FlowOwned:
        return None
    return claim.lease if claim is not None else None
