# SPDX-License-Identifier: Apache-2.0
"""What a process does that runs one flow on one store and kills itself around a commit of a given number."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import flows

from pluggableflow import api


def main(folder: str, url: str, name: str, uuid: str, engine: str, when: str = "never", number: int = 0) -> None:
    """Run the flow; write its state and the number of commits to ``FOLDER/printed``."""
    flows.LOG = f"{folder}/log"
    connection = api.connect(url)
    commits, real = 0, connection.commit

    def commit(*args: Any) -> int:
        nonlocal commits
        commits += 1
        if when == "before" and commits == number:
            os.kill(os.getpid(), signal.SIGKILL)
        revision = real(*args)
        if when == "after" and commits == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return revision

    connection.commit = commit  # type: ignore[method-assign, assignment]
    loaded = api.load(connection, flows.FLOWS[name](), connection.get_flow_details(uuid), engine=engine)
    error = None
    try:
        loaded.run()
    except Exception as raised:
        error = str(raised)
    printed = {"state": loaded.storage.get_flow_state(), "commits": commits, "error": error}
    Path(folder, "printed").write_text(json.dumps(printed))
