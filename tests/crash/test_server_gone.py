# SPDX-License-Identifier: Apache-2.0
"""A server that is away for longer than anybody tries: engines stop, and go on when it is back.

``pytest -s`` shows counts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import servers
from killable import KINDS, killable
from ledger import Ledger, Step, passing, undone

from pluggableflow import api, states
from pluggableflow.connection import Connection, Lease
from pluggableflow.engine import Engine
from pluggableflow.exceptions import StorageFailure, WrappedFailure
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow, unordered_flow

#: Flows with their engine, and the number of commits after which the server is gone.
CASES = [
    *(("passing", "serial", number) for number in range(4)),
    *(("undone", "serial", number) for number in range(9)),
    *(("wide", "parallel", number) for number in range(1, 3)),
]


class Run:
    """One flow, whose engine meets the dead server in its commit after ``commits`` others.

    :ivar story: what happened, in its order
    """

    def __init__(self, connection: Connection, ledger: Ledger, kind: str, engine: str, commits: int) -> None:
        self.kind, self.engine_name, self.commits = kind, engine, commits
        self._ledger = ledger
        self.story: list[str] = []
        self.gave_up = threading.Event()
        options: dict[str, Any] = {"max_workers": 2} if engine == "parallel" else {}
        self.engine: Engine = api.load(connection, self.flow(), engine=engine, **options)
        self.uuid = self.engine.storage.flow_uuid

    def flow(self) -> Flow:
        if self.kind != "wide":
            return {"passing": passing, "undone": undone}[self.kind](self._ledger)
        chain = linear_flow.Flow("chain").add(Step(self._ledger, "a"), Step(self._ledger, "b"))
        return unordered_flow.Flow("wide").add(chain, Step(self._ledger, "slow", self._outlast))

    def _outlast(self) -> None:
        """What a task does that ends after the engine's last commit has failed."""
        self.gave_up.wait()
        self.story.append("task ends")

    def run(self) -> None:
        self.engine.run()

    def reverts(self) -> int:
        return sum(key.startswith(self.uuid) and key.endswith("/revert") for key in self._ledger.calls)


class Meeting:
    """Holds each run at its commit until all are there and the server is dead."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.met: list[str] = []
        self.all_there, self.dead = threading.Semaphore(0), threading.Event()

    def before(self, _number: int, flow: str, revision: int) -> None:
        if revision == self.runs[flow].commits and not self.dead.is_set():
            self.met.append(flow)
            self.all_there.release()
            self.dead.wait()

    def watch(self, connection: Connection) -> None:
        """Note in the runs' stories that commits fail and that leases are given up."""
        real_commit, real_release = connection.commit, connection.release

        def commit(lease: Lease, *rest: Any) -> int:
            try:
                return real_commit(lease, *rest)
            except StorageFailure:
                self.runs[lease.flow_uuid].story.append("commit fails")
                self.runs[lease.flow_uuid].gave_up.set()
                raise

        def release(lease: Lease) -> None:
            self.runs[lease.flow_uuid].story.append("engine ends")
            real_release(lease)

        connection.commit = commit  # type: ignore[method-assign, assignment]
        connection.release = release  # type: ignore[method-assign]


@pytest.fixture(params=list(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    with killable(request.param) as started:
        yield started


def _threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("pluggableflow")]


def test_engines_stop_when_the_server_stays_away_and_go_on_when_it_is_back(
    request: pytest.FixtureRequest, server: servers.Server
) -> None:
    connection, meeting = api.connect(server.url), Meeting()
    ledger = Ledger(connection, meeting.before)
    meeting.watch(connection)
    runs = [Run(connection, ledger, *case) for case in CASES]
    meeting.runs = {run.uuid: run for run in runs}
    late = Run(connection, ledger, "passing", "serial", 0)

    with ThreadPoolExecutor(len(runs)) as pool:
        ended = [pool.submit(run.run) for run in runs]
        for each in ended:
            each.add_done_callback(lambda _: meeting.all_there.release())  # one that has not stopped where it should
        for _ in runs:
            meeting.all_there.acquire()
        met = len(meeting.met)
        server.kill()
        meeting.dead.set()
        with pytest.raises(StorageFailure):
            late.run()
    assert met == len(runs)
    for each in ended:
        assert isinstance(each.exception(), StorageFailure)
    assert not _threads()
    given_up = ledger.unanswered
    assert given_up == len(runs)
    for run in runs:
        assert run.story == ["commit fails", *(["task ends"] if run.kind == "wide" else []), "engine ends"]
        failures = run.engine.storage.get_execute_failures().values()
        assert all(failure.check(ValueError) for failure in failures) and (run.kind == "undone" or not failures)
        assert not run.engine.storage.get_revert_failures() and (run.kind == "undone" or not run.reverts())

    server.start()
    meeting.runs[late.uuid] = late
    for run in (*runs, late):
        ledger.check(run.uuid)
        stored = connection.get_flow_details(run.uuid)
        assert stored.state in states.UNFINISHED and stored.revision in (run.commits, run.commits + 1)
        try:
            run.run()
        except (ValueError, WrappedFailure) as error:
            assert run.kind == "undone" and "d fails" in str(error)
        ledger.check(run.uuid)
        assert run.engine.storage.get_flow_state() == (states.REVERTED if run.kind == "undone" else states.SUCCESS)
        assert bool(run.reverts()) == (run.kind == "undone")
    connection.close()
    assert not ledger.repeated and not _threads()

    name = request.node.callspec.params["server"]
    again = sum(count - 1 for count in ledger.calls.values())
    print(
        f"\n{name}: 1 kill, {len(runs)} runs stopped, {ledger.acknowledged} commits acknowledged, {given_up} given up,"
        f" {ledger.applied} of these applied, {ledger.calls.total()} calls, {again} calls made again"
    )
