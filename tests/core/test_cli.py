# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api
from pluggableflow.middleware import FlowDetail, LogBook

FLOW_FILE = '''
import dataclasses, os, signal
from pluggableflow import task
from pluggableflow.patterns import linear_flow, unordered_flow

@dataclasses.dataclass
class Size:
    bytes: int

class Step(task.Task):
    """Logs itself; does to its own process what the parameter says, but only where no log says it did so before."""

    def __init__(self, name, mode, log):
        super().__init__(name, provides=f"result of {name}")
        self.mode, self.log = mode, log

    def execute(self):
        first = not os.path.exists(self.log) or self.name not in open(self.log).read()
        with open(self.log, "a") as log:
            log.write(self.name + "\\n")
        if self.name == "b" and self.mode == "fail":
            raise ValueError("b does not work\\nsecond line")
        if self.name == "b" and first and self.mode.startswith("signal "):
            for number in self.mode.split()[1:]:
                os.kill(os.getpid(), int(number))
        return Size(len(self.name))

    def revert(self, **ignored):
        with open(self.log, "a") as log:
            log.write(f"undo {self.name}\\n")

def create_flow(mode: str = "", pattern="linear", log="log"):
    kind = {"linear": linear_flow, "unordered": unordered_flow}[pattern]
    return kind.Flow("letters").add(*(Step(name, mode, log) for name in "abc"))

def report(results):
    return f"{len(results)} results, a has {results['result of a'].bytes}"
'''
#: Runs the command, and kills its own process with SIGKILL before or after the commit of that number.
DRIVER = """
import os, signal, sys
from pluggableflow_sqlalchemy import SQLAlchemyConnection
number, when = int(sys.argv.pop(1)), sys.argv.pop(1)
commits = 0
original = SQLAlchemyConnection.commit
def commit(self, lease, revision, changes):
    global commits
    commits += 1
    if commits == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = original(self, lease, revision, changes)
    if commits == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
SQLAlchemyConnection.commit = commit
from pluggableflow.cli import main
main()
"""

Done = subprocess.CompletedProcess[str]


class Shell:
    """A working directory with a flow file, in which commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "letters.py"
        self.file.write_text(FLOW_FILE)

    def __call__(self, *arguments: str, start: tuple[str, ...] = ("-m", "pluggableflow")) -> Done:
        return subprocess.run([sys.executable, *start, *arguments], cwd=self.folder, capture_output=True, text=True)

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.stderr == ""
        return json.loads(done.stdout)

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().split("\n")[:-1]

    def uuid(self) -> str:
        (flow,) = self.json("list")
        uuid: str = flow["uuid"]
        return uuid


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def mistake(done: Done) -> str:
    """The one line that a mistake of the caller is answered with."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("pluggableflow: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_run_tells_its_uuid_and_store_first_and_its_report_last(shell: Shell) -> None:
    done = shell("run", "letters.py")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"flow letters {shell.uuid()}, kept in sqlite:///pluggableflow.sqlite"
    assert lines[1:] == [
        "[1/3] SUCCESS a",
        "[2/3] SUCCESS b",
        "[3/3] SUCCESS c",
        "flow letters ended as SUCCESS",
        "3 results, a has 1",
    ]


