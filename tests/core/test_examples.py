# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

CLASSIC = "x1 = 4\nx2 = 12\nx3 = 16\nx4 = 21\nx5 = 20\nx6 = 41\nx7 = 82\ny1 = 1\ny2 = 3\ny3 = 5\ny4 = 7\ny5 = 9\n"
PHONE_CALLS = "".join(
    f"call Jim {number}\ncall Joe {number}\nhang up on Joe {number}\nhang up on Jim {number}\n"
    for number in (333, 444, 555, 666)
)
EXPECTED = {
    "linear": "call Jim 555\ncall Joe 444\ncall Jim again 556\n",
    "unordered": "a car of one frame, one engine and one wheels\n",
    "provides": "quotient 3, remainder 2\n'3, remainder 2' has 14 characters\n",
    "retrying": (
        "-- around the nested flow\n"
        "do unpack\ndo prepare\nconnect to first\nundo prepare\ndo prepare\nconnect to third\ndo finish\n"
        "-- around everything\n"
        "do unpack\nconnect to second\nundo unpack\ndo unpack\nconnect to third\ndo finish\n"
    ),
    "reverting": (
        "book flight\nbook hotel\n"
        "cancel booking of the hotel, because the card was refused\n"
        "cancel booking of the flight, because the card was refused\n"
        "the journey was given up: the card was refused\n"
    ),
    "map_reduce": "338350\n",
    "phone_calls": PHONE_CALLS + "given up: nobody answers 666\n",
}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_example_prints_what_it_should(name: str, tmp_path: Path) -> None:
    done = run(tmp_path, "-W", "error", str(EXAMPLES / f"{name}.py"))
    assert (done.stdout, done.stderr, done.returncode) == (EXPECTED[name], "", 0)


@pytest.mark.parametrize("connection", [[], ["sqlite:///classic.sqlite"]], ids=["memory", "sqlite"])
@pytest.mark.parametrize("engine", ["serial", "parallel"])
def test_the_classic_example_adds_up_on_every_engine_and_store(
    engine: str, connection: list[str], tmp_path: Path
) -> None:
    done = run(tmp_path, "-W", "error", str(EXAMPLES / "classic.py"), engine, *connection)
    assert (done.stdout, done.stderr) == (CLASSIC, "")


def test_the_first_flow_of_the_readme_runs(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    done = run(tmp_path, "-W", "error", "-c", code[1])
    assert (done.stdout, done.stderr) == ("4\n", "")


def test_the_standard_library_is_built_and_imported_from_its_zip(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "pluggableflow", "run", str(EXAMPLES / "build_stdlib.py"))
    assert done.returncode == 0, done.stderr
    archive = tmp_path / "build_stdlib.staging" / "stdlib.zip"
    assert f"proof: json was imported from {archive}" in done.stdout
    assert "longest chain of imports" in done.stdout


def test_a_module_that_does_not_build_reverts_all_that_were_built(tmp_path: Path) -> None:
    command = ("run", str(EXAMPLES / "build_stdlib.py"), "-p", "break=email.message", "-p", "staging=here")
    done = run(tmp_path, "-m", "pluggableflow", *command)
    assert done.returncode == 1, done.stderr
    assert "failed: compile email.message: RuntimeError: email.message was told to break" in done.stdout
    assert not [path for path in (tmp_path / "here").rglob("*") if path.is_file()]


def test_the_environment_is_audited(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "pluggableflow", "run", str(EXAMPLES / "audit_environment.py"), "--engine", "parallel")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ files of \d+ distributions checked$", done.stdout, re.MULTILINE)


def test_databases_are_backed_up_and_the_service_runs_again(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "pluggableflow", "run", str(EXAMPLES / "backup_databases.py"), "-p", "folder=demo")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "service.state").read_text() == "running"
    with closing(sqlite3.connect(tmp_path / "demo" / "0-customers.sqlite.bak")) as copy:
        assert copy.execute("SELECT name FROM items").fetchall() == [("customers",)]


def test_a_database_that_is_none_leaves_the_service_running_and_no_copies(tmp_path: Path) -> None:
    (tmp_path / "broken.sqlite").write_bytes(b"this is no database" * 100)
    command = ("run", str(EXAMPLES / "backup_databases.py"), "-p", "folder=demo", "-p", 'databases=["broken.sqlite"]')
    done = run(tmp_path, "-m", "pluggableflow", *command)
    assert done.returncode == 1, done.stderr
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["service.state"]
    assert (tmp_path / "demo" / "service.state").read_text() == "running"
