# SPDX-License-Identifier: Apache-2.0
"""The page on engine types, followed by a stranger: its files are taken from the page, installed and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stranger import files_of, install, page, run

FILES = files_of(page("write-an-engine-type.md"))
COMMAND = ("-W", "error", "-m", "pluggableflow")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder with the files of the page, and the one that its distribution is installed in."""
    folder, target = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("installed")
    install(FILES, folder, target)
    (folder / "pluggableflow_plain.py").unlink()  # so that it is the installed one that is found
    return folder, target


def test_a_flow_is_run_by_the_name_of_the_engine_type_and_its_outcomes_are_stored(plain: tuple[Path, Path]) -> None:
    folder, target = plain
    done = run(folder, target, "-W", "error", "hello.py")
    assert (done.stdout, done.stderr) == ("HELLO, WORLD\n", "")
    listed = run(folder, target, *COMMAND, "list", "--connection", "sqlite:///hello.db", "--json")
    (flow,) = json.loads(listed.stdout)
    shown = run(folder, target, *COMMAND, "show", flow["uuid"], "--connection", "sqlite:///hello.db")
    assert flow["state"] == "SUCCESS" and "shout" in shown.stdout


def test_it_goes_on_after_a_failure_with_what_is_stored(plain: tuple[Path, Path]) -> None:
    folder, target = plain
    (folder / "resumed.py").write_text(
        """
from pluggableflow import api, task
from pluggableflow.patterns import linear_flow

ran = []

def first():
    ran.append("first")
    return 1

def second(x):
    ran.append("second")
    if ran.count("second") == 1:
        raise LookupError("not yet")
    return x + 1

flow = linear_flow.Flow("f").add(task.FunctorTask(first, provides="x"), task.FunctorTask(second, provides="y"))
connection = api.connect("sqlite:///resumed.db")
engine = api.load(connection, flow, engine="plain")
try:
    engine.run()
except LookupError:
    pass
(detail,) = connection.find_flows()
again = api.load(connection, flow, connection.get_flow_details(detail.uuid), engine="plain")
print(list(again.run_iter())[-1], ran, again.storage.fetch("y"))
connection.close()
"""
    )
    done = run(folder, target, "-W", "error", "resumed.py")
    assert done.stdout == "SUCCESS ['first', 'second', 'second'] 2\n", done.stderr


def test_the_command_uses_it_and_lists_it(plain: tuple[Path, Path]) -> None:
    folder, target = plain
    (folder / "flow.py").write_text(
        FILES["hello.py"].replace("flow = ", "def create_flow():\n    return ").split("print")[0]
    )
    text = (folder / "flow.py").read_text().replace("def greet(name)", "def greet(name='you')")
    (folder / "flow.py").write_text(text)
    options = ("--connection", "sqlite:///command.db", "--json")
    done = run(folder, target, *COMMAND, "run", "flow.py", "--engine", "plain", *options)
    assert done.returncode == 0 and json.loads(done.stdout)["results"]["shouted"] == "HELLO, YOU", done.stderr
    listed = run(folder, target, *COMMAND, "plugins")
    assert "plain" in listed.stdout and "pluggableflow-plain" in listed.stdout


def test_a_flow_that_it_cannot_run_is_refused_with_the_remedy(plain: tuple[Path, Path]) -> None:
    folder, target = plain
    (folder / "retried.py").write_text(
        "from pluggableflow import retry\nfrom pluggableflow.patterns import linear_flow\n"
        "def create_flow():\n    return linear_flow.Flow('f', retry.Times(2))\n"
    )
    options = ("--connection", "sqlite:///retried.db", "--engine", "plain")
    done = run(folder, target, *COMMAND, "run", "retried.py", *options)
    assert done.returncode == 2 and "use 'serial'" in done.stderr, done.stderr