def test_a_terminal_gets_a_live_bar(shell: Shell) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pluggableflow", "run", "letters.py"]
    child = subprocess.Popen(command, cwd=shell.folder, stdout=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
    except OSError:
        pass  # the other end was closed
    finally:
        os.close(ours)
    assert child.wait() == 0
    assert b"3/3" in output
    assert b"3 results" in output
    assert b"[1/3]" not in output


@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_json_is_one_document(shell: Shell, engine: str) -> None:
    document = shell.json("run", "letters.py", "--engine", engine, "-p", "pattern=unordered")
    assert document["state"] == "SUCCESS"
    assert document["uuid"] == shell.uuid()
    assert sorted(document["results"]) == ["result of a", "result of b", "result of c"]


def test_a_failed_flow_names_each_failure_and_what_was_reverted(shell: Shell) -> None:
    done = shell("run", "letters.py", "-p", "mode=fail")
    assert (done.returncode, done.stderr) == (1, "")
    assert "flow letters ended as REVERTED\n  failed: b: ValueError: b does not work\n" in done.stdout
    assert "  reverted (2): a, b\n" in done.stdout
    assert shell.log() == ["a", "b", "undo b", "undo a"]


def test_a_failed_flow_is_shown_with_its_failure(shell: Shell) -> None:
    shell("run", "letters.py", "-p", "mode=fail")
    done = shell("show", shell.uuid()[:8])
    assert (done.returncode, done.stderr) == (0, "")
    assert "REVERTED" in done.stdout
    assert "failed: ValueError: b does not work" in done.stdout
    atoms = shell.json("show", shell.uuid())["atoms"]
    assert [(atom["name"], atom["state"], atom["attempt"]) for atom in atoms] == [
        ("a", "REVERTED", 1),
        ("b", "REVERTED", 1),
    ]


def test_the_factory_is_stored_before_anything_runs(shell: Shell) -> None:
    shell("run", "letters.py", "-p", "mode=signal 9")
    factory = shell.json("show", shell.uuid())["factory"]
    assert factory["file"] == str(shell.file)
    assert len(factory["sha256"]) == 64
    assert factory["params"] == {"mode": "signal 9"}


def test_ctrl_c_suspends_the_flow_and_resume_goes_on(shell: Shell) -> None:
    done = shell("run", "letters.py", "-p", f"mode=signal {int(signal.SIGINT)}")
    assert done.returncode == 130
    assert f"flow letters is SUSPENDED\ngo on with: pluggableflow resume {shell.uuid()}\n" in done.stdout
    assert "Traceback" not in done.stderr
    assert shell.log() == ["a", "b"]
    done = shell("resume", shell.uuid()[:6])
    assert (done.returncode, done.stderr) == (0, "")
    assert shell.log() == ["a", "b", "c"]
    assert "3 results, a has 1" in done.stdout


def test_a_second_ctrl_c_stops_at_once_and_resume_repeats_what_ran(shell: Shell) -> None:
    done = shell("run", "letters.py", "-p", "mode=signal 2 2")
    assert done.returncode == 130
    assert f"stopped at once; go on with: pluggableflow resume {shell.uuid()}\n" in done.stderr
    assert shell("resume", shell.uuid()).returncode == 0
    assert shell.log() == ["a", "b", "b", "c"]


def test_sigterm_suspends_the_flow_and_counts_as_success(shell: Shell) -> None:
    done = shell("run", "letters.py", "-p", f"mode=signal {int(signal.SIGTERM)}")
    assert done.returncode == 0
    assert "flow letters is SUSPENDED" in done.stdout


def test_a_suspended_flow_that_is_cancelled_is_reverted_by_whoever_resumes_it(shell: Shell) -> None:
    shell("run", "letters.py", "-p", f"mode=signal {int(signal.SIGTERM)}")
    done = shell("cancel", "--revert", shell.uuid())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"flow letters {shell.uuid()} is asked to be reverted and cancelled\n"
        f"nobody runs it now; `pluggableflow resume {shell.uuid()}` carries that out\n"
    )
    done = shell("resume", shell.uuid())
    assert (done.returncode, done.stderr) == (1, "")
    assert "flow letters ended as CANCELLED\n" in done.stdout and " asked for it\n" in done.stdout
    assert shell.log() == ["a", "b", "undo b", "undo a"]
    done = shell("cancel", shell.uuid())
    assert done.returncode == 2 and "CANCELLED" in done.stderr


