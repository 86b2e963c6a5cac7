# SPDX-License-Identifier: Apache-2.0
"""A flow whose process is killed around every one of its commits, and what must be true after that."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import FLOWS

from pluggableflow import api, states
from pluggableflow.connection import Connection


class Scene:
    """One flow in one store, run by processes of its own.

    :param start: calls ``run_flow.main`` in a process and returns how that ended: exit code, or minus the signal
    """

    def __init__(
        self, folder: Path, name: str, engine: str, url: str, connection: Connection, start: Callable[..., int]
    ) -> None:
        folder.mkdir()
        self.folder, self.url, self.log, self.start = folder, url, folder / "log", start
        self.name, self.engine, self.connection = name, engine, connection
        self.uuid = api.create_flow_detail(FLOWS[name](), connection=connection).uuid

    def run(self, *kill: Any) -> dict[str, Any] | None:
        """What the process found; ``None`` if it was killed."""
        exit_code = self.start(str(self.folder), self.url, self.name, self.uuid, self.engine, *kill)
        if exit_code == -signal.SIGKILL:
            return None
        assert exit_code == 0
        printed: dict[str, Any] = json.loads((self.folder / "printed").read_text())
        return printed

    def state(self) -> str:
        return self.connection.get_flow_details(self.uuid, lazy=True).state

    def atoms(self) -> dict[str, tuple[Any, ...]]:
        return {
            atom.name: (atom.state, atom.attempt, atom.results if atom.kind == "TASK" else len(atom.results))
            for atom in self.connection.get_atoms_for_flow(self.uuid)
            if atom.state != states.PENDING
        }

    def committed(self) -> set[str]:
        """Calls whose outcome is in the store, as they stand in the log."""
        calls = set()
        for atom in self.connection.get_atoms_for_flow(self.uuid):
            if atom.state in (states.SUCCESS, states.FAILURE, states.REVERTING, states.REVERTED):
                calls.add(f"execute {atom.name} {atom.attempt}")
            if atom.state in (states.REVERTED, states.REVERT_FAILURE):
                calls.add(f"revert {atom.name} {atom.attempt}")
        return calls

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def kill_around_every_commit(make: Callable[[str], Scene]) -> int:
    """Kill a run before and after each commit, and resume it: returns how often.

    :param make: a new scene of the same flow, in a folder of the given name
    """
    whole, kills = make("whole"), 0
    expected = whole.run()
    assert expected is not None
    commits = expected["commits"]
    assert commits >= 2
    for when in ("before", "after"):
        for number in range(1, commits + 1):
            scene = make(f"{when}{number}")
            printed = scene.run(when, number)
            if printed is not None:  # a parallel run may have needed fewer commits this time
                assert scene.engine == "parallel"
                continue
            kills += 1
            committed, before = scene.committed(), scene.calls()
            if scene.state() not in (states.SUCCESS, states.REVERTED):  # those would begin anew
                again = scene.run()
                assert again is not None
                assert again["state"] == expected["state"], (when, number, again)
                assert _texts(again["error"]) == _texts(expected["error"]), (when, number)
            assert scene.state() == expected["state"]
            assert scene.atoms() == whole.atoms(), (when, number)
            repeated = set(scene.calls()[len(before) :]) & committed
            assert not repeated, (when, number)
            assert all(count <= 2 for count in Counter(scene.calls()).values()), (when, number)
    return kills


def _texts(error: str | None) -> set[str]:
    """The failures in an error; one that was stored comes back wrapped, as its exception is gone."""
    return set(re.findall(r"[a-z] (?:fails in attempt \d|cannot be undone)|the decider fails", error or ""))
