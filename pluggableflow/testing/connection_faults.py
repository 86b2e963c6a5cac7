# SPDX-License-Identifier: Apache-2.0
"""Drivers that fail and servers that die."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import pytest

from pluggableflow import states
from pluggableflow.connection import SUSPEND, Changes, Connection
from pluggableflow.exceptions import StorageFailure
from pluggableflow.middleware import new_uuid
from pluggableflow.testing.abilities import ConnectionKit, Server
from pluggableflow.testing.records import LONG, atom_record, claimed, new_book, saved_flow

#: How long a call to a server that is paused is given to reach it.
PATIENCE_SECONDS = 0.5
#: After this a call to a server that goes on again counts as hung.
LIMIT_SECONDS = 90.0
#: Steps at which the driver is made to fail; the last ones are beyond the end of any commit.
STEPS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987)
#: So many calls may find that a connection to the dead server was still in a pool.
STALE_CALLS = 5

Interrupt = Callable[[int], contextlib.AbstractContextManager[object]]
_Result = TypeVar("_Result")


def soon(call: Callable[[], _Result]) -> _Result:
    """What a call returns that may first fail for connections that died with their server."""
    for _ in range(STALE_CALLS - 1):
        with contextlib.suppress(StorageFailure):
            return call()
    return call()


class FaultTests(ConnectionKit):
    """What is half done when a driver or server fails is done or undone, and the connection goes on."""

    def test_a_commit_that_the_driver_cuts_short_is_whole_or_absent_and_may_be_sent_again(
        self, connection: Connection, interrupt: Interrupt
    ) -> None:
        flow = saved_flow(connection)
        task, _retry = flow
        claim = claimed(connection, flow)
        revision = connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING}))
        for step in STEPS:
            names = [f"{step} {half}" for half in "abc"]
            changes = Changes(
                flow={"priority": step},
                added=[atom_record(flow, name) for name in names],
                changed={task.uuid: {"results": str(step)}},
            )
            with interrupt(step), contextlib.suppress(StorageFailure):
                connection.commit(claim.lease, revision, changes)
            found = connection.get_flow_details(flow.uuid)
            atoms = {atom.name: atom for atom in found}
            present = [name in atoms for name in names]
            state = found.revision, found.priority == step, atoms["task"].results == step, *present
            assert state in ((revision, *[False] * 5), (revision + 1, *[True] * 5)), f"cut at step {step}"
            revision = connection.commit(claim.lease, revision, changes)
            assert connection.renew(claim.lease, LONG).request is None
        found = connection.get_flow_details(flow.uuid)
        assert found.revision == revision == 1 + len(STEPS)
        assert [atom.name for atom in found][2:] == [f"{step} {half}" for step in STEPS for half in "abc"]

    # -- servers --------------------------------------------------------------------------------------------------

    def test_a_connection_works_again_after_its_server_was_killed(self, connection: Connection, server: Server) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING}))
        server.kill()
        calls: list[Callable[[], object]] = [
            lambda: connection.commit(claim.lease, 1, Changes(flow={"state": states.RUNNING})),
            lambda: connection.renew(claim.lease, LONG),
            lambda: connection.claim(token=new_uuid(), owner="tests", lease_seconds=LONG),
            lambda: connection.get_flow_details(flow.uuid),
            lambda: connection.find_flows(),
            lambda: connection.request(flow.uuid, SUSPEND, "operator"),
            lambda: connection.save_logbook(new_book("late")),
            lambda: connection.validate(),
        ]
        try:
            for call in calls:
                with pytest.raises(StorageFailure):
                    call()
        finally:
            server.start()
        soon(connection.upgrade)
        connection.validate()
        again = soon(lambda: saved_flow(connection, "again"))
        claim = soon(lambda: claimed(connection, again))
        added = [atom_record(again, "added")]
        assert soon(lambda: connection.commit(claim.lease, 0, Changes(added=added))) == 1
        assert soon(lambda: connection.renew(claim.lease, LONG)).request is None
        assert [atom.name for atom in connection.get_atoms_for_flow(again.uuid)] == ["task", "retry", "added"]

    def test_what_was_acknowledged_survives_the_server(self, connection: Connection, server: Server) -> None:
        self.needs("durability")
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        under_way = threading.Event()

        def write() -> int:
            """Commit until the server is gone; returns the last revision that was acknowledged."""
            revision = claim.revision
            with contextlib.suppress(StorageFailure):
                while True:
                    added = [atom_record(flow, f"{revision} {half}") for half in "ab"]
                    revision = connection.commit(claim.lease, revision, Changes(added=added))
                    if revision == 20:
                        under_way.set()
            return revision

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            under_way.wait(LIMIT_SECONDS)
            server.kill()
            try:
                acknowledged = writing.result(LIMIT_SECONDS)
            finally:
                server.start()
        found = soon(lambda: connection.get_flow_details(flow.uuid))
        assert found.token == claim.lease.token
        assert found.revision in (acknowledged, acknowledged + 1) and acknowledged >= 20
        assert [atom.name for atom in found][2:] == [f"{n} {half}" for n in range(found.revision) for half in "ab"]
        last = [atom_record(flow, f"{acknowledged} {half}") for half in "ab"]
        if found.revision > acknowledged:
            last = [atom.to_record() for atom in found][-2:]
        assert soon(lambda: connection.commit(claim.lease, acknowledged, Changes(added=last))) == acknowledged + 1
        assert len(connection.get_flow_details(flow.uuid)) == 2 * acknowledged + 4

    def test_calls_to_a_server_that_stands_still_end_when_it_goes_on(
        self, connection: Connection, server: Server
    ) -> None:
        flow = saved_flow(connection)
        claim = claimed(connection, flow)
        changes = Changes(added=[atom_record(flow, "added")])
        calls: list[Callable[[], object]] = [
            lambda: connection.commit(claim.lease, 0, changes),
            lambda: connection.renew(claim.lease, LONG),
            lambda: connection.find_flows(),
        ]
        with ThreadPoolExecutor(len(calls)) as pool:
            server.pause()
            try:
                waiting = [pool.submit(call) for call in calls]
                wait(waiting, PATIENCE_SECONDS)
            finally:
                server.resume()
            _done, hung = wait(waiting, LIMIT_SECONDS)
            assert not hung
        for each in waiting:
            assert each.exception() is None or isinstance(each.exception(), StorageFailure)
        assert soon(lambda: connection.commit(claim.lease, 0, changes)) == 1
        assert soon(lambda: connection.renew(claim.lease, LONG)).now > 0
        assert [atom.name for atom in connection.get_atoms_for_flow(flow.uuid)] == ["task", "retry", "added"]
