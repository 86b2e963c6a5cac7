# SPDX-License-Identifier: Apache-2.0
"""Runs one stored flow for a person: progress, signals, the verdict and the exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import Any

from pluggableflow import states
from pluggableflow.cli.flow_file import FlowFile
from pluggableflow.cli.progress import Progress, failure_line, progress_for
from pluggableflow.compiler import compile
from pluggableflow.engine import Engine
from pluggableflow.exceptions import PluggableFlowError
from pluggableflow.executor import run_to_end

SUCCEEDED, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130


class Interruption:
    """Turns SIGINT and SIGTERM into a suspension; a second SIGINT ends the process at once."""

    def __init__(self, engine: Engine, progress: Progress, resume: str) -> None:
        self.signal: int | None = None
        self._engine, self._progress, self._resume = engine, progress, resume
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> Interruption:
        for number in self._previous:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT and number == signal.SIGINT:
            # Threads of tasks cannot be stopped in any other way. What is committed is safe.
            os.write(2, f"\x1b[?25h\nstopped at once; go on with: {self._resume}\n".encode())
            os._exit(INTERRUPTED)
        self.signal = number
        self._engine.suspend()
        os.write(2, b"\nsuspending: what runs may end (Ctrl-C again stops at once)\n")


def carry_out(engine: Engine, file: FlowFile | None, resume: str, as_json: bool) -> int:
    """Run a loaded, stored flow to its end or suspension, and say how it went.

    :param file: says how results are reported
    :param resume: the command that goes on with it
    :returns: the exit code
    """
    engine.prepare()
    storage = engine.storage
    names = [atom.name for atom in compile(engine.flow).atoms if atom is not None]
    done = sum(storage.get_atom_state(name) in (states.SUCCESS, states.IGNORE) for name in names)
    error: Exception | None = None
    with progress_for(len(names), done, as_json) as progress, Interruption(engine, progress, resume) as interruption:
        engine.atom_notifier.register("*", progress)
        try:
            ended = engine.run()
            if ended is not None:
                run_to_end(ended)
        except Exception as raised:
            error = raised
    state = storage.get_flow_state()
    if error is not None and state not in states.FINISHED:
        if not isinstance(error, PluggableFlowError):
            raise error
        print(f"pluggableflow: {error}; go on with: {resume}", file=sys.stderr)
        return FAILED
    summary = summarize(engine)
    if as_json:
        print(json.dumps(summary, default=repr))
    else:
        tell(summary, resume)
        if state == states.SUCCESS and file is not None:
            _report(file, storage.fetch_all())
    if state == states.SUSPENDED:
        return SUCCEEDED if interruption.signal == signal.SIGTERM else INTERRUPTED
    return SUCCEEDED if state == states.SUCCESS else FAILED


def summarize(engine: Engine) -> dict[str, Any]:
    """How a flow stands: plain data, for ``--json`` and :func:`tell`."""
    storage = engine.storage
    details = list(storage.flow_detail)
    state = storage.get_flow_state()
    cancelled = {"cancelled": storage.cancelled} if state == states.CANCELLED else {}
    return {
        **cancelled,
        "uuid": storage.flow_uuid,
        "name": storage.flow_name,
        "state": state,
        "failures": {name: failure_line(failure) for name, failure in storage.get_execute_failures().items()},
        "revert_failures": {name: failure_line(failure) for name, failure in storage.get_revert_failures().items()},
        "reverted": [detail.name for detail in details if detail.state == states.REVERTED],
        "results": storage.fetch_all() if state == states.SUCCESS else {},
    }


def tell(summary: dict[str, Any], resume: str) -> None:
    """Print a summary for people."""
    state = summary["state"]
    print(
        f"flow {summary['name']} ended as {state}"
        if state != states.SUSPENDED
        else f"flow {summary['name']} is {state}"
    )
    if state == states.SUSPENDED:
        print(f"go on with: {resume}")
    if state in states.FINISHED - {states.SUCCESS}:
        if "cancelled" in summary:
            print(f"  {summary['cancelled']}")
        for name, line in summary["failures"].items():
            print(f"  failed: {name}: {line}")
        for name, line in summary["revert_failures"].items():
            print(f"  could not be reverted: {name}: {line}")
        reverted = summary["reverted"]
        if reverted:
            more = f" and {len(reverted) - 10} more" if len(reverted) > 10 else ""
            print(f"  reverted ({len(reverted)}): {', '.join(reverted[:10])}{more}")


def _report(file: FlowFile, results: dict[str, Any]) -> None:
    try:
        text = file.report(results)
    except Exception as error:
        print(f"pluggableflow: report of {file.path} raised {type(error).__name__}: {error}", file=sys.stderr)
        return
    if text is not None:
        print(text)
