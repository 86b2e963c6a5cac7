# SPDX-License-Identifier: Apache-2.0
"""The engine that runs atoms at the same time, on any executor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pluggableflow.connection import Connection
from pluggableflow.engines.action import ActionEngine
from pluggableflow.exceptions import OptionError
from pluggableflow.executor import Executor
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.flow import Flow
from pluggableflow.loader import load_plugin
from pluggableflow.middleware import FlowDetail


class ParallelActionEngine(ActionEngine):
    """Runs atoms on an executor, as many at once as it has workers. Options besides those of both engines:

    * ``executor`` ("threads"): name of an installed executor, an :class:`Executor`, a ``functools.partial`` that makes
      one for this engine, or a ``ThreadPoolExecutor``, which is left running
    * ``max_workers`` (chosen by the executor)
    * ``prefetch`` (``max_workers``): how many atoms more may be handed out, so that no worker waits for a commit
    """

    option_types = {
        **ActionEngine.option_types,
        "executor": ("threads", (str, Executor, ThreadPoolExecutor, partial)),
        "max_workers": (None, (int, type(None))),
        "prefetch": (None, (int, type(None))),
    }

    def __init__(
        self, flow: Flow, flow_detail: FlowDetail, connection: Connection | None, options: Mapping[str, Any]
    ) -> None:
        super().__init__(flow, flow_detail, connection, options)
        if self.options["prefetch"] is not None and self.options["prefetch"] < 0:
            raise OptionError(f"prefetch must not be negative, as {self.options['prefetch']} is")
        self._executor = self._find_executor()

    def _find_executor(self) -> Executor:
        given, max_workers = self.options["executor"], self.options["max_workers"]
        if isinstance(given, Executor):
            if max_workers is not None:
                raise OptionError("max_workers belongs to the executor; give it to the one that you pass in")
            return given
        if isinstance(given, ThreadPoolExecutor):
            return ThreadsExecutor(max_workers, pool=given)
        kind = load_plugin("pluggableflow.executors", given) if isinstance(given, str) else given
        executor: Executor = kind() if max_workers is None else kind(max_workers=max_workers)
        return executor

    def run_iter(self) -> Iterator[str]:
        return self._states()

    def _make_executor(self) -> Executor:
        return self._executor

    def _prefetch(self) -> int:
        prefetch: int | None = self.options["prefetch"]
        return self._executor.max_workers if prefetch is None else prefetch
