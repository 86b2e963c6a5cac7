# SPDX-License-Identifier: Apache-2.0
"""Runs tasks in processes that a command of the user's choice starts."""

from __future__ import annotations

import contextlib
import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pluggableflow.exceptions import NotPicklable, NotRun, WorkerDied
from pluggableflow.executor import WORKER_DEATHS, Executor, Outcome, Work
from pluggableflow.executors.line import Line, checked_workers
from pluggableflow.executors.travel import pack, unpack_outcome


class _Died(Exception):
    """The process has ended; the text says how."""


class _Process:
    """One worker. Used by one thread at a time, but for :meth:`cancel` and :meth:`kill`."""

    def __init__(self, command: Sequence[str]) -> None:
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        self._process = subprocess.Popen(
            [*command, sys.executable, "-m", "pluggableflow_command"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the engine; and what the command starts is killed with it
        )
        self._sending = threading.Lock()
        self._number = 0

    def run(self, work: Work, message: bytes) -> Outcome:
        assert self._process.stdout is not None
        self._number += 1
        self._send(message)
        if work.cancelled.event.is_set():  # whoever set it may have come before the message
            self.cancel()
        while True:
            try:
                done, content = pickle.load(self._process.stdout)
            except (EOFError, pickle.UnpicklingError):
                code = self._process.wait()
                raise _Died(f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}") from None
            if done:
                return unpack_outcome(work, content)
            work.task._report, work.task._node = work.report, work.node
            work.task.update_progress(content[0], **content[1])

    def cancel(self) -> None:
        self._send(None)

    def _send(self, message: bytes | None) -> None:
        assert self._process.stdin is not None
        with self._sending, contextlib.suppress(BrokenPipeError):  # its answers tell that it has died
            pickle.dump((self._number, message), self._process.stdin)
            self._process.stdin.flush()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it, and give back all that it has."""
        self.kill()
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class CommandExecutor(Executor):
    """An executor of ``max_workers`` processes, each started by a command, and kept until the executor stops.

    :param max_workers: default: as many as there are processors
    :param command: what stands before the command line of a worker; default: the words of the environment variable
        ``PLUGGABLEFLOW_COMMAND``, or nothing
    """

    contract_version = 1
    picklable = True

    def __init__(self, max_workers: int | None = None, command: Sequence[str] | None = None) -> None:
        self.max_workers = checked_workers(max_workers, os.cpu_count() or 1)
        given = shlex.split(os.environ.get("PLUGGABLEFLOW_COMMAND", ""))
        self._command = given if command is None else list(command)
        self._idle: list[_Process] = []
        self._busy: dict[int, tuple[Work, _Process]] = {}
        self._ended: set[int] = set()
        self._ending = False
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def start(self, done: Callable[[Outcome], None]) -> None:
        self._ending = False
        self._pool = ThreadPoolExecutor(self.max_workers, "pluggableflow_command")
        self._line = Line(self.max_workers, self._begin, done)

    def submit(self, work: Work) -> None:
        self._ended.discard(work.node)
        self._line.add(work)

    def _begin(self, work: Work) -> None:
        assert self._pool is not None
        self._pool.submit(lambda: self._line.ended(self._carry_out(work)))

    def _carry_out(self, work: Work) -> Outcome:
        if work.cancelled.is_set():
            return work.not_begun("it was cancelled")
        last = ""
        try:
            message = pack(work)
            for _death in range(WORKER_DEATHS):
                try:
                    return self._run(work, message)
                except _Died as died:
                    last = str(died)
        except (NotPicklable, NotRun, OSError) as error:
            return work.failed(error)
        return work.failed(WorkerDied(work.task.name, WORKER_DEATHS, last))

    def _run(self, work: Work, message: bytes) -> Outcome:
        with self._lock:
            if self._ending or work.node in self._ended:
                raise NotRun(f"atom {work.task.name!r} was ended by its executor")
            process = self._idle.pop() if self._idle else _Process(self._command)
            self._busy[work.node] = work, process
        try:
            outcome = process.run(work, message)
        except BaseException:
            with self._lock:
                del self._busy[work.node]
            process.close()
            if self._ending or work.node in self._ended:
                raise NotRun(f"atom {work.task.name!r} was ended by its executor") from None
            raise
        with self._lock:
            del self._busy[work.node]
            self._idle.append(process)
        return outcome

    def cancel(self) -> None:
        with self._lock:
            for work, process in self._busy.values():
                if work.cancelled.event.is_set():
                    process.cancel()

    def end(self, node: int, ended: Callable[[], None]) -> bool:
        with self._lock:
            self._ended.add(node)
            if node in self._busy:
                self._busy[node][1].kill()
        return True

    def stop(self, drain: bool = True) -> None:
        pool = self._pool
        if pool is None:
            return
        if not drain:
            self._line.drop()
            with self._lock:
                self._ending = True
                for _work, process in self._busy.values():
                    process.kill()
        self._line.wait()
        pool.shutdown()
        self._pool = None
        while self._idle:
            self._idle.pop().close()
