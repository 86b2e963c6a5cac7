# SPDX-License-Identifier: Apache-2.0
"""Keeps in metadata how long things took, and when they happened."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from pluggableflow import states
from pluggableflow.engine import Engine
from pluggableflow.exceptions import StorageFailure
from pluggableflow.listeners.listener import FINISH_STATES, Details, Listener

LOG = logging.getLogger(__name__)

STARTING_STATES = frozenset({states.RUNNING, states.REVERTING})
FINISHED_STATES = frozenset(FINISH_STATES) | {states.CANCELLED}
WATCH_STATES = FINISHED_STATES | STARTING_STATES | {states.PENDING, states.SUSPENDED}

FLOW, TASK, RETRY = "flow", "task", "retry"


class _MetadataListener(Listener):
    """Adds to the metadata of atoms and flows; a store that fails at it is logged and stops nothing."""

    def _keep(self, kind: str, name: str, metadata: dict[str, Any]) -> None:
        storage = self._engine.storage
        try:
            if kind == FLOW:
                storage.update_flow_metadata(metadata)
            else:
                storage.update_atom_metadata(name, metadata)
        except StorageFailure:
            LOG.warning("could not store %s of %s %r", metadata, kind, name, exc_info=True)


class DurationListener(_MetadataListener):
    """Keeps how many seconds the last execution or revert of each task took, as ``duration`` in its metadata.

    For a flow it is the time from when it last began to run, or to revert, to its end. What was suspended has none.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, task_listen_for=WATCH_STATES, flow_listen_for=WATCH_STATES, retry_listen_for=())
        self._started: dict[tuple[str, str], float] = {}

    def deregister(self) -> None:
        super().deregister()
        if self._started:
            names = ", ".join(f"{kind} {name!r}" for kind, name in list(self._started)[:10])
            LOG.warning("%s of tasks and flows began and did not end: %s", len(self._started), names)
        self._started.clear()

    def _task_receiver(self, state: str, details: Details) -> None:
        self._receiver(TASK, details["task_name"], state)

    def _flow_receiver(self, state: str, details: Details) -> None:
        self._receiver(FLOW, details["flow_name"], state)

    def _receiver(self, kind: str, name: str, state: str) -> None:
        if state in STARTING_STATES:
            self._started[kind, name] = time.monotonic()
            return
        started = self._started.pop((kind, name), None)
        if started is not None and state in FINISHED_STATES:
            self._record_ending(kind, name, time.monotonic() - started)

    def _record_ending(self, kind: str, name: str, seconds: float) -> None:
        """A task or flow has ended after so many seconds."""
        self._keep(kind, name, {"duration": seconds})


class PrintingDurationListener(DurationListener):
    """Keeps durations, and says what has begun and how long it took.

    :param printer: takes a line; default: :func:`print`
    """

    def __init__(self, engine: Engine, printer: Callable[[str], Any] | None = None) -> None:
        super().__init__(engine)
        self._printer = print if printer is None else printer

    def _receiver(self, kind: str, name: str, state: str) -> None:
        super()._receiver(kind, name, state)
        if state in STARTING_STATES:
            self._printer(f"{name!r} {kind} started.")

    def _record_ending(self, kind: str, name: str, seconds: float) -> None:
        super()._record_ending(kind, name, seconds)
        self._printer(f"It took {kind} {name!r} {seconds:.2f} seconds to finish.")


class EventTimeListener(_MetadataListener):
    """Keeps when each state was last entered, as ``STATE-timestamp`` in the metadata, in seconds since 1970."""

    def _task_receiver(self, state: str, details: Details) -> None:
        self._keep(TASK, details["task_name"], _now(state))

    def _retry_receiver(self, state: str, details: Details) -> None:
        self._keep(RETRY, details["retry_name"], _now(state))

    def _flow_receiver(self, state: str, details: Details) -> None:
        self._keep(FLOW, details["flow_name"], _now(state))


def _now(state: str) -> dict[str, float]:
    return {f"{state}-timestamp": time.time()}
