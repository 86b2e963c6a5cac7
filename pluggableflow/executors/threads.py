# SPDX-License-Identifier: Apache-2.0
"""Runs tasks in threads: its own, or those of a pool that was given and is left running."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue

from pluggableflow.executor import Executor, Outcome, Work, carry_out
from pluggableflow.executors.line import Line, checked_workers, not_begun


class ThreadsExecutor(Executor):
    """An executor of ``max_workers`` threads, each made when no other is idle.

    Its own threads take work from one queue; that costs a fraction of what a future does.

    :param max_workers: default: as many as there are processors plus four, at most 32
    :param pool: a pool to use instead, which many may share; it is the caller's to shut down. No more than
        ``max_workers`` pieces of work (default: as many as the pool has threads) are in it at once
    """

    contract_version = 1
    _carry_out: Callable[[Work], Outcome] = staticmethod(carry_out)

    def __init__(self, max_workers: int | None = None, pool: ThreadPoolExecutor | None = None) -> None:
        default = min(32, (os.cpu_count() or 1) + 4) if pool is None else pool._max_workers
        self.max_workers = checked_workers(max_workers, default)
        self._pool = pool
        self._line: Line | None = None  # before the given pool
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._work: SimpleQueue[Work | None] = SimpleQueue()

    def start(self, done: Callable[[Outcome], None]) -> None:
        self._done = done
        if self._pool is not None:
            self._line = Line(self.max_workers, self._begin, done)
        # At exit, a run that nobody closed still gets its outcomes: its threads end before the interpreter does.
        atexit.register(self.stop)

    def submit(self, work: Work) -> None:
        if self._line is not None:
            self._line.add(work)
            return
        self._work.put(work)
        if not self._idle.acquire(blocking=False) and len(self._threads) < self.max_workers:
            name = f"pluggableflow_{len(self._threads)}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                outcome = self._carry_out(work)
            except BaseException as error:  # what ends a thread or a process elsewhere is a failure of the task here
                outcome = work.failed(error)
            self._done(outcome)
            del work, outcome  # an idle thread keeps nothing alive
            self._idle.release()

    def _begin(self, work: Work) -> None:
        assert self._pool is not None and self._line is not None
        line = self._line
        future = self._pool.submit(carry_out, work)
        future.add_done_callback(lambda ended: line.ended(_outcome(ended, work)))

    def stop(self, drain: bool = True) -> None:
        if self._line is not None:
            if not drain:
                self._line.drop()
            self._line.wait()
        while not drain and not self._work.empty():
            with contextlib.suppress(Empty):
                if (work := self._work.get_nowait()) is not None:
                    self._done(work.failed(not_begun(work)))
        for _thread in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        self._threads, self._idle = [], threading.Semaphore(0)
        atexit.unregister(self.stop)


def _outcome(future: Future[Outcome], work: Work) -> Outcome:
    """The outcome, also where the pool dropped the work or the task raised a bare ``BaseException``."""
    try:
        return future.result()
    except BaseException as error:
        return work.failed(error)
