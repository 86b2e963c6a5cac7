# SPDX-License-Identifier: Apache-2.0
"""Processes that fight for flows, are killed or frozen at random moments, and replaced."""

from __future__ import annotations

import heapq
import random
import signal
import time
from typing import Any

from zygote import Zygote

#: A process is killed (or frozen) so many messages after its start, at most,
LONGEST_LIFE = 60
#: and up to so much later than that: within what it said it would do, or anywhere.
LONGEST_DELAYS_SECONDS = (0.002, 0.02)
FROZEN, FROZEN_SECONDS = 0.15, (0.05, 3.0)


class Arena:
    """Keeps two to ``most`` processes fighting until a flow cannot be found that has not finished.

    :param main: what each of them calls, as ``module:function``
    :ivar kills: how many processes died of it
    :ivar freezes: how many stood still for a time, some of them for longer than their lease
    """

    def __init__(self, zygote: Zygote, main: str, url: str, log: str, seed: int, most: int) -> None:
        self._main = main
        self._zygote, self._url, self._log, self._most = zygote, url, log, most
        self._chance = random.Random(seed)
        self._lives: dict[int, int] = {}
        self._due: list[tuple[float, int, int]] = []  # time, pid, signal
        self._starting = self._resting = 0
        self._wanted = most
        self._done = False
        self.processes = self.kills = self.freezes = 0

    def run(self) -> None:
        while self._refill():
            pause = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            message = self._zygote.message(pause)
            if message is not None:
                self._hear(message)
            while self._due and self._due[0][0] <= time.monotonic():
                self._strike(*heapq.heappop(self._due)[1:])

    def _refill(self) -> bool:
        """Start what is missing; returns whether anything runs."""
        if not (self._lives or self._starting):
            self._resting = 0
        while not self._done and len(self._lives) + self._starting < self._wanted - self._resting:
            self._zygote.start(self._main, self._url, self._log, self._chance.getrandbits(32))
            self._starting += 1
            self.processes += 1
        return bool(self._lives or self._starting)

    def _hear(self, message: dict[str, Any]) -> None:
        if "started" in message:
            self._starting -= 1
            self._lives[message["started"]] = self._chance.randint(1, LONGEST_LIFE)
        elif "ended" in message:
            del self._lives[message["ended"]]
            assert message["code"] in (0, -signal.SIGKILL), f"a process ended with {message['code']}"
            self.kills += message["code"] == -signal.SIGKILL
            self._wanted = self._chance.randint(2, self._most)
        elif message["did"] == "done":
            self._done = True
        elif message["did"] == "idle":  # there is nothing for it to do before another has got on
            self._resting += 1
        else:
            self._resting = 0
            pid = message["pid"]
            self._lives[pid] -= 1
            if self._lives[pid] == 0:
                number = signal.SIGSTOP if self._chance.random() < FROZEN else signal.SIGKILL
                self._plan(self._chance.uniform(0, self._chance.choice(LONGEST_DELAYS_SECONDS)), pid, number)

    def _plan(self, seconds: float, pid: int, number: int) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, pid, number))

    def _strike(self, pid: int, number: int) -> None:
        self._zygote.signal(pid, number)
        if number == signal.SIGSTOP and pid in self._lives:
            self.freezes += 1
            self._lives[pid] = self._chance.randint(1, LONGEST_LIFE)
            self._plan(self._chance.uniform(*FROZEN_SECONDS), pid, signal.SIGCONT)
