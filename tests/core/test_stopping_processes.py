# SPDX-License-Identifier: Apache-2.0
"""Processes that run a flow and are stopped from outside: by SIGTERM, and by a request from another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pluggableflow import api, states
from pluggableflow.connection import Connection
from pluggableflow.middleware import FlowDetail

FLOW_FILE = """
import asyncio, os, time
from pathlib import Path
from pluggableflow import retry, task
from pluggableflow.patterns import linear_flow, unordered_flow

async def waits_on_the_loop():
    Path("begun").touch()
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return "done"

def waits():
    Path("begun").touch()
    while not os.path.exists("go"):
        time.sleep(0.01)
    return "done"

def after():
    Path("after").touch()

def fails():
    raise ValueError("does not work")

def create_flow(kind="waits"):
    if kind == "retries":
        again = retry.Times(2, name="r", delay_seconds=10_000)
        return linear_flow.Flow("f", retry=again).add(task.FunctorTask(fails, name="a"))
    first = task.FunctorTask(globals()[kind], name="a", provides="a")
    return linear_flow.Flow("f").add(first, task.FunctorTask(after, name="b"))
"""
#: Runs a deaf task in a worker process, or in a thread, with a lease that is renewed often.
SCRIPT = """
import os, sys, time
from pathlib import Path
from pluggableflow import api, task
from pluggableflow.exceptions import Cancelled
from pluggableflow.patterns import linear_flow

class First(task.Task):
    def execute(self):
        pass
    def revert(self):
        Path("reverted").touch()

class Deaf(task.Task):
    def execute(self):
        Path("pid").write_text(str(os.getpid()))
        Path("pid").rename("begun")
        time.sleep(3600)

class After(task.Task):
    def execute(self):
        Path("after").touch()

if __name__ == "__main__":
    flow = linear_flow.Flow("f").add(First(), Deaf(), After())
    connection = api.connect("sqlite:///pluggableflow.sqlite")
    loaded = api.load(
        connection, flow, engine="parallel", executor=sys.argv[1], lease_seconds=0.5, grace_seconds=0.1
    )
    try:
        loaded.run()
    except Cancelled as error:
        print(error)
"""


class Folder:
    """A working directory with a store, and the process that works in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "flow.py").write_text(FLOW_FILE)
        (folder / "script.py").write_text(SCRIPT)
        self.process: subprocess.Popen[str] | None = None

    def start(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ended(self) -> tuple[int, str, str]:
        assert self.process is not None
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def until(self, holds: Callable[[], bool]) -> None:
        assert self.process is not None
        while not holds():
            assert self.process.poll() is None, self.process.communicate()
            threading.Event().wait(0.01)

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def connection(self) -> Connection:
        return api.connect(f"sqlite:///{self.folder}/pluggableflow.sqlite")

    def flow(self) -> FlowDetail:
        connection = self.connection()
        (found,) = connection.find_flows()
        found = connection.get_flow_details(found.uuid)
        connection.close()
        return found

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pluggableflow", *arguments],
            cwd=self.folder, capture_output=True, text=True, timeout=60,
        )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.communicate()


def states_of(detail: FlowDetail) -> dict[str, str]:
    return {atom.name: atom.state for atom in detail if not atom.name.startswith("_")}


@pytest.mark.parametrize("engine", ["serial", "parallel", "asyncio"])
@pytest.mark.parametrize("kind", ["waits", "waits_on_the_loop"])
def test_sigterm_lets_what_runs_end_and_begins_nothing_more(folder: Folder, engine: str, kind: str) -> None:
    folder.start("-m", "pluggableflow", "run", "flow.py", "-p", f"kind={kind}", "--engine", engine)
    folder.until(lambda: folder.has("begun"))
    assert folder.process is not None
    folder.process.send_signal(signal.SIGTERM)
    assert folder.process.stderr is not None
    assert folder.process.stderr.readline() + folder.process.stderr.readline() == (
        "\nsuspending: what runs may end (Ctrl-C again stops at once)\n"
    )
    (folder.folder / "go").touch()
    code, out, err = folder.ended()
    assert (code, err) == (0, "")
    assert "flow f is SUSPENDED" in out
    stored = folder.flow()
    assert (stored.state, stored.token, states_of(stored)["a"]) == (states.SUSPENDED, None, states.SUCCESS)
    assert not folder.has("after")
    assert folder.command("resume", stored.uuid, "--engine", engine).returncode == 0
    assert folder.has("after") and folder.flow().state == states.SUCCESS


def test_sigterm_ends_the_wait_for_a_retry_at_once(folder: Folder) -> None:
    folder.start("-m", "pluggableflow", "run", "flow.py", "-p", "kind=retries")
    assert folder.process is not None and folder.process.stdout is not None
    assert folder.process.stdout.readline().startswith("flow f ")
    folder.until(lambda: folder.flow().wake_at is not None)
    folder.process.send_signal(signal.SIGTERM)
    assert folder.ended()[0] == 0
    assert folder.flow().state == states.SUSPENDED


@pytest.mark.parametrize("executor", ["processes", "threads"])
def test_a_request_from_another_process_ends_a_run_whose_task_does_not_listen(folder: Folder, executor: str) -> None:
    folder.start("script.py", executor)
    folder.until(lambda: folder.has("begun"))
    done = folder.command("cancel", folder.flow().uuid[:8])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("is asked to be cancelled\n")
    code, out, err = folder.ended()
    assert (code, err) == (0, "")
    assert out.startswith("flow 'f' was cancelled: ") and out.endswith(" asked for it\n")
    stored = folder.flow()
    assert stored.state == states.CANCELLED
    assert states_of(stored) == {"First": states.SUCCESS, "Deaf": states.FAILURE}
    assert not folder.has("after")
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder.folder / "begun").read_text()), 0)


def test_a_request_to_revert_ends_a_worker_process_before_what_it_did_is_reverted(folder: Folder) -> None:
    folder.start("script.py", "processes")
    folder.until(lambda: folder.has("begun"))
    assert folder.command("cancel", "--revert", folder.flow().uuid).returncode == 0
    assert folder.ended()[0] == 0
    stored = folder.flow()
    assert stored.state == states.CANCELLED
    assert states_of(stored) == {"First": states.REVERTED, "Deaf": states.REVERTED}
    assert folder.has("reverted") and not folder.has("after")