def test_a_killed_flow_is_shown_as_free_and_resumed_at_once(shell: Shell) -> None:
    done = shell("run", "letters.py", "-p", f"mode=signal {int(signal.SIGKILL)}")
    assert done.returncode == -signal.SIGKILL
    assert "its process has ended" in shell("show", shell.uuid()).stdout
    assert shell("resume", shell.uuid()).returncode == 0
    assert shell.log() == ["a", "b", "b", "c"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("mode", ["", "fail"])
def test_a_flow_that_is_killed_at_any_commit_is_carried_to_its_end(shell: Shell, mode: str, when: str) -> None:
    number = 0
    while True:
        number += 1
        log, url = f"log{number}", f"sqlite:///{number}.sqlite"
        command = ("run", "letters.py", "-p", f"mode={mode}", "-p", f"log={log}", "--connection", url)
        done = shell(str(number), when, *command, start=("-c", DRIVER))
        if done.returncode != -signal.SIGKILL:
            break
        uuid = done.stdout.split()[2].rstrip(",")
        resumed = shell("resume", uuid, "--connection", url)
        assert (resumed.returncode, resumed.stderr) == ((1, "") if mode else (0, "")), resumed.stdout
        assert f"letters ended as {'REVERTED' if mode else 'SUCCESS'}" in resumed.stdout or "finished" in resumed.stdout
        lines = (shell.folder / log).read_text().split()
        assert [line for at, line in enumerate(lines) if line not in lines[:at]] == (
            ["a", "b", "undo"] if mode else ["a", "b", "c"]
        )
    assert number > 4
    assert done.returncode == (1 if mode else 0)


def test_a_finished_flow_is_not_resumed(shell: Shell) -> None:
    shell("run", "letters.py")
    done = shell("resume", shell.uuid())
    assert (done.returncode, done.stderr) == (0, "")
    assert "has already finished as SUCCESS" in done.stdout
    assert shell.log() == ["a", "b", "c"]


def test_a_changed_file_is_refused_until_it_is_accepted(shell: Shell) -> None:
    shell("run", "letters.py", "-p", "mode=signal 2")
    shell.file.write_text(FLOW_FILE + "\n# changed\n")
    assert f"has changed since flow {shell.uuid()} was stored" in mistake(shell("resume", shell.uuid()))
    done = shell("resume", shell.uuid(), "--file", "letters.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert shell.log() == ["a", "b", "c"]


def test_a_changed_file_is_accepted_for_a_killed_flow_and_from_then_on(shell: Shell) -> None:
    shell("run", "letters.py", "-p", "mode=signal 9")
    shell.file.write_text(FLOW_FILE.replace('"abc"', '"abcd"'))
    done = shell("resume", shell.uuid(), "--file", "letters.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert shell.log() == ["a", "b", "b", "c", "d"]
    assert len(shell.json("show", shell.uuid())["atoms"]) == 4


def test_a_flow_that_another_process_runs_is_a_mistake_to_resume(shell: Shell) -> None:
    code = (
        "import subprocess, sys\n"
        "from pluggableflow import task\n"
        "from pluggableflow.patterns import linear_flow\n"
        "class Rival(task.Task):\n"
        "    def execute(self):\n"
        "        command = [sys.executable, '-m', 'pluggableflow', 'resume', self.idempotency_key.split('/')[0]]\n"
        "        done = subprocess.run(command, capture_output=True, text=True)\n"
        "        return [done.returncode, done.stdout, done.stderr]\n"
        "def create_flow():\n"
        "    return linear_flow.Flow('rivals').add(Rival(provides='rival'))\n"
    )
    (shell.folder / "rivals.py").write_text(code)
    returncode, stdout, stderr = shell.json("run", "rivals.py")["results"]["rival"]
    assert (returncode, stdout) == (2, "")
    assert "is held by" in stderr and stderr.count("\n") == 1


def test_a_flow_whose_file_has_changed_is_shown_without_what_only_the_file_explains(shell: Shell) -> None:
    shell("run", "letters.py")
    shell.file.write_text(FLOW_FILE + "\n# changed\n")
    done = shell("show", shell.uuid())
    assert (done.returncode, done.stderr) == (0, "")
    assert "SUCCESS" in done.stdout and "its atoms cannot be read" in done.stdout


def test_a_file_that_is_gone_is_a_mistake_on_resume(shell: Shell) -> None:
    shell("run", "letters.py", "-p", "mode=signal 2")
    uuid = shell.uuid()
    shell.file.unlink()
    assert "cannot be read" in mistake(shell("resume", uuid))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def create_flow(:", "SyntaxError"),
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("x = 1", "defines no create_flow"),
        ("def create_flow():\n    return 5", "returned 5, which is not a flow"),
        ("def create_flow():\n    raise KeyError('k')", "bad.py:2: KeyError"),
        ("def create_flow(size): pass", "missing a required argument: 'size'"),
    ],
)
def test_a_file_that_makes_no_flow_is_a_mistake(shell: Shell, code: str, told: str) -> None:
    (shell.folder / "bad.py").write_text(code)
    assert told in mistake(shell("run", "bad.py"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "nowhere.py"), "cannot be read"),
        (("run", "letters.py", "-p", "mode"), "not of the form key=value"),
        (("run", "letters.py", "-p", "moode=x"), "its parameters are: mode"),
        (("run", "letters.py", "--connection", "nosuch://x"), "'nosuch'"),
        (("run", "letters.py", "--connection", "sqlite:////no/such/folder/x.sqlite"), "/no/such/folder"),
        (("list", "--connection", "letters.py"), "is not a URL"),
        (("list", "--connection", "sqlite:///letters.py"), "letters.py"),
        (("list",), "pluggableflow upgrade"),
    ],
)
def test_a_mistake_is_answered_with_one_line(shell: Shell, arguments: tuple[str, ...], told: str) -> None:
    assert told in mistake(shell(*arguments))


