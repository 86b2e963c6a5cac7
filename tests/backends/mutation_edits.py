# SPDX-License-Identifier: Apache-2.0
"""Faults as small edits of the source text of a backend."""

from __future__ import annotations

import ast
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """Within one function of a module, ``old`` becomes ``new``.

    :ivar function: its name, which no other function of the module has; empty for the whole module
    :ivar old: text that stands there once
    """

    function: str
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    """Something that a backend must not do.

    :ivar module: which is edited
    :ivar tests: expression that selects the tests of the kit which are tried first
    """

    name: str
    module: str
    tests: str
    edits: tuple[Edit, ...]

    @property
    def store(self) -> str:
        return self.module.partition(".")[0] if "sqlalchemy" in self.module else self.module.rpartition(".")[2]


def faults_of(module: str) -> Callable[..., Fault]:
    """Makes faults of a module from their name, tests and edits."""

    def fault(name: str, tests: str, *edits: Edit) -> Fault:
        return Fault(name, module, tests, edits)

    return fault


def edited(text: str, edits: Sequence[Edit]) -> str:
    """The source text of a module with the edits.

    :raises ValueError: one of them does not fit the text any more
    """
    for edit in edits:
        start, end = _span(text, edit.function) if edit.function else (0, len(text))
        count = text.count(edit.old, start, end)
        if count != 1:
            raise ValueError(f"in {edit.function or 'the module'} {edit.old!r} stands {count} times, not once")
        at = text.index(edit.old, start, end)
        text = text[:at] + edit.new + text[at + len(edit.old) :]
    return text


def _span(text: str, function: str) -> tuple[int, int]:
    """Where the text of a function begins and ends."""
    found = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == function
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} functions are called {function!r}, not one")
    lines = text.splitlines(keepends=True)
    first, last = found[0].lineno - 1, found[0].end_lineno
    return len("".join(lines[:first])), len("".join(lines[:last]))


_MEETING = threading.Barrier(2)
_MEETING_SECONDS = 0.5


def meet() -> None:
    """Let another thread come to the same place, if one is on its way: faulty code can call it between two steps."""
    with contextlib.suppress(threading.BrokenBarrierError):
        _MEETING.wait(_MEETING_SECONDS)
    _MEETING.reset()
