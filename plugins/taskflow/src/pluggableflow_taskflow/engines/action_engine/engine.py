# SPDX-License-Identifier: Apache-2.0
"""``taskflow.engines.action_engine.engine``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pluggableflow.engines.action import ActionEngine as _ActionEngine
from pluggableflow.engines.parallel import ParallelActionEngine as _ParallelActionEngine
from pluggableflow.engines.serial import SerialActionEngine as _SerialActionEngine
from pluggableflow.failure import Failure
from pluggableflow.flow import Flow
from pluggableflow.middleware import FlowDetail
from pluggableflow.notifier import Notifier
from pluggableflow.states import REVERTING
from pluggableflow_taskflow.patterns import linear_flow
from pluggableflow_taskflow.storage import Storage
from pluggableflow_taskflow.utils.persistence_utils import connection_of


class _FlowNotifier(Notifier):
    """Tells of flows but for the REVERTING that TaskFlow does not know."""

    def notify(self, event_type: str, details: Mapping[str, Any] | None = None) -> None:
        if event_type != REVERTING:
            super().notify(event_type, details)


class ActionEngine(_ActionEngine):
    """An engine of the core that also runs a task without a flow around it."""

    storage: Storage

    def __init__(self, flow: Any, flow_detail: FlowDetail, backend: Any, options: Mapping[str, Any]) -> None:
        whole = flow if isinstance(flow, Flow) else linear_flow.Flow(flow.name).add(flow)
        super().__init__(whole, flow_detail, connection_of(backend), options)
        self.storage = Storage(flow_detail, self.connection)
        self.notifier = _FlowNotifier()
        self._flow = flow

    def _failures(self) -> list[Failure]:
        # TaskFlow lets a failed revert hide what led to it.
        return list(self.storage.get_revert_failures().values()) or super()._failures()

    def run(self, timeout: float | None = None) -> None:
        for _state in self.run_iter(timeout):
            pass

    def run_iter(self, timeout: float | None = None) -> Iterator[str]:
        return super().run_iter()


class SerialActionEngine(ActionEngine, _SerialActionEngine):
    """Runs atoms in the calling thread."""


class ParallelActionEngine(ActionEngine, _ParallelActionEngine):
    """Runs atoms on an executor."""
