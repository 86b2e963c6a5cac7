# SPDX-License-Identifier: Apache-2.0
"""Runs tasks in threads: its own, or those of a pool that was given and is left running."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue

from pluggableflow.exceptions import OptionError
from pluggableflow.executor import Executor, Outcome, Work, carry_out
from pluggableflow.failure import Failure


class ThreadsExecutor(Executor):
    """An executor of ``max_workers`` threads, each made when no other is idle.

    Its own threads take work from one queue; that costs a fraction of what a future does.

    :param max_workers: default: as many as there are processors plus four, at most 32
    :param pool: a pool to use instead; it is the caller's to shut down
    """

    contract_version = 1

    def __init__(self, max_workers: int | None = None, pool: ThreadPoolExecutor | None = None) -> None:
        if max_workers is not None and (not isinstance(max_workers, int) or max_workers < 1):
            raise OptionError(f"max_workers must be a positive integer, not {max_workers!r}")
        if pool is not None and max_workers is None:
            max_workers = pool._max_workers
        self.max_workers = max_workers or min(32, (os.cpu_count() or 1) + 4)
        self._pool = pool
        self._unfinished: set[Future[Outcome]] = set()  # in the given pool
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._work: SimpleQueue[Work | None] = SimpleQueue()

    def start(self, done: Callable[[Outcome], None]) -> None:
        self._done = done
        # At exit, a run that nobody closed still gets its outcomes: its threads end before the interpreter does.
        atexit.register(self.stop)

    def submit(self, work: Work) -> None:
        if self._pool is not None:
            future = self._pool.submit(carry_out, work)
            self._unfinished.add(future)
            future.add_done_callback(self._unfinished.discard)
            future.add_done_callback(lambda ended: self._done(_outcome(ended, work)))
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
                outcome = carry_out(work)
            except BaseException as error:  # what ends a thread or a process elsewhere is a failure of the task here
                outcome = Outcome(work.node, work.revert, None, Failure.from_exception(error))
            self._done(outcome)
            del work, outcome  # an idle thread keeps nothing alive
            self._idle.release()

    def stop(self) -> None:
        for _thread in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        self._threads, self._idle = [], threading.Semaphore(0)
        wait(set(self._unfinished))
        atexit.unregister(self.stop)


def _outcome(future: Future[Outcome], work: Work) -> Outcome:
    """The outcome, also where the pool dropped the work or the task raised a bare ``BaseException``."""
    try:
        return future.result()
    except BaseException as error:
        return Outcome(work.node, work.revert, None, Failure.from_exception(error))
