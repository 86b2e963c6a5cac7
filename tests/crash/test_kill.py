# SPDX-License-Identifier: Apache-2.0
"""Real processes killed with SIGKILL before and after every single commit, and resumed by new ones, on SQLite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import run_flow
from flows import FLOWS
from scenes import Scene, kill_around_every_commit

from pluggableflow import api


def in_a_fork(*arguments: Any) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            run_flow.main(*arguments)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["serial", "parallel"])
@pytest.mark.parametrize("name", sorted(FLOWS))
def test_a_flow_killed_around_any_commit_ends_as_if_nothing_had_happened(
    tmp_path: Path, name: str, engine: str
) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"
    connection = api.connect(url)
    kill_around_every_commit(lambda folder: Scene(tmp_path / folder, name, engine, url, connection, in_a_fork))
    connection.close()
