# SPDX-License-Identifier: Apache-2.0
"""Runs tasks on the workers of a Dask cluster."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import dask
from distributed import Client, Future, KilledWorker

from pluggableflow.exceptions import NotPicklable, NotRun, OptionError, WorkerDied
from pluggableflow.executor import Executor, Outcome, Work
from pluggableflow.executors.line import Line, checked_workers
from pluggableflow.executors.travel import pack, unpack_outcome
from pluggableflow_dask.worker import cancel, run


class DaskExecutor(Executor):
    """An executor on a cluster of Dask ``distributed``, which decides where work runs, and again after a death.

    :param max_workers: default: as many as the workers of the cluster have threads when the executor is started
    :param address: of the scheduler; default: ``scheduler-address`` of Dask's configuration
        (``DASK_SCHEDULER_ADDRESS``)
    :param client: a client to use instead, which is left open
    """

    contract_version = 1
    config_module = "pluggableflow_dask.config"
    picklable = True

    def __init__(
        self, max_workers: int | None = None, address: str | None = None, client: Client | None = None
    ) -> None:
        self._address = address or dask.config.get("scheduler-address", None)
        if self._address is None and client is None:
            raise OptionError(
                "the executor 'dask' needs a cluster: set DASK_SCHEDULER_ADDRESS to the address of its scheduler,"
                " or pass DaskExecutor(address=...) or DaskExecutor(client=...)"
            )
        self._given_workers = max_workers
        self.max_workers = checked_workers(max_workers, 1)  # asks the cluster when it is started
        self._given_client = client
        self._client: Client | None = None
        self._topic = ""
        self._count = 0
        self._line: Line | None = None
        # Whoever takes work out of here has it: the callback that has its outcome, or who gives it up before.
        self._running: dict[str, tuple[Work, Future[bytes] | None]] = {}
        self._given_up: dict[str, Callable[[], None]] = {}
        self._lock = threading.Lock()

    def start(self, done: Callable[[Outcome], None]) -> None:
        self._client = self._given_client or Client(self._address, set_as_default=False)
        if self._given_workers is None:
            self.max_workers = max(1, sum(self._client.nthreads().values()))
        self._topic = f"pluggableflow-{uuid4()}"
        self._client.subscribe_topic(self._topic, self._reported)
        self._line = Line(self.max_workers, self._begin, done)

    def submit(self, work: Work) -> None:
        assert self._line is not None
        self._line.add(work)

    def _begin(self, work: Work) -> None:
        assert self._client is not None and self._line is not None
        if work.cancelled.is_set():
            self._line.ended(work.not_begun("it was cancelled"))
            return
        try:
            message = pack(work)
        except NotPicklable as fault:
            self._line.ended(work.failed(fault))
            return
        with self._lock:
            self._count += 1
            key = f"{self._topic}-{self._count}"
            self._running[key] = work, None
        try:
            future = self._client.submit(run, message, self._topic, key, key=key, pure=False)
        except BaseException:
            del self._running[key]
            raise
        with self._lock:
            if key in self._running:
                self._running[key] = work, future  # keeps it alive: Dask drops what nobody holds
        if work.cancelled.event.is_set():  # whoever set it may have come before the work was known
            self.cancel()
        future.add_done_callback(partial(self._ended, key, work))

    def _reported(self, event: tuple[float, dict[str, Any]]) -> None:
        key, content = event[1]["key"], event[1]["content"]
        known = self._running.get(key)
        if known is not None:
            work = known[0]
            progress, details = pickle.loads(content)
            work.task._report, work.task._node = work.report, work.node
            work.task.update_progress(progress, **details)

    def _ended(self, key: str, work: Work, future: Future[bytes]) -> None:
        assert self._line is not None
        outcome = _outcome(work, future)
        with self._lock:
            taken = self._running.pop(key, None) is not None
            ended = self._given_up.pop(key, None)
        if taken:
            self._line.ended(outcome)
        elif ended is not None:
            ended()

    def cancel(self) -> None:
        with self._lock:
            keys = [key for key, (work, _future) in self._running.items() if work.cancelled.event.is_set()]
        if keys and self._client is not None:
            self._client.run(cancel, keys, on_error="ignore")

    def end(self, node: int, ended: Callable[[], None]) -> bool:
        assert self._line is not None
        with self._lock:
            key = next((key for key, (work, _future) in self._running.items() if work.node == node), None)
            if key is None:
                return True
            del self._running[key]
            self._given_up[key] = ended
        self._line.make_room()
        return False

    def stop(self, drain: bool = True) -> None:
        client = self._client
        if client is None:
            return
        assert self._line is not None
        if not drain:
            self._line.drop()
        self._line.wait()
        self._client = None
        client.unsubscribe_topic(self._topic)
        if self._given_client is None:
            client.close()


def _outcome(work: Work, future: Future[bytes]) -> Outcome:
    try:
        return unpack_outcome(work, future.result())
    except KilledWorker as killed:
        last = f"that of {killed.last_worker.address}"
        return work.failed(WorkerDied(work.task.name, killed.allowed_failures + 1, last))
    except BaseException as error:
        fault = NotRun(f"atom {work.task.name!r}: the cluster gave it up: {type(error).__name__}: {error}")
        fault.__cause__ = error
        return work.failed(fault)
