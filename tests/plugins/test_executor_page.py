# SPDX-License-Identifier: Apache-2.0
"""The page on executors, followed by a stranger: the folder is copied by its commands, installed and run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from stranger import files_of, page, pip_install, run

from pluggableflow.executor import Executor
from pluggableflow.testing.executor_kit import ExecutorKit

PAGE = page("write-an-executor.md")
ROOT = Path(__file__).parents[2]
COMMANDS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
#: First columns of its tables, with what stands beside them.
ROWS = dict(re.findall(r"^\| `(\w+).*?` \| (.+) \|$", PAGE, re.MULTILINE))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The stranger's folder, and the one that the renamed distribution is installed in."""
    folder, target = tmp_path_factory.mktemp("stranger"), tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", "build")
    shutil.copytree(ROOT / "plugins" / "example-executor", folder / "plugins" / "example-executor", ignore=ignored)
    rename, _, install = COMMANDS[0].partition("pip install ")
    done = subprocess.run(["bash", "-e", "-c", rename], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    pip_install(folder, target, install.strip())
    for name, text in files_of(PAGE).items():
        (folder / name).write_text(text)
    return folder, target


def test_a_flow_runs_on_the_copy_by_its_name(grid: tuple[Path, Path]) -> None:
    done = run(*grid, "-W", "error", "hello.py")
    assert (done.stdout, done.stderr) == ("hello, world\n", "")


def test_the_copy_is_listed_with_its_distribution(grid: tuple[Path, Path]) -> None:
    listed = run(*grid, "-W", "error", "-m", "pluggableflow", "plugins", "--json")
    assert listed.returncode == 0 and '"grid"' in listed.stdout and "pluggableflow-grid" in listed.stdout, listed.stderr


def test_nothing_of_the_old_name_is_left_in_the_copy(grid: tuple[Path, Path]) -> None:
    for path in (grid[0] / "grid").rglob("*.py"):
        assert not re.search("pluggableflow_command|CommandExecutor", path.read_text()), path


@pytest.mark.timeout(300)
def test_the_copy_passes_the_kit(grid: tuple[Path, Path]) -> None:
    (grid[0] / "pytest.ini").write_text("[pytest]\n")  # or a configuration of a folder above would be taken
    done = run(*grid, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-q", "grid")
    assert done.returncode == 0, done.stdout + done.stderr
    report = re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)
    assert report is not None and int(report[1]) > 40, done.stdout


def test_the_page_names_every_part_of_the_contract_and_every_declaration_of_the_kit() -> None:
    contract = {name for name in (*vars(Executor), *Executor.__annotations__) if not name.startswith("_")}
    assert contract <= set(ROWS)
    assert {name for name, kind in ExecutorKit.__annotations__.items() if "ClassVar" in kind} <= set(ROWS)
