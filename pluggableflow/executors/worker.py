# SPDX-License-Identifier: Apache-2.0
"""What runs in a worker process of the executor ``processes``."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from pluggableflow.exceptions import NotPicklable
from pluggableflow.executor import carry_out
from pluggableflow.executors.travel import pack_failure, pack_outcome, unpack

_PARENT_SECONDS = 1.0


def serve(connection: Connection[Any, Any], parent: int) -> None:
    """Run the work that comes, one piece after the other, until there is no more or the parent has died."""
    # Ctrl-C reaches all processes of a terminal; it is the engine that decides what becomes of running work.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    messages: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, parent, messages), daemon=True).start()
    sending = threading.Lock()

    def report(_node: int, progress: float, details: Any = None) -> None:
        _send(False, (progress, dict(details or {})))

    def _send(done: bool, content: Any) -> None:
        with sending:
            connection.send((done, content))

    _send(False, None)  # ready
    while message := messages.get():
        try:
            work = unpack(message, report)
        except NotPicklable as fault:
            _send(True, pack_failure(fault))
            continue
        try:
            content = pack_outcome(work.task.name, carry_out(work))
        except BaseException as error:  # what ends a thread or a process elsewhere is a failure of the task here
            content = pack_failure(error)
        _send(True, content)
        del work, content


def _listen(connection: Connection[Any, Any], parent: int, messages: SimpleQueue[bytes]) -> None:
    """Ends the process, whatever it is doing, as soon as nobody is there to take what it does."""
    try:
        while True:
            # Processes that the parent has forked may keep its end of the connection open after its death.
            while not connection.poll(_PARENT_SECONDS):
                if os.getppid() != parent:
                    os._exit(1)
            message = connection.recv_bytes()
            messages.put(message)
            if not message:
                return
    except (EOFError, OSError):
        os._exit(1)
