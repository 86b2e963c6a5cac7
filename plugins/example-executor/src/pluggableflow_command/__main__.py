# SPDX-License-Identifier: Apache-2.0
"""A worker: runs the work that comes on standard input, and answers on standard output."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any

from pluggableflow.executor import carry_out
from pluggableflow.executors.travel import pack_failure, pack_outcome, unpack


def main() -> None:
    # What tasks print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answering = threading.Lock()

    def answer(done: bool, content: Any) -> None:
        with answering:
            pickle.dump((done, content), answers)
            answers.flush()

    def report(_node: int, progress: float, details: Mapping[str, Any] | None = None) -> None:
        answer(False, (progress, dict(details or {})))

    arrived: SimpleQueue[tuple[bytes, threading.Event]] = SimpleQueue()
    threading.Thread(target=_listen, args=(arrived,), daemon=True).start()
    while True:
        message, cancelled = arrived.get()
        try:
            work = unpack(message, report)
            work.cancelled.event = cancelled
            content = pack_outcome(work.task.name, carry_out(work))
        except BaseException as error:  # what cannot be unpacked, or would end this process
            content = pack_failure(error)
        answer(True, content)


def _listen(arrived: SimpleQueue[tuple[bytes, threading.Event]]) -> None:
    """Takes work, and what cancels it; ends the process when the engine has gone, whatever it is doing."""
    last, cancelled = 0, threading.Event()
    try:
        while True:
            number, message = pickle.load(sys.stdin.buffer)
            if message is not None:
                last, cancelled = number, threading.Event()
                arrived.put((message, cancelled))
            elif number == last:
                cancelled.set()
    finally:
        os._exit(0)


main()
