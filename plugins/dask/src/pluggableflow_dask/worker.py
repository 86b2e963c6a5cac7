# SPDX-License-Identifier: Apache-2.0
"""What runs in the worker processes of the cluster."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from distributed import get_worker

from pluggableflow.executor import carry_out
from pluggableflow.executors.travel import pack_failure, pack_outcome, unpack

_running: dict[str, threading.Event] = {}
#: Every worker hears of every cancellation, and most never get that work, so the oldest are forgotten.
_cancelled: deque[str] = deque(maxlen=10_000)
_lock = threading.Lock()


def run(message: bytes, topic: str, key: str) -> bytes:
    """Run packed work; returns the packed outcome. What its task reports becomes events of ``topic``."""
    worker = get_worker()

    def report(_node: int, progress: float, details: Mapping[str, Any] | None = None) -> None:
        worker.log_event(topic, {"key": key, "content": pickle.dumps((progress, dict(details or {})))})

    event = threading.Event()
    with _lock:
        _running[key] = event
        if key in _cancelled:
            event.set()
    try:
        work = unpack(message, report)
        work.cancelled.event = event
        return pack_outcome(work.task.name, carry_out(work))
    except BaseException as error:  # what cannot be unpacked, or would end a thread
        return pack_failure(error)
    finally:
        with _lock:
            del _running[key]


def cancel(keys: list[str]) -> None:
    """Tell work of these keys that it should end, whether it runs here now or later."""
    with _lock:
        for key in keys:
            _cancelled.append(key)
            if key in _running:
                _running[key].set()