def test_a_foreign_database_is_left_alone(shell: Shell) -> None:
    with closing(sqlite3.connect(shell.folder / "theirs.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE logbooks (uuid TEXT, created_at TEXT)")
        connection.execute("CREATE TABLE flowdetails (uuid TEXT)")
        connection.execute("CREATE TABLE atomdetails (uuid TEXT)")
    mistake(shell("run", "letters.py", "--connection", "sqlite:///theirs.sqlite"))
    with closing(sqlite3.connect(shell.folder / "theirs.sqlite")) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
    assert tables == [("atomdetails",), ("flowdetails",), ("logbooks",)]


def test_an_unknown_or_ambiguous_uuid_is_a_mistake(shell: Shell) -> None:
    book = LogBook("two")
    for uuid in ("cafe01", "cafe02"):
        book.add(FlowDetail("flow", uuid))
    with closing(api.connect(f"sqlite:///{shell.folder}/pluggableflow.sqlite")) as connection:
        connection.save_logbook(book)
    assert "there is no flow 'abc'" in mistake(shell("show", "abc"))
    assert "2 flows begin with 'cafe' (cafe01, cafe02)" in mistake(shell("show", "cafe"))
    assert "no flow ''" in mistake(shell("show", ""))
    assert shell("show", "cafe02").returncode == 0
    assert "was not made from a file" in mistake(shell("resume", "cafe02"))


def test_flows_are_listed_oldest_first_and_by_state(shell: Shell) -> None:
    shell("run", "letters.py")
    shell("run", "letters.py", "-p", "mode=fail")
    assert [flow["state"] for flow in shell.json("list")] == ["SUCCESS", "REVERTED"]
    assert [flow["state"] for flow in shell.json("list", "--state", "reverted")] == ["REVERTED"]
    assert shell("list").stdout.count("letters") == 2


def test_upgrade_may_be_repeated(shell: Shell) -> None:
    assert [shell("upgrade").returncode for _ in range(2)] == [0, 0]
    assert shell.json("upgrade") == {"connection": "sqlite:///pluggableflow.sqlite"}
    assert shell.json("list") == []


@pytest.mark.parametrize("command", ["run", "list", "show", "resume", "upgrade"])
def test_each_command_explains_itself(shell: Shell, command: str) -> None:
    done = shell(command, "--help")
    assert done.returncode == 0
    assert "--connection" in done.stdout and "--json" in done.stdout
    assert command in shell("--help").stdout
