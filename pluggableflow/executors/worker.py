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
#: Begins a message that cancels the work of a number; work begins otherwise.
CANCEL = b"cancel "


class _Current:
    """The work that the process has now, by its number; what cancels it may come before it is begun, or too late."""

    def __init__(self) -> None:
        self._number, self._cancelled = 0, 0
        self._event = threading.Event()
        self._lock = threading.Lock()

    def begin(self) -> threading.Event:
        """What is set when the next piece of work is cancelled."""
        with self._lock:
            self._number += 1
            self._event = threading.Event()
            if self._number == self._cancelled:
                self._event.set()
            return self._event

    def cancel(self, number: int) -> None:
        with self._lock:
            self._cancelled = number
            if number == self._number:
                self._event.set()


def serve(connection: Connection[Any, Any], parent: int) -> None:
    """Run the work that comes, one piece after the other, until there is no more or the parent has died."""
    # Ctrl-C reaches all processes of a terminal; it is the engine that decides what becomes of running work.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    messages: SimpleQueue[bytes] = SimpleQueue()
    current = _Current()
    threading.Thread(target=_listen, args=(connection, parent, messages, current), daemon=True).start()
    sending = threading.Lock()

    def report(_node: int, progress: float, details: Any = None) -> None:
        _send(False, (progress, dict(details or {})))

    def _send(done: bool, content: Any) -> None:
        with sending:
            connection.send((done, content))

    _send(False, None)  # ready
    while message := messages.get():
        event = current.begin()
        try:
            work = unpack(message, report)
            work.cancelled.event = event
        except NotPicklable as fault:
            _send(True, pack_failure(fault))
            continue
        try:
            content = pack_outcome(work.task.name, carry_out(work))
        except BaseException as error:  # what ends a thread or a process elsewhere is a failure of the task here
            content = pack_failure(error)
        _send(True, content)
        del work, content


def _listen(connection: Connection[Any, Any], parent: int, messages: SimpleQueue[bytes], current: _Current) -> None:
    """Ends the process, whatever it is doing, as soon as nobody is there to take what it does."""
    try:
        while True:
            # Processes that the parent has forked may keep its end of the connection open after its death.
            while not connection.poll(_PARENT_SECONDS):
                if os.getppid() != parent:
                    os._exit(1)
            message = connection.recv_bytes()
            if message.startswith(CANCEL):
                current.cancel(int(message[len(CANCEL) :]))
                continue
            messages.put(message)
            if not message:
                return
    except (EOFError, OSError):
        os._exit(1)
