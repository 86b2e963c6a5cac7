# SPDX-License-Identifier: Apache-2.0
"""Runs tasks in threads: a pool of its own, or one that was given and is left running."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from pluggableflow.exceptions import OptionError
from pluggableflow.executor import Executor, Outcome, Work, carry_out
from pluggableflow.failure import Failure


class ThreadsExecutor(Executor):
    """An executor of ``max_workers`` threads.

    :param max_workers: default: as many as there are processors plus four, at most 32
    :param pool: a pool to use instead; it is the caller's to shut down
    """

    def __init__(self, max_workers: int | None = None, pool: ThreadPoolExecutor | None = None) -> None:
        if max_workers is not None and (not isinstance(max_workers, int) or max_workers < 1):
            raise OptionError(f"max_workers must be a positive integer, not {max_workers!r}")
        if pool is not None and max_workers is None:
            max_workers = pool._max_workers
        self.max_workers = max_workers or min(32, (os.cpu_count() or 1) + 4)
        self._given = pool
        self._pool: ThreadPoolExecutor | None = None
        self._unfinished: set[Future[Outcome]] = set()  # in the given pool

    def start(self, done: Callable[[Outcome], None]) -> None:
        self._done = done
        self._pool = self._given or ThreadPoolExecutor(self.max_workers, thread_name_prefix="pluggableflow")

    def submit(self, work: Work) -> None:
        assert self._pool is not None, "submit() before start()"
        future = self._pool.submit(carry_out, work)
        if self._given is not None:
            self._unfinished.add(future)
            future.add_done_callback(self._unfinished.discard)
        future.add_done_callback(lambda ended: self._done(_outcome(ended, work)))

    def stop(self) -> None:
        if self._pool is not None and self._given is None:
            self._pool.shutdown(wait=True)
        wait(set(self._unfinished))
        self._pool = None


def _outcome(future: Future[Outcome], work: Work) -> Outcome:
    """The outcome, also where the pool dropped the work or the task raised a bare ``BaseException``."""
    try:
        return future.result()
    except BaseException as error:
        return Outcome(work.node, work.revert, None, Failure.from_exception(error))
