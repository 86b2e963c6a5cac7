# SPDX-License-Identifier: Apache-2.0
"""Runs tasks in worker processes: its own, or those of a pool that many executors may share."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

from pluggableflow.exceptions import NotPicklable, NotRun, WorkerDied
from pluggableflow.executor import WORKER_DEATHS, Outcome, Work
from pluggableflow.executors.line import checked_workers
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.executors.travel import pack, unpack_outcome
from pluggableflow.executors.worker import CANCEL, serve

_SPAWNING = threading.Lock()


class _Died(Exception):
    """The worker process has ended; the text says how."""


class _Worker:
    """One worker process. Used by one thread at a time, but for :meth:`kill` and :meth:`cancel`."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._sending = threading.Lock()
        self.number = 0  # of the work that was sent last
        with _SPAWNING, theirs:
            self._process = context.Process(
                target=serve, args=(theirs, os.getpid()), name="pluggableflow_worker", daemon=False
            )
            self._process.start()
        # Unlike the pipe and the sentinel, this tells of the death also while a child of the worker lives on.
        self._death = os.pidfd_open(self._process.pid or 0)

    def ready(self) -> None:
        try:
            self._receive()
        except _Died as died:
            raise _Died(
                f"{died} before it was ready (see standard error; a script that runs flows in processes does so below"
                ' `if __name__ == "__main__":`)'
            ) from None

    def run(self, work: Work, message: bytes) -> Outcome:
        try:
            with self._sending:
                self.number += 1
                self._connection.send_bytes(message)
        except OSError:
            self._process.join()
            raise _Died(self._how()) from None
        if work.cancelled.event.is_set():  # whoever set it may have come before the message
            self.cancel(self.number)
        while True:
            done, content = self._receive()
            if done:
                return unpack_outcome(work, content)
            task = work.task
            task._report, task._node = work.report, work.node
            task.update_progress(content[0], **content[1])

    def _receive(self) -> tuple[bool, Any]:
        wait([self._connection, self._death])
        try:
            if self._connection.poll():
                done, content = self._connection.recv()
                return done, content
        except (EOFError, OSError):
            pass
        self._process.join()
        raise _Died(self._how())

    def _how(self) -> str:
        code = self._process.exitcode or 0
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def cancel(self, number: int) -> None:
        """Tell the work of that number that it should end, if it has not."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.send_bytes(CANCEL + str(number).encode())

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send_bytes(b"")
        self._process.join()
        self._process.close()
        self._connection.close()
        os.close(self._death)


class ProcessPool:
    """Worker processes, made when none is idle, for any number of executors. Thread-safe.

    :param max_workers: default: as many as there are processors
    """

    def __init__(self, max_workers: int | None = None) -> None:
        self.max_workers = checked_workers(max_workers, os.cpu_count() or 1)
        self._free = threading.Semaphore(self.max_workers)
        self._idle: list[_Worker] = []

    @contextlib.contextmanager
    def worker(self) -> Iterator[_Worker]:
        """A worker for one piece of work, as soon as one is free."""
        with self._free:
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = _Worker()
                try:
                    worker.ready()
                except BaseException:
                    worker.kill()
                    worker.close()
                    raise
            try:
                yield worker
            except BaseException:
                worker.kill()
                worker.close()
                raise
            self._idle.append(worker)

    def close(self) -> None:
        """End the idle workers; call it when no executor uses the pool."""
        while self._idle:
            self._idle.pop().close()


class ProcessesExecutor(ThreadsExecutor):
    """An executor of ``max_workers`` worker processes, each started anew (spawn), and kept while it lives.

    The main script and the flow file are imported by each worker, as everything that tasks need.

    :param max_workers: default: as many as the pool has
    :param workers: a pool to use instead of an own one, which many executors may share; it is the caller's to close
    """

    contract_version = 1
    picklable = True

    def __init__(self, max_workers: int | None = None, workers: ProcessPool | None = None) -> None:
        self._workers = ProcessPool(max_workers) if workers is None else workers
        self._own = workers is None
        self._busy: dict[_Worker, Work] = {}
        self._ended: set[int] = set()  # nodes whose work was ended
        self._ending = False
        self._lock = threading.Lock()
        super().__init__(checked_workers(max_workers, self._workers.max_workers))

    def start(self, done: Callable[[Outcome], None]) -> None:
        self._ending = False
        self._ended.clear()
        super().start(done)

    def _carry_out(self, work: Work) -> Outcome:
        if work.cancelled.is_set():
            return work.not_begun("it was cancelled")
        try:
            message = pack(work)
        except NotPicklable as fault:
            return work.failed(fault)
        last = ""
        for _death in range(WORKER_DEATHS):
            try:
                with self._workers.worker() as worker, self._known(worker, work):
                    return worker.run(work, message)
            except _Died as died:
                last = str(died)
            except NotRun as ended:
                return work.failed(ended)
            if self._ending or work.node in self._ended:
                return work.failed(_ended(work))
        return work.failed(WorkerDied(work.task.name, WORKER_DEATHS, last))

    @contextlib.contextmanager
    def _known(self, worker: _Worker, work: Work) -> Iterator[None]:
        """Lets the worker be killed while it runs work of this executor."""
        with self._lock:
            if self._ending or work.node in self._ended:
                raise _ended(work)
            self._busy[worker] = work
        try:
            yield
        finally:
            with self._lock:
                del self._busy[worker]

    def cancel(self) -> None:
        with self._lock:
            told = [(each, each.number) for each, work in self._busy.items() if work.cancelled.event.is_set()]
        for worker, number in told:
            worker.cancel(number)

    def submit(self, work: Work) -> None:
        self._ended.discard(work.node)
        super().submit(work)

    def end(self, node: int, ended: Callable[[], None]) -> bool:
        with self._lock:
            self._ended.add(node)
            for worker, work in self._busy.items():
                if work.node == node:
                    worker.kill()
        return True

    def stop(self, drain: bool = True) -> None:
        if not drain:
            with self._lock:
                self._ending = True
                for worker in self._busy:
                    worker.kill()
        super().stop(drain)
        if self._own:
            self._workers.close()


def _ended(work: Work) -> NotRun:
    return NotRun(f"atom {work.task.name!r} was ended by its executor")
