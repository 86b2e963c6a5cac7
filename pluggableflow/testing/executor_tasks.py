# SPDX-License-Identifier: Apache-2.0
"""Functions for tasks that test executors; worker processes can import them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pluggableflow.task import Task

#: What is waited for longer than this does not come.
LIMIT_SECONDS = 15
_POLL_SECONDS = 0.01


def wait_until(condition: Callable[[], bool]) -> None:
    """Block until the condition holds.

    :raises TimeoutError: it does not
    """
    limit = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"waited {LIMIT_SECONDS} seconds in vain")
        time.sleep(_POLL_SECONDS)


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


def always_die(path: str | None = None) -> None:
    """Kills its process, after it has noted so."""
    if path is not None:
        with open(path, "a") as notes:
            notes.write("died\n")
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


async def note_coroutine(path: str, text: str) -> None:
    """Does what :func:`note` does."""
    note(path, text)


def hold(folder: str, me: str) -> str:
    """Writes that it has begun, and waits to be released."""
    (Path(folder) / me).touch()
    wait_until((Path(folder) / "release").exists)
    return me


async def hold_coroutine(folder: str, me: str) -> str:
    """Does what :func:`hold` does, and lets others run on its loop."""
    (Path(folder) / me).touch()
    for _ in range(int(LIMIT_SECONDS / _POLL_SECONDS)):
        if (Path(folder) / "release").exists():
            return me
        await asyncio.sleep(_POLL_SECONDS)
    raise TimeoutError("nobody released it")


class Halfway(Task):
    """Says that it is half done, and returns its key."""

    def execute(self) -> str:
        self.update_progress(0.5)
        return self.idempotency_key


class Listening(Task):
    """Says that it has begun, and ends when it is told to."""

    def execute(self, folder: str) -> str:
        (Path(folder) / "listening").touch()
        return "told" if self.cancelled.wait(LIMIT_SECONDS / 2) else "not told"


class Keyed(Task):
    """Notes its idempotency key; kills its process the first time."""

    def execute(self, path: str) -> str:
        with open(path, "a") as notes:
            notes.write(f"{self.idempotency_key}\n")
        if len(Path(path).read_text().splitlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.idempotency_key
