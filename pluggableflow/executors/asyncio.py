# SPDX-License-Identifier: Apache-2.0
"""Runs ``async def`` tasks on one event loop, thousands at once; others in threads beside it."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from pluggableflow.exceptions import NotRun, OptionError
from pluggableflow.executor import Executor, Outcome, Work, begin, conclude
from pluggableflow.executors.line import Line, checked_workers
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.failure import Failure

DEFAULT_MAX_WORKERS = 1000


class AsyncioExecutor(Executor):
    """An executor of one event loop, in a thread of its own unless a loop is given.

    An ``async def`` method is awaited on the loop; its hooks run there too, so they must not block. Any other method
    runs in one of at most ``threads`` threads, so a task that blocks keeps nobody waiting but its like.

    :param max_workers: how many pieces of work are in flight at once; default: 1,000
    :param threads: default: as many as the executor ``threads`` has
    :param loop: a loop to use instead, which runs in another thread than the engine's and is left running
    """

    contract_version = 1

    def __init__(
        self,
        max_workers: int | None = None,
        threads: int | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.max_workers = checked_workers(max_workers, DEFAULT_MAX_WORKERS)
        self._plain = ThreadsExecutor(threads)
        self._given = loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: dict[Future[Outcome], int] = {}  # to the node
        self._line: Line | None = None

    def start(self, done: Callable[[Outcome], None]) -> None:
        if self._given is not None and not self._given.is_running():
            raise OptionError("the given loop does not run; run it in a thread other than the engine's")
        if self._given is not None and asyncio._get_running_loop() is self._given:
            raise OptionError("the given loop runs in the engine's own thread, which blocks it; give one of another")
        self._line = Line(self.max_workers, self._begin, done)
        self._plain.start(self._line.ended)
        self._loop = self._given
        if self._given is None:
            ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(_serve(ready)), name="pluggableflow_asyncio", daemon=True
            )
            self._thread.start()
            self._loop, self._end = ready.result()
        atexit.register(self.stop)

    def submit(self, work: Work) -> None:
        assert self._line is not None
        self._line.add(work)

    def _begin(self, work: Work) -> None:
        assert self._loop is not None and self._line is not None
        if not work.task.is_async(work.revert):
            self._plain.submit(work)
            return
        future = asyncio.run_coroutine_threadsafe(_carry_out(work), self._loop)
        self._tasks[future] = work.node
        future.add_done_callback(partial(self._ended, work))

    def _ended(self, work: Work, future: Future[Outcome]) -> None:
        assert self._line is not None
        self._tasks.pop(future, None)
        try:
            outcome = future.result()
        except BaseException as error:
            ended = NotRun(f"the coroutine of atom {work.task.name!r} was cancelled")
            ended.__cause__ = error
            outcome = work.failed(ended)
        self._line.ended(outcome)

    def end(self, node: int, ended: Callable[[], None]) -> bool:
        assert self._line is not None
        for future, its_node in list(self._tasks.items()):
            if its_node == node:
                future.cancel()
                return True
        if self._plain.end(node, ended):
            return True
        self._line.make_room()
        return False

    def stop(self, drain: bool = True) -> None:
        atexit.unregister(self.stop)
        if self._line is not None:
            if not drain:
                self._line.drop()
                for future in list(self._tasks):
                    future.cancel()
                self._plain.stop(drain)
            self._line.wait()
        self._plain.stop()
        if self._thread is not None:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
            self._thread = None


async def _serve(ready: Future[Any]) -> None:
    """Keep a loop running until its end is set; ``asyncio.run`` then cancels what coroutines have left behind."""
    end = asyncio.Event()
    ready.set_result((asyncio.get_running_loop(), end))
    await end.wait()


async def _carry_out(work: Work) -> Outcome:
    """What :func:`pluggableflow.executor.carry_out` does, for a method that is awaited."""
    if work.cancelled.is_set():
        return work.not_begun("it was cancelled")
    before, method, after = begin(work)
    value, failure = None, None
    try:
        before()
        value = await method(**work.arguments)
    except Exception as error:
        failure = Failure.from_exception(error)
    return conclude(work, after, value, failure)
