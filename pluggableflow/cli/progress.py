# SPDX-License-Identifier: Apache-2.0
"""Shows how a run comes along: a live bar on a terminal, plain lines elsewhere, nothing with ``--json``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from pluggableflow import states
from pluggableflow.failure import Failure

_ENDED = {states.SUCCESS, states.IGNORE}
_TOLD_AT_ONCE = {states.FAILURE, states.REVERT_FAILURE, states.RETRYING}


class Progress:
    """Counts what the atoms of a run do.

    :param total: tasks and retries of the flow
    :param done: those that ended in an earlier run
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self.reverted = self.failed = 0
        self.running: dict[str, None] = {}

    def __call__(self, state: str, details: dict[str, Any]) -> None:
        """A listener of an engine's ``atom_notifier``."""
        name, old = details.get("task_name") or details["retry_name"], details["old_state"]
        if state in (states.RUNNING, states.REVERTING):
            self.running[name] = None
        else:
            self.running.pop(name, None)
        self.done += (state in _ENDED) - (old in _ENDED)
        self.reverted += (state == states.REVERTED) - (old == states.REVERTED)
        self.failed += (state == states.FAILURE) - (old == states.FAILURE)
        self.show(name, state, details.get("result"))

    def show(self, name: str, state: str, result: Any) -> None:
        """Tell of one change."""

    def close(self) -> None:
        """Give the terminal back. May be called again."""


class PlainProgress(Progress):
    """One line per change; in a flow of many atoms one per tenth, and all failures."""

    def __init__(self, total: int, done: int) -> None:
        super().__init__(total, done)
        self._every = total // 10 if total > 50 else 1
        self._told = (done // self._every, 0)

    def show(self, name: str, state: str, result: Any) -> None:
        if state in (states.RUNNING, states.PENDING, states.REVERTING):
            return
        position = (self.done // self._every, self.reverted // self._every)
        if state not in _TOLD_AT_ONCE and self._every > 1 and position == self._told:
            return
        self._told = position
        line = f"[{self.done}/{self.total}] {state} {name}"
        if isinstance(result, Failure):
            line += f": {failure_line(result)}"
        print(line, flush=True)


class LiveProgress(Progress):
    """A bar with what is running, redrawn a few times a second."""

    def __init__(self, total: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        super().__init__(total, done)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._bar = Bar(*columns)
        self._task = self._bar.add_task("", total=total, completed=done)
        self._bar.start()

    def show(self, name: str, state: str, result: Any) -> None:
        counts = [f"{count} {what}" for count, what in ((self.failed, "failed"), (self.reverted, "reverted")) if count]
        names = list(self.running)
        more = f" +{len(names) - 3}" if len(names) > 3 else ""
        self._bar.update(self._task, completed=self.done, description=" ".join([*counts, ", ".join(names[:3]) + more]))

    def close(self) -> None:
        self._bar.update(self._task, description="")
        self._bar.stop()


@contextlib.contextmanager
def progress_for(total: int, done: int, quiet: bool) -> Iterator[Progress]:
    """The kind of progress that fits where standard output goes."""
    kind = Progress if quiet else LiveProgress if sys.stdout.isatty() else PlainProgress
    progress = kind(total, done)
    try:
        yield progress
    finally:
        progress.close()


def failure_line(failure: Failure) -> str:
    """One line for a failure: its type and the first line of its message."""
    kind, text = failure.exc_type_names[0].rpartition(".")[2], failure.exception_str.strip().partition("\n")[0]
    return f"{kind}: {text}" if text else kind
