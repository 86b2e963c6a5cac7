# SPDX-License-Identifier: Apache-2.0
"""A process that runs one flow on one store and kills itself around a commit of a given number.

``run_flow.py URL FLOW UUID ENGINE [before|after NUMBER]``: prints ``state`` and the number of commits as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from pluggableflow import api

sys.path.insert(0, os.path.dirname(__file__))
from flows import FLOWS


def main(url: str, name: str, uuid: str, engine: str, when: str = "never", number: str = "0") -> None:
    connection = api.connect(url)
    commits, real = 0, connection.commit

    def commit(*args: Any) -> int:
        nonlocal commits
        commits += 1
        if when == "before" and commits == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        revision = real(*args)
        if when == "after" and commits == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return revision

    connection.commit = commit  # type: ignore[method-assign]
    loaded = api.load(connection, FLOWS[name](), connection.get_flow_details(uuid), engine=engine)
    error = None
    try:
        loaded.run()
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    print(json.dumps({"state": loaded.storage.get_flow_state(), "commits": commits, "error": error}))


if __name__ == "__main__":
    main(*sys.argv[1:])
