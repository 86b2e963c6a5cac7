# SPDX-License-Identifier: Apache-2.0
"""Functions for tasks that test executors; worker processes can import them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

from pluggableflow.task import Task


async def add(a: int, b: int) -> int:
    """Awaits, then adds."""
    await asyncio.sleep(0)
    return a + b


def explode(path: str) -> None:
    """Fails, with a cause, where ``path`` does not exist."""
    try:
        os.stat(path)
    except OSError as error:
        raise ValueError("no such thing") from error


def die(marker: str) -> str:
    """Kills its process, unless ``marker`` says that it has done so before."""
    if not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def always_die() -> None:
    """Kills its process."""
    os.kill(os.getpid(), signal.SIGKILL)


def make_lock() -> Any:
    """Returns what cannot be pickled."""
    return threading.Lock()


def echo(value: Any) -> Any:
    """Returns what it is given."""
    return value


def undo(value: Any) -> Any:
    """Reverts :func:`echo`."""
    return ["undone", value]


def note(path: str, text: str) -> None:
    """Writes when it begins, and when it ends."""
    for _ in range(2):
        with open(path, "a") as notes:
            notes.write(f"{text}\n")


class Halfway(Task):
    """Says that it is half done, and returns its key."""

    def execute(self) -> str:
        self.update_progress(0.5)
        return self.idempotency_key
