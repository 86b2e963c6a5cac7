# SPDX-License-Identifier: Apache-2.0
"""Where the work of one engine waits while as much of it as it may have at once runs on a pool."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from pluggableflow.exceptions import OptionError
from pluggableflow.executor import Outcome, Work


def checked_workers(given: int | None, default: int) -> int:
    """What an executor was given as its ``max_workers``.

    :raises OptionError: it is no positive integer
    """
    if given is not None and (not isinstance(given, int) or given < 1):
        raise OptionError(f"max_workers must be a positive integer, not {given!r}")
    return given or default


class Line:
    """Begins work in order, at most ``limit`` pieces at once. Thread-safe.

    :param begin: sees to it that :meth:`ended` is called for a piece of work, at once or later; may raise instead
    :param done: takes each outcome
    """

    def __init__(self, limit: int, begin: Callable[[Work], None], done: Callable[[Outcome], None]) -> None:
        self._limit, self._begin, self._done = limit, begin, done
        self._waiting: deque[Work] = deque()
        self._running = 0
        self._unfinished = 0
        self._beginning = False
        self._changed = threading.Condition()

    def add(self, work: Work) -> None:
        """Begin a piece of work as soon as its turn has come.

        :raises Exception: what ``begin`` raised for this work, which was not taken then
        """
        with self._changed:
            self._unfinished += 1
            self._waiting.append(work)
        self._begin_next(work)

    def ended(self, outcome: Outcome) -> None:
        """Pass on the outcome of work that was begun, and begin what its end makes room for."""
        self._done(outcome)
        self.make_room()

    def make_room(self) -> None:
        """Begin what waits in place of work that has ended, or was given up."""
        self._forget()
        self._begin_next()

    def _forget(self) -> None:
        with self._changed:
            self._running -= 1
            self._unfinished -= 1
            self._changed.notify_all()

    def _begin_next(self, added: Work | None = None) -> None:
        # One thread at a time begins work, in a loop: the order is kept, and where work ends at once nothing recurs.
        with self._changed:
            if self._beginning:
                return
            self._beginning = True
        refused: Exception | None = None
        while True:
            with self._changed:
                if refused is not None or not self._waiting or self._running >= self._limit:
                    self._beginning = False
                    break
                self._running += 1
                work = self._waiting.popleft()
            try:
                self._begin(work)
            except Exception as error:
                if work is added:
                    refused = error
                else:
                    self._done(work.failed(error))
                self._forget()
        if refused is not None:
            raise refused

    def drop(self) -> None:
        """Fail all that has not begun."""
        with self._changed:
            dropped = list(self._waiting)
            self._waiting.clear()
        for work in dropped:
            self._done(work.not_begun("its executor was stopped at once"))
        with self._changed:
            self._unfinished -= len(dropped)
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when all that was added has its outcome."""
        with self._changed:
            self._changed.wait_for(lambda: self._unfinished == 0)
