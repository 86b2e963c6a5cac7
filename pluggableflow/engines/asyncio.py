# SPDX-License-Identifier: Apache-2.0
"""The engine for a service that lives on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from pluggableflow.engines.action import ActionEngine
from pluggableflow.executor import Executor
from pluggableflow.executors.asyncio import AsyncioExecutor


class AsyncioActionEngine(ActionEngine):
    """Awaits ``async def`` atoms on the loop that awaits its ``run``, thousands at once; others run in threads.

    What blocks (the store, the decisions, listeners of the engine and the calls of deciders) has one thread of its own
    during the run. The other methods are those of any engine, and block: a service calls them, and
    :func:`pluggableflow.api.load`, through ``asyncio.to_thread``.

    A run whose awaiting coroutine is cancelled lets running atoms finish, suspends the flow, gives up its lease, and
    only then raises ``CancelledError``. Options besides those of all engines:

    * ``max_workers`` (1,000): how many atoms are in flight at once
    * ``threads`` (as many as the executor ``threads`` has): how many that are not ``async def`` run at once
    """

    option_types = {
        **ActionEngine.option_types,
        "max_workers": (None, (int, type(None))),
        "threads": (None, (int, type(None))),
    }
    _event_loop: asyncio.AbstractEventLoop

    def _make_executor(self) -> Executor:
        return AsyncioExecutor(self.options["max_workers"], self.options["threads"], self._event_loop)

    async def run(self) -> None:
        async with self._thread() as call:
            await call(self._run)

    def _run(self) -> None:
        for _state in self._states():
            pass

    async def run_iter(self) -> AsyncIterator[str]:
        states = self._states()
        async with self._thread() as call:
            try:
                while (state := await call(next, states, None)) is not None:
                    yield state
            finally:
                await call(states.close)

    @contextlib.asynccontextmanager
    async def _thread(self) -> AsyncIterator[Callable[..., Any]]:
        """A thread for one run: yields what calls a function there and is awaited."""
        self._event_loop, context = asyncio.get_running_loop(), copy_context()
        with ThreadPoolExecutor(1, "pluggableflow_engine") as pool:

            async def call(function: Callable[..., Any], *args: Any) -> Any:
                ended = self._event_loop.run_in_executor(pool, context.run, function, *args)
                try:
                    return await asyncio.shield(ended)
                except asyncio.CancelledError:
                    while not ended.done():
                        self.suspend()
                        with contextlib.suppress(asyncio.CancelledError):
                            await asyncio.wait([ended])
                    ended.exception()  # what became of the flow is stored
                    raise

            yield call
