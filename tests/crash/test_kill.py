# SPDX-License-Identifier: Apache-2.0
"""Real processes killed with SIGKILL before and after every single commit, and resumed by new ones."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import run_flow
from flows import FLOWS

from pluggableflow import api, states


class Scene:
    """One flow on one SQLite file, run by processes of its own."""

    def __init__(self, folder: Path, name: str, engine: str) -> None:
        folder.mkdir()
        self.folder, self.url, self.log = folder, f"sqlite:///{folder.parent}/flows.db", folder / "log"
        self.name, self.engine = name, engine
        self.connection = api.connect(self.url)
        self.uuid = api.create_flow_detail(FLOWS[name](), connection=self.connection).uuid

    def run(self, *kill: Any) -> dict[str, Any] | None:
        """What the process found; ``None`` if it was killed."""
        process = os.fork()
        if process == 0:
            code = 1
            try:
                run_flow.main(str(self.folder), self.url, self.name, self.uuid, self.engine, *kill)
                code = 0
            finally:
                os._exit(code)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["serial", "parallel"])
@pytest.mark.parametrize("name", sorted(FLOWS))
def test_a_flow_killed_around_any_commit_ends_as_if_nothing_had_happened(
    tmp_path: Path, name: str, engine: str
) -> None:
    whole = Scene(tmp_path / "whole", name, engine)
    expected = whole.run()
    assert expected is not None
    commits = expected["commits"]
    assert commits >= 2
    for when in ("before", "after"):
        for number in range(1, commits + 1):
            scene = Scene(tmp_path / f"{when}{number}", name, engine)
            printed = scene.run(when, number)
            if printed is not None:  # a parallel run may have needed fewer commits this time
                assert engine == "parallel"
                continue
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
            scene.connection.close()
    whole.connection.close()


def _texts(error: str | None) -> set[str]:
    """The failures in an error; one that was stored comes back wrapped, as its exception is gone."""
    return set(re.findall(r"[a-z] (?:fails in attempt \d|cannot be undone)|the decider fails", error or ""))
