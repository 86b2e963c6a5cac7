# SPDX-License-Identifier: Apache-2.0
"""``taskflow.engines.action_engine.engine``."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Executor as Pool
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
from typing import Any

from pluggableflow.engines.action import ActionEngine as _ActionEngine
from pluggableflow.engines.parallel import ParallelActionEngine as _ParallelActionEngine
from pluggableflow.engines.serial import SerialActionEngine as _SerialActionEngine
from pluggableflow.exceptions import FlowMismatch, MissingDependencies, OptionError
from pluggableflow.executor import Executor
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.failure import Failure
from pluggableflow.flow import Flow
from pluggableflow.middleware import FlowDetail
from pluggableflow.notifier import Notifier
from pluggableflow_taskflow import states
from pluggableflow_taskflow.patterns import linear_flow
from pluggableflow_taskflow.storage import Storage
from pluggableflow_taskflow.utils.persistence_utils import connection_of

_FINAL = (states.SUCCESS, states.FAILURE, states.REVERTED, states.SUSPENDED)


class _FlowNotifier(Notifier):
    """Tells of flows but for REVERTING, which TaskFlow does not know, and RESUMING, which it tells earlier."""

    def notify(self, event_type: str, details: Mapping[str, Any] | None = None) -> None:
        if event_type not in (states.REVERTING, states.RESUMING):
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

    @property
    def compilation(self) -> Any:
        """Has the compiled flow as ``execution_graph``; ``None`` before it is compiled."""
        return None if self.plan is None else SimpleNamespace(execution_graph=self.plan.to_networkx())

    def prepare(self) -> None:
        fresh = not self._prepared
        super().prepare()
        state = self.storage.get_flow_state()
        if fresh and state not in (states.PENDING, *_FINAL[:3]):
            details = {"flow_name": self.flow.name, "flow_uuid": self.storage.flow_uuid, "old_state": state}
            Notifier.notify(self.notifier, states.RESUMING, details)

    def _mismatched(self, mismatch: FlowMismatch) -> None:
        self.validate()  # an input that is gone is told as one that is missing, as TaskFlow does
        super()._mismatched(mismatch)

    def validate(self) -> None:
        try:
            super().validate()
        except MissingDependencies as error:
            if len(error.missing) > 1:  # TaskFlow says the others by the chain of causes
                raise error from MissingDependencies(self.flow.name, error.missing[1:])
            raise

    def _failures(self) -> list[Failure]:
        # TaskFlow lets a failed revert hide what led to it.
        return list(self.storage.get_revert_failures().values()) or super()._failures()

    def run(self, timeout: float | None = None) -> None:
        for _state in self._states():
            pass

    def run_iter(self, timeout: float | None = None) -> Iterator[str]:
        """Run, yielding the states of TaskFlow's machine; sending something true suspends."""
        return self._machine_states()

    def _machine_states(self) -> Generator[str, Any, None]:
        run = self._states()
        last = None
        try:
            for state in run:
                following = [states.WAITING, states.ANALYZING] if last == states.SCHEDULING else []
                if last is None:
                    following = [states.RESUMING, states.SCHEDULING]
                    if state in _FINAL:
                        following += [states.WAITING, states.ANALYZING]
                elif state not in _FINAL:
                    following.append(states.SCHEDULING)
                if state in _FINAL:
                    following.append(state)
                for told in following:
                    if told == states.SCHEDULING and self._suspending:
                        break
                    last = told
                    if (yield told):
                        self.suspend()
        finally:
            run.close()


class SerialActionEngine(ActionEngine, _SerialActionEngine):
    """Runs atoms in the calling thread; ``executor`` and ``max_workers``, for the other engine, are taken as well."""

    option_types = {
        **_SerialActionEngine.option_types,
        "executor": (None, (object,)),
        "max_workers": (None, (object,)),
    }


class ParallelActionEngine(ActionEngine, _ParallelActionEngine):
    """Runs atoms on an executor; ``executor`` may be any pool of threads that has ``submit``."""

    option_types = {
        **_ParallelActionEngine.option_types,
        "executor": ("threads", (str, Executor, Pool)),
    }

    def _find_executor(self) -> Executor:
        given = self.options["executor"]
        if isinstance(given, ProcessPoolExecutor) or type(given).__name__ == "GreenThreadPoolExecutor":
            raise OptionError(f'an executor must be a pool of threads, or "processes", not a {type(given).__name__}')
        if isinstance(given, Pool):
            return ThreadsExecutor(self.options["max_workers"], pool=given)  # type: ignore[arg-type]
        if given in ("thread", "threaded"):
            self.options["executor"] = "threads"
        return super()._find_executor()
