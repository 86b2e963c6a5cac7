# SPDX-License-Identifier: Apache-2.0
"""Several connections and processes on one store, which freeze, die, fork and race."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from pluggableflow import codec, states
from pluggableflow.connection import SUSPEND, Changes, Claim, Connection
from pluggableflow.exceptions import FlowOwned, LeaseLost, StorageFailure
from pluggableflow.loader import connection_for
from pluggableflow.middleware import FlowDetail, new_uuid
from pluggableflow.testing.abilities import ConnectionKit
from pluggableflow.testing.processes import Child, Gate, count_steps, spread
from pluggableflow.testing.records import FACTORY, LONG, SHORT, atom_record, claimed, saved_flow, scan

#: How long a takeover is given where the holder that it waits for is frozen, before that one is thawed.
PATIENCE_SECONDS = 0.2
#: The same where it must not have to wait.
LIMIT_SECONDS = 60.0
#: At so many points of a commit a process is frozen, and at so many it is killed.
POINTS = 14

Fork = Callable[[Callable[[], Any]], Child]


def late_changes(flow: FlowDetail) -> Changes:
    """What a holder commits that freezes or dies over it: the flow, both of its atoms, and a new one."""
    task, retry = flow
    return Changes(
        flow={"state": states.RUNNING, "priority": 9},
        added=[atom_record(flow, "late", state=states.RUNNING)],
        changed={
            task.uuid: {"state": states.SUCCESS, "results": codec.dumps("late")},
            retry.uuid: {"state": states.SUCCESS, "results": codec.dumps([("late", {})])},
        },
    )


def hold(url: str, flow_uuid: str, late: Changes, seconds: float, at: int, number: int) -> Any:
    """In a child: claim, commit once, then commit ``late`` and get a signal at a step of that.

    Returns the steps that it took, or "LeaseLost".
    """
    connection = connection_for(url)
    claim = claimed(connection, flow_uuid, seconds)
    revision = connection.commit(claim.lease, claim.revision, Changes(flow={"state": states.RUNNING}))
    try:
        return count_steps(lambda: connection.commit(claim.lease, revision, late), at, number)
    except LeaseLost:
        with pytest.raises(LeaseLost):
            connection.renew(claim.lease, LONG)
        return "LeaseLost"
    finally:
        connection.close()


def assert_whole(detail: FlowDetail, applied: bool) -> None:
    """That ``late_changes`` are in a flow completely, or not at all."""
    atoms = {atom.name: atom for atom in detail}
    found = detail.priority, "late" in atoms, atoms["task"].state, atoms["task"].results, atoms["retry"].results
    if applied:
        assert found == (9, True, states.SUCCESS, "late", [("late", {})])
    else:
        assert found == (0, False, states.PENDING, None, [])


class ProcessTests(ConnectionKit):
    """A store that several processes use at once."""

    @pytest.fixture
    def fork(self) -> Iterator[Fork]:
        """Starts a child process; the kit ends it."""
        with contextlib.ExitStack() as children:

            def start(work: Callable[[], Any]) -> Child:
                child = Child(work)
                children.callback(child.end)
                return child

            yield start

    @pytest.fixture
    def commit_steps(self, connection: Connection, url: str, fork: Fork) -> int:
        """How many steps a child takes to commit ``late_changes``."""
        flow = saved_flow(connection)
        steps = fork(functools.partial(hold, url, flow.uuid, late_changes(flow), LONG, 0, 0)).outcome()
        assert isinstance(steps, int)
        assert_whole(connection.get_flow_details(flow.uuid), True)
        return steps

    # -- frozen and killed ----------------------------------------------------------------------------------------

    def test_a_holder_frozen_in_a_commit_writes_nothing_after_a_takeover(
        self, connection: Connection, url: str, fork: Fork, commit_steps: int
    ) -> None:
        patience = PATIENCE_SECONDS if "frozen holder" in self.without else LIMIT_SECONDS
        frozen = 0
        for step in spread(commit_steps, POINTS):
            flow = saved_flow(connection)
            late = late_changes(flow)
            child = fork(functools.partial(hold, url, flow.uuid, late, LONG, step, signal.SIGSTOP))
            frozen += child.stopped()  # a commit may take a few steps less than another
            with ThreadPoolExecutor(1) as pool:
                takeover = pool.submit(self._take_over, connection, flow)
                done, _waiting = wait([takeover], patience)
                child.thaw()  # also where it failed, or it would wait for ever
                assert done or "frozen holder" in self.without, f"frozen at step {step}, it keeps others waiting"
                claim, taken = takeover.result()
            outcome = child.outcome()
            applied = claim.revision == 2
            assert claim.lease.epoch == 2 and (applied or outcome == "LeaseLost"), f"at step {step}: {outcome}"
            if not applied:
                assert [atom.name for atom in taken] == ["task", "retry"]
            found = connection.get_flow_details(flow.uuid)
            assert found == taken, f"frozen at step {step}, it wrote after the takeover"
            assert [connection.get_atom_details(atom.uuid) for atom in found] == list(found)
        assert frozen > POINTS // 2

    @staticmethod
    def _take_over(connection: Connection, flow: FlowDetail) -> tuple[Claim, FlowDetail]:
        """Evict the first holder and commit to the task, which it was to change too, but not to the retry."""
        claim = claimed(connection, flow, evict_epoch=1)
        assert_whole(connection.get_flow_details(flow.uuid), claim.revision == 2)
        task, _retry = flow
        changes = Changes({"state": states.RUNNING}, [], {task.uuid: {"results": codec.dumps("taken over")}})
        connection.commit(claim.lease, claim.revision, changes)
        return claim, connection.get_flow_details(flow.uuid)

    @pytest.mark.parametrize("way", ["evicting it", "a scan after it ran out"])
    def test_a_holder_killed_in_a_commit_leaves_all_or_nothing(
        self, connection: Connection, url: str, fork: Fork, commit_steps: int, way: str
    ) -> None:
        seconds = LONG if way == "evicting it" else SHORT
        killed = 0
        for step in spread(commit_steps, POINTS // 2):
            flow = saved_flow(connection, factory=FACTORY)
            child = fork(functools.partial(hold, url, flow.uuid, late_changes(flow), seconds, step, signal.SIGKILL))
            killed += child.outcome() is None
            if way == "evicting it":
                claim: Claim | None = claimed(connection, flow, evict_epoch=1)
            else:
                claim = connection.claim(token=new_uuid(), owner="scanner", lease_seconds=LONG)
            assert claim is not None and (claim.lease.flow_uuid, claim.lease.epoch) == (flow.uuid, 2)
            assert claim.revision in (1, 2)
            assert_whole(connection.get_flow_details(flow.uuid), claim.revision == 2)
            changes = Changes(flow={"state": states.SUCCESS}, added=[atom_record(flow, "next")])
            connection.commit(claim.lease, claim.revision, changes)
            assert [atom.name for atom in connection.get_flow_details(flow.uuid)][-1] == "next"
        assert killed > POINTS // 4

    # -- races ----------------------------------------------------------------------------------------------------

    def test_of_processes_that_claim_a_flow_one_wins(self, connection: Connection, url: str, fork: Fork) -> None:
        flows = [saved_flow(connection, f"flow{number}").uuid for number in range(10)]
        taken = self._race(url, fork, functools.partial(_claim_each, flows))
        assert sorted(taken) == sorted(flows)
        assert {flow.epoch for flow in connection.find_flows()} == {1}

    def test_processes_that_scan_take_each_flow_once(self, connection: Connection, url: str, fork: Fork) -> None:
        flows = [saved_flow(connection, f"flow{number}", factory=FACTORY).uuid for number in range(40)]
        assert sorted(self._race(url, fork, scan)) == sorted(flows)
        assert {flow.epoch for flow in connection.find_flows()} == {1}

    def test_processes_that_upgrade_a_new_store_at_once_all_succeed(self, url: str, fork: Fork) -> None:
        saved = self._race(url, fork, lambda connection: [_upgrade_and_save(connection)])
        with contextlib.closing(connection_for(url)) as connection:
            connection.validate()
            assert sorted(flow.uuid for flow in connection.find_flows()) == sorted(saved)

    @staticmethod
    def _race(url: str, fork: Fork, work: Callable[[Connection], list[str]]) -> list[str]:
        """What four processes that set off together got, in one list."""

        def run() -> list[str]:
            try:
                connection = connection_for(url)
            finally:
                gate.wait()  # also if that failed, or the others would wait for ever
            with contextlib.closing(connection):
                return work(connection)

        with contextlib.closing(Gate()) as gate:
            children = [fork(run) for _ in range(4)]
            gate.open(4)
            return [each for child in children for each in child.outcome()]

    # -- several connections --------------------------------------------------------------------------------------

    def test_what_one_connection_commits_another_reads(
        self, connection: Connection, another: Callable[[], Connection]
    ) -> None:
        second = another()
        flow = saved_flow(connection)
        claim = claimed(second, flow)
        with pytest.raises(FlowOwned):
            claimed(connection, flow)
        connection.commit(claim.lease, 0, late_changes(flow))
        assert_whole(second.get_flow_details(flow.uuid), True)
        request = second.request(flow.uuid, SUSPEND, "operator")
        assert connection.renew(claim.lease, LONG).request == request
        second.close()
        assert connection.commit(claim.lease, 1, Changes(flow={"request_handled": 1})) == 2

    def test_after_a_fork_both_processes_work_or_the_child_is_told(self, connection: Connection, fork: Fork) -> None:
        flow, other = saved_flow(connection), saved_flow(connection, "other")
        claim = claimed(connection, flow)
        revision = connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING}))

        def use() -> str:
            try:
                connection.find_flows()
                mine = claimed(connection, other)
                revision = mine.revision
                for step in range(10):
                    added = [atom_record(other, f"atom{step}")]
                    revision = connection.commit(mine.lease, revision, Changes(added=added))
                    connection.renew(mine.lease, LONG)
                assert [len(connection.get_flow_details(each.uuid)) for each in (other, flow)][0] == 12
            except StorageFailure as failure:
                return str(failure)
            finally:
                connection.close()
            return "it works"

        child = fork(use)
        for step in range(10):
            added = [atom_record(flow, f"atom{step}")]
            revision = connection.commit(claim.lease, revision, Changes(added=added))
            connection.renew(claim.lease, LONG)
        told = child.outcome()
        assert connection.commit(claim.lease, revision, Changes(flow={"state": states.SUCCESS})) == 12
        assert len(connection.get_flow_details(flow.uuid)) == 12
        assert len(connection.get_flow_details(other.uuid)) == (12 if told == "it works" and connection.shared else 2)
        assert told.strip()
        assert connection.shared or told != "it works", "it wrote to a copy of the store, which is lost"

    def test_connections_that_were_closed_leave_nothing_open(
        self, connection: Connection, another: Callable[[], Connection]
    ) -> None:
        flow = saved_flow(connection)

        def use() -> None:
            made = another()
            claim = claimed(made, flow, SHORT)
            made.commit(claim.lease, claim.revision, Changes(flow={"state": states.RUNNING}))
            made.renew(claim.lease, SHORT)
            made.release(claim.lease)
            made.request(flow.uuid, SUSPEND, "operator")
            assert made.claim(token=new_uuid(), owner="tests", lease_seconds=SHORT) is None
            assert made.get_flow_details(flow.uuid).revision == claim.revision + 1
            assert len(made.find_flows()) == len(made.get_logbooks()) == 1
            made.update_flow_details(flow)
            made.validate()
            made.close()

        use()  # what a library opens once and for all is open after this
        gc.collect()
        threads, before = set(threading.enumerate()), len(os.listdir("/dev/fd"))
        for _ in range(50):
            use()
        gc.collect()
        for thread in set(threading.enumerate()) - threads:
            thread.join(LIMIT_SECONDS)
            assert not thread.is_alive(), f"{thread.name} goes on after its connection was closed"
        assert len(os.listdir("/dev/fd")) <= before


def _claim_each(flow_uuids: list[str], connection: Connection) -> list[str]:
    taken = []
    for uuid in flow_uuids:
        with contextlib.suppress(FlowOwned):
            taken.append(claimed(connection, uuid).lease.flow_uuid)
    return taken


def _upgrade_and_save(connection: Connection) -> str:
    connection.upgrade()
    return saved_flow(connection).uuid
