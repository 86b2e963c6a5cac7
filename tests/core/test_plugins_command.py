# SPDX-License-Identifier: Apache-2.0
"""``pluggableflow plugins``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def plugins(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pluggableflow", "plugins", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_each_plugin_is_listed_with_its_distribution_and_contract() -> None:
    listed = {(each["group"], each["name"]): each for each in json.loads(plugins("--json").stdout)}
    for name in ("asyncio", "processes", "serial", "threads"):
        executor = listed["pluggableflow.executors", name]
        assert executor["distribution"].startswith("pluggableflow ")
        assert (executor["contract_version"], executor["fault"]) == (1, None)
    assert ("pluggableflow.connections", "sqlite") in listed and ("pluggableflow.engines", "parallel") in listed


def test_what_cannot_be_loaded_is_listed_with_the_reason(tmp_path: Path) -> None:
    info = tmp_path / "broken-3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 3.0\n")
    (info / "entry_points.txt").write_text("[pluggableflow.executors]\nbroken = no_such_module:Executor\n")
    done = plugins(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  broken ")]
    assert "broken 3.0" in line and "no_such_module" in line
