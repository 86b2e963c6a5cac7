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
from pluggableflow.executors.line import Line, checked_workers


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
        self._idle: list[None] = []  # as many as threads that wait for work, as long as there may be more threads
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        # Whoever takes work out of here has it: the thread that has ended it, or who gives it up before.
        self._running: dict[object, Work] = {}
        self._given_up: dict[object, Callable[[], None]] = {}

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
        if len(self._threads) < self.max_workers:
            try:
                self._idle.pop()
            except IndexError:
                self._add_thread()

    def _add_thread(self) -> None:
        name = f"pluggableflow_{len(self._threads)}"
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        me, running = threading.current_thread(), self._running
        while (work := self._work.get()) is not None:
            running[me] = work
            try:
                outcome = self._carry_out(work)
            except BaseException as error:  # what ends a thread or a process elsewhere is a failure of the task here
                outcome = work.failed(error)
            if running.pop(me, None) is None:
                self._given_up.pop(me)()
                return
            self._done(outcome)
            del work, outcome  # an idle thread keeps nothing alive
            if len(self._threads) < self.max_workers:
                self._idle.append(None)

    def _give_up(self, node: int, ended: Callable[[], None]) -> object:
        """Take work that runs from whoever runs it; returns who that is, or ``None`` if its outcome comes."""
        for worker, work in list(self._running.items()):
            if work.node == node:
                self._given_up[worker] = ended
                if self._running.pop(worker, None) is not None:
                    return worker
                del self._given_up[worker]
        return None

    def end(self, node: int, ended: Callable[[], None]) -> bool:
        worker = self._give_up(node, ended)
        if worker is None:
            return True
        if self._line is not None:
            self._line.make_room()
        else:
            assert isinstance(worker, threading.Thread)
            self._threads.remove(worker)
            self._add_thread()  # what waits may have nobody else
        return False

    def _begin(self, work: Work) -> None:
        assert self._pool is not None and self._line is not None
        line, running = self._line, self._running
        me = object()
        running[me] = work

        def ended(future: Future[Outcome]) -> None:
            if running.pop(me, None) is None:
                self._given_up.pop(me)()
            else:
                line.ended(_outcome(future, work))

        try:
            future = self._pool.submit(carry_out, work)
        except BaseException:
            del running[me]
            raise
        future.add_done_callback(ended)

    def stop(self, drain: bool = True) -> None:
        if self._line is not None:
            if not drain:
                self._line.drop()
            self._line.wait()
        while not drain and not self._work.empty():
            with contextlib.suppress(Empty):
                if (work := self._work.get_nowait()) is not None:
                    self._done(work.not_begun("its executor was stopped at once"))
        for _thread in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        self._threads, self._idle = [], []
        atexit.unregister(self.stop)


def _outcome(future: Future[Outcome], work: Work) -> Outcome:
    """The outcome, also where the pool dropped the work or the task raised a bare ``BaseException``."""
    try:
        return future.result()
    except BaseException as error:
        return work.failed(error)
