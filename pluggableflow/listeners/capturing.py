# SPDX-License-Identifier: Apache-2.0
"""Keeps what happens in a list, for tests above all."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from pluggableflow.engine import Engine
from pluggableflow.listeners.listener import DEFAULT_LISTEN_FOR, Details, Listener


class CaptureListener(Listener):
    """Appends a value for every state to :attr:`values`: ``(kind, state, details)`` unless a subclass makes another.

    :param capture_flow: whether flows are captured; likewise for tasks and retries
    :param skip_tasks: names of tasks that are not captured; likewise for retries and flows
    :param values: the list to append to
    """

    FLOW = "flow"
    TASK = "task"
    RETRY = "retry"

    def __init__(
        self,
        engine: Engine,
        task_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        flow_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        retry_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        capture_flow: bool = True,
        capture_task: bool = True,
        capture_retry: bool = True,
        skip_tasks: Collection[str] | None = None,
        skip_retries: Collection[str] | None = None,
        skip_flows: Collection[str] | None = None,
        values: list[Any] | None = None,
    ) -> None:
        super().__init__(engine, task_listen_for, flow_listen_for, retry_listen_for)
        self._captured = {self.FLOW: capture_flow, self.TASK: capture_task, self.RETRY: capture_retry}
        skipped = {self.FLOW: skip_flows, self.TASK: skip_tasks, self.RETRY: skip_retries}
        self._skipped = {kind: frozenset(names or ()) for kind, names in skipped.items()}
        self.values: list[Any] = [] if values is None else values

    @staticmethod
    def _format_capture(kind: str, state: str, details: Details) -> Any:
        """What is appended."""
        return kind, state, details

    def _capture(self, kind: str, state: str, details: Details) -> None:
        if self._captured[kind] and details[f"{kind}_name"] not in self._skipped[kind]:
            self.values.append(self._format_capture(kind, state, details))

    def _flow_receiver(self, state: str, details: Details) -> None:
        self._capture(self.FLOW, state, details)

    def _task_receiver(self, state: str, details: Details) -> None:
        self._capture(self.TASK, state, details)

    def _retry_receiver(self, state: str, details: Details) -> None:
        self._capture(self.RETRY, state, details)
