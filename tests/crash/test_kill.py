# SPDX-License-Identifier: Apache-2.0
"""Real processes killed with SIGKILL before and after every single commit, and resumed by new ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from flows import FLOWS

from pluggableflow import api, states

SCRIPT = Path(__file__).with_name("run_flow.py")


class Scene:
    """One flow on one SQLite file, run by processes of its own."""

    def __init__(self, folder: Path, name: str, engine: str) -> None:
        folder.mkdir()
        self.url, self.log = f"sqlite:///{folder}/flows.db", folder / "log"
        self.name, self.engine = name, engine
        self.connection = api.connect(self.url)
        self.uuid = api.create_flow_detail(FLOWS[name](), connection=self.connection).uuid

    def run(self, *kill: str) -> dict[str, Any] | None:
        """What the process printed; ``None`` if it was killed."""
        command = [sys.executable, str(SCRIPT), self.url, self.name, self.uuid, self.engine, *kill]
        done = subprocess.run(command, env={**os.environ, "CRASH_LOG": str(self.log)}, capture_output=True, text=True)
        if done.returncode == -signal.SIGKILL:
            return None
        assert done.returncode == 0, done.stderr
        printed: dict[str, Any] = json.loads(done.stdout)
        return printed

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
            printed = scene.run(when, str(number))
            if printed is not None:  # a parallel run may have needed fewer commits this time
                assert engine == "parallel"
                continue
            committed, before = scene.committed(), scene.calls()
            again = scene.run()
            assert again is not None
            assert (again["state"], again["error"]) == (expected["state"], expected["error"]), (when, number)
            assert scene.atoms() == whole.atoms(), (when, number)
            repeated = set(scene.calls()[len(before) :]) & committed
            assert not repeated, (when, number)
            assert all(count <= 2 for count in Counter(scene.calls()).values()), (when, number)
            scene.connection.close()
    whole.connection.close()
