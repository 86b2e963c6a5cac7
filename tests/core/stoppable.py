# SPDX-License-Identifier: Apache-2.0
"""Tasks that say when they have begun, and then end when they are told to, or do not listen."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from pluggableflow.task import Task

#: Lets the deaf ones in threads end after all; each test makes its own.
RELEASE: list[threading.Event] = []


class Waiting(Task):
    """Ends when it is told to."""

    interruptible = False

    def execute(self) -> str:
        self.update_progress(0.5)
        while not self.cancelled.wait(60):
            pass
        return "told"

    def revert(self, result: Any) -> Any:
        return repr(result)


class Refusing(Waiting):
    """Fails when it is told to end."""

    def execute(self) -> str:
        super().execute()
        raise InterruptedError("told to end")


class Deaf(Waiting):
    """Does not listen, and has to be ended: in a process, which sleeps for long."""

    def execute(self) -> str:
        self.update_progress(0.5)
        time.sleep(3600)
        return "slept"


class DeafThread(Waiting):
    """Does not listen, and cannot be ended: in a thread, until it is released."""

    def execute(self) -> str:
        self.update_progress(0.5)
        RELEASE[-1].wait(60)
        return "released"


class DeafCoroutine(Waiting):
    """Does not listen, as a coroutine."""

    async def execute(self) -> str:  # type: ignore[override]
        self.update_progress(0.5)
        await asyncio.sleep(3600)
        return "slept"
