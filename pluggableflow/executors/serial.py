# SPDX-License-Identifier: Apache-2.0
"""Runs tasks one after the other in the engine's own thread."""

from __future__ import annotations

from collections.abc import Callable

from pluggableflow.executor import Executor, Outcome, Work, carry_out


class SerialExecutor(Executor):
    """An executor of one worker: the calling thread."""

    contract_version = 1
    max_workers = 1

    def start(self, done: Callable[[Outcome], None]) -> None:
        self._done = done

    def submit(self, work: Work) -> None:
        self._done(carry_out(work))

    def stop(self, drain: bool = True) -> None:
        pass
