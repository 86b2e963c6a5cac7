# SPDX-License-Identifier: Apache-2.0
"""What tells a running task that it should end."""

from __future__ import annotations

import threading
import time
from typing import Any


class Cancellation:
    """Like an event, which somebody sets, or the clock at a deadline.

    :param event: set by whoever cancels; many may share it
    To another process of this machine only the deadline goes along.

    :param deadline: by the monotonic clock, in seconds; ``None`` for none
    :param limit: says which time limit has passed at the deadline, for the failure of a task that ends after it;
        ``None``: the deadline is no reason to fail
    """

    __slots__ = ("event", "deadline", "limit")

    def __init__(
        self, event: threading.Event | None = None, deadline: float | None = None, limit: str | None = None
    ) -> None:
        self.event = event or threading.Event()
        self.deadline, self.limit = deadline, limit

    def __reduce__(self) -> tuple[Any, ...]:
        return Cancellation, (None, self.deadline, self.limit)

    def is_set(self) -> bool:
        """Whether the task should end."""
        return self.event.is_set() or (self.deadline is not None and self.is_overdue())

    def is_overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the task should end, at most ``timeout`` seconds; returns whether it should."""
        if self.deadline is not None:
            left = max(0.0, self.deadline - time.monotonic())
            timeout = left if timeout is None else min(timeout, left)
        self.event.wait(timeout)
        return self.is_set()


#: Of what nobody can cancel.
NEVER = Cancellation()
