# SPDX-License-Identifier: Apache-2.0
"""The engine that runs one atom after the other in the calling thread."""

from __future__ import annotations

from collections.abc import Iterator

from pluggableflow.engines.action import ActionEngine
from pluggableflow.executor import Executor
from pluggableflow.executors.serial import SerialExecutor


class SerialActionEngine(ActionEngine):
    """Runs atoms in the calling thread, in the order in which they become ready."""

    def run_iter(self) -> Iterator[str]:
        return self._states()

    def _make_executor(self) -> Executor:
        return SerialExecutor()
