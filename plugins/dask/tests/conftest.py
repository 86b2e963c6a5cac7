# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster on this machine: a scheduler, and four workers of one thread, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pluggableflow.testing.executor_tasks import wait_until

#: Kept above what the tests have in flight: Dask counts a death against what waits at the same worker too.
WORKERS = 4
SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",  # three tries, as with the executors of the core
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "PYTHONPATH": str(Path(__file__).parent),
}


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the scheduler."""
    folder = tmp_path_factory.mktemp("dask")
    told = folder / "scheduler.json"
    common = ["--scheduler-file", str(told), "--no-dashboard"]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1", *common]
    workers = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        "--nworkers",
        str(WORKERS),
        "--nthreads",
        "1",
        *common,
    ]
    environment = {**os.environ, **SETTINGS}
    with (folder / "log").open("w") as log:
        processes = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
            for command in (scheduler, workers)
        ]
        try:
            wait_until(lambda: told.exists() and bool(told.read_text()))
            yield json.loads(told.read_text())["address"]
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()
