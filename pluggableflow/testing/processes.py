# SPDX-License-Identifier: Apache-2.0
"""Child processes that can be frozen or killed at a given step of what they do."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any


class Child:
    """A process forked from this one that does one thing and ends.

    :param work: returns what :meth:`outcome` gives, as plain JSON data
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._answers, write = os.pipe()
        with warnings.catch_warnings():
            # Python warns of forks beside threads. The child uses nothing that a thread of the parent could have held.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _work_and_exit(work, write)
        os.close(write)
        self._running = True

    def stopped(self) -> bool:
        """Wait until it has stopped or ended: whether it has stopped."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        self._running = os.WIFSTOPPED(status)
        return self._running

    def thaw(self) -> None:
        if self._running:
            os.kill(self.pid, signal.SIGCONT)

    def outcome(self) -> Any:
        """Wait for its end: what ``work`` returned; ``None`` if it was killed.

        :raises RuntimeError: ``work`` raised; the text is the child's traceback
        """
        if self._running:
            os.waitpid(self.pid, 0)
            self._running = False
        with open(self._answers, "rb") as answers:
            text = answers.read()
        self._answers = -1
        answer = json.loads(text) if text else {"result": None}
        if "error" in answer:
            raise RuntimeError(f"the child process failed:\n{answer['error']}")
        return answer["result"]

    def end(self) -> None:
        """Kill it, unless it has ended."""
        if self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._running = False
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1


def _work_and_exit(work: Callable[[], Any], write: int) -> None:
    try:
        gc.disable()  # a collection would end objects of the parent, and with them conversations on its sockets
        try:
            answer = {"result": work()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        os.write(write, json.dumps(answer).encode())
    finally:
        os._exit(0)


class Gate:
    """Lets processes set off together. They wait at it; the parent opens it when all have come."""

    def __init__(self) -> None:
        self._come, self._coming = os.pipe()
        self._go, self._going = os.pipe()

    def wait(self) -> None:
        os.write(self._coming, b".")
        os.read(self._go, 1)

    def open(self, count: int) -> None:
        waiting = 0
        while waiting < count:
            waiting += len(os.read(self._come, count))
        os.write(self._going, b"." * count)

    def close(self) -> None:
        for end in (self._come, self._coming, self._go, self._going):
            os.close(end)


def count_steps(work: Callable[[], Any], at: int = 0, number: int = 0) -> int:
    """Call ``work``; returns how many steps it took: calls and returns of functions, those of C among them.

    :param at: the step at which this process sends itself the signal ``number``; 0 for never
    """
    steps = 0

    def step(_frame: Any, _event: str, _argument: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            os.kill(os.getpid(), number)

    sys.setprofile(step)
    try:
        work()
    finally:
        sys.setprofile(None)
    return steps


def spread(steps: int, points: int) -> list[int]:
    """At most ``points`` of the numbers 1 to ``steps``, first and last among them, as far apart as can be."""
    return sorted({1 + (steps - 1) * point // (points - 1) for point in range(points)})
