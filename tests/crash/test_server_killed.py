# SPDX-License-Identifier: Apache-2.0
"""Servers killed with SIGKILL while flows run, and started again on the same data; ``pytest -s`` shows counts.

``PLUGGABLEFLOW_LONG=1`` kills more often; ``PLUGGABLEFLOW_SEED`` gives other moments.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import servers
from killable import KINDS, killable
from ledger import Ledger, passing, undone

from pluggableflow import api, states
from pluggableflow.connection import Connection
from pluggableflow.exceptions import StorageFailure, WrappedFailure

LONG = os.environ.get("PLUGGABLEFLOW_LONG") == "1"
SEED = int(os.environ.get("PLUGGABLEFLOW_SEED", "1"))
KILLS = 50 if LONG else 6
WORKERS = 4
#: Commits of all workers together from one start of the server to the next kill, at most.
LONGEST_LIFE = 60
#: Part of the kills before the commit whose number is drawn is sent; else at the same time. The commits of the other
#: workers are anywhere.
SENT_TO_NONE = 0.5
#: Part of the kills after which the server stays away until a worker has given up.
LONG_AWAY = 0.4


class Killer:
    """Kills a server around commits whose numbers are drawn from ``seed``, and starts it again.

    :ivar struck: how many commits had been handed to the connection and not been answered when the server died
    """

    def __init__(self, server: servers.Server, seed: int) -> None:
        self._server, self._chance = server, random.Random(seed)
        self._lock, self._wanted = threading.Lock(), threading.Event()
        self._alive, self._dead, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self._alive.set()
        self._next = self._chance.randint(1, LONGEST_LIFE)
        self.kills = self.struck = 0
        self.done = False

    def before(self, number: int, _flow: str, _revision: int) -> None:
        """Commit ``number`` is about to be sent."""
        with self._lock:
            if number < self._next or self.done or not self._alive.is_set():
                return
            self._dead.clear()
            self._given_up.clear()
            self._alive.clear()
            waits = self._chance.random() < SENT_TO_NONE
            self._stays_away = self._chance.random() < LONG_AWAY
            self._next = number + self._chance.randint(WORKERS, LONGEST_LIFE)
        self._wanted.set()
        if waits:
            self._dead.wait()

    def run(self, ledger: Ledger) -> None:
        """Kill ``KILLS`` times, in this thread: a server dies with the thread that has started it."""
        try:
            while self.kills < KILLS:
                self._wanted.wait()
                self._wanted.clear()
                if self.done:
                    return
                self._server.kill()
                self.kills += 1
                self.struck += sum(known.open is not None for known in list(ledger.flows.values()))
                self._dead.set()
                if self._stays_away:
                    self._given_up.wait()
                self._server.start()
                self._alive.set()
        finally:
            self.stop()

    def stop(self) -> None:
        self.done = True
        for event in (self._wanted, self._dead, self._alive, self._given_up):
            event.set()

    def give_up(self) -> None:
        """A worker's connection has tried for long enough."""
        self._given_up.set()

    def await_server(self) -> None:
        self._alive.wait()


@pytest.fixture(params=list(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    with killable(request.param) as started:
        yield started


def run(connection: Connection, ledger: Ledger, killer: Killer, number: int) -> None:
    """Store a flow and run it to its end, however often that takes."""
    make, expected = (passing, states.SUCCESS) if number % 2 else (undone, states.REVERTED)
    options: dict[str, Any] = {"engine": "parallel", "max_workers": 2} if number % 4 < 2 else {"engine": "serial"}
    uuid = None
    while uuid is None:
        killer.await_server()
        try:
            uuid = api.create_flow_detail(make(ledger), connection=connection).uuid
        except StorageFailure:
            killer.give_up()
    while True:
        killer.await_server()
        try:
            ledger.check(uuid)
            detail = connection.get_flow_details(uuid)
            if detail.state == expected:
                return
            api.load(connection, make(ledger), detail, **options).run()
        except StorageFailure:
            killer.give_up()
        except (ValueError, WrappedFailure) as error:  # it is wrapped if another run than this one has met it
            assert make is undone and "d fails" in str(error)


@pytest.mark.timeout(3600 if LONG else 300)
def test_a_killed_server_has_kept_all_that_it_acknowledged(
    request: pytest.FixtureRequest, server: servers.Server
) -> None:
    connection, killer = api.connect(server.url), Killer(server, SEED)
    ledger = Ledger(connection, killer.before)
    numbers = iter(range(10**6))

    def work() -> None:
        try:
            while not killer.done:
                run(connection, ledger, killer, next(numbers))
        finally:
            killer.stop()

    with ThreadPoolExecutor(WORKERS) as pool:
        workers = [pool.submit(work) for _ in range(WORKERS)]
        killer.run(ledger)
    for worker in workers:
        worker.result()
    for uuid in ledger.flows:
        ledger.check(uuid)
    connection.close()
    assert killer.kills == KILLS and not ledger.repeated
    assert ledger.acknowledged == sum(known.revision for known in ledger.flows.values()) - ledger.applied

    counts = {
        "kills": killer.kills,
        "commits under way": killer.struck,
        "flows": len(ledger.flows),
        "commits acknowledged": ledger.acknowledged,
        "given up": ledger.unanswered,
        "of these applied": ledger.applied,
        "calls": sum(ledger.calls.values()),
        "calls made again": sum(count - 1 for count in ledger.calls.values()),
    }
    name = request.node.callspec.params["server"]
    print(f"\n{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    for what, count in counts.items():
        request.node.user_properties.append((what, count))
