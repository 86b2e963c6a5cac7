# SPDX-License-Identifier: Apache-2.0
"""The page on storage backends, followed by a stranger: its files are taken from the page, installed and tested."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from stranger import files_of, install, page, run

from pluggableflow.testing.abilities import ABILITIES, ConnectionKit

PAGE = page("write-a-storage-backend.md")
FILES = files_of(PAGE)
#: Rows of a table of the page that begin with a name.
ROWS = re.findall(r"^\| `(.+?)` \| (.+) \|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder with the files of the page, and the one that its distribution is installed in."""
    folder, target = tmp_path_factory.mktemp("toy"), tmp_path_factory.mktemp("installed")
    install(FILES, folder, target)
    (folder / "pluggableflow_toy.py").unlink()  # so that it is the installed one that is found
    return folder, target


def test_the_page_holds_every_file_that_a_backend_needs() -> None:
    assert list(FILES) == ["pyproject.toml", "pluggableflow_toy.py", "hello.py", "test_toy.py"]


def test_the_page_names_every_ability_and_every_fixture_of_the_kit() -> None:
    table = {name: meaning for name, meaning in ROWS if name in ABILITIES}
    assert table == ABILITIES
    fixtures = {name for name in vars(ConnectionKit) if not name.startswith("_")} - {"without", "needs", "lacks"}
    assert fixtures <= {name for name, _meaning in ROWS}


def test_the_toy_runs_a_flow_that_another_process_finds(toy: tuple[Path, Path]) -> None:
    folder, target = toy
    done = run(folder, target, "-W", "error", "hello.py")
    assert (done.stdout, done.stderr) == ("hello, world\n", "")
    listed = run(folder, target, "-m", "pluggableflow", "list", "--connection", "toy://hello.toy", "--json")
    assert listed.returncode == 0, listed.stderr
    (flow,) = json.loads(listed.stdout)
    assert (flow["name"], flow["state"]) == ("greeting", "SUCCESS")


@pytest.mark.timeout(900)
def test_the_toy_passes_the_kit_but_for_what_it_declares(toy: tuple[Path, Path]) -> None:
    folder, target = toy
    (folder / "pytest.ini").write_text("[pytest]\n")  # or a configuration of a folder above would be taken
    options = ("-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs")
    done = run(folder, target, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    report = re.search(r"^(\d+) passed, (\d+) skipped in", done.stdout, re.MULTILINE)
    assert report is not None and int(report[1]) > 100, done.stdout
    reasons = re.findall(r"^SKIPPED \[(\d+)\] .*?: without '(.+?)': .+", done.stdout, re.MULTILINE)
    assert sum(int(count) for count, _ability in reasons) == int(report[2]), done.stdout
    assert {ability for _count, ability in reasons} == {"damage", "frozen holder", "interrupt", "server"}


def test_a_toy_of_another_contract_is_refused_by_name(toy: tuple[Path, Path], tmp_path: Path) -> None:
    _folder, target = toy
    other = tmp_path / "other"
    shutil.copytree(target, other, ignore=shutil.ignore_patterns("__pycache__"))
    module = other / "pluggableflow_toy.py"
    module.write_text(module.read_text().replace("contract_version = 1 ", "contract_version = 7 "))
    done = run(tmp_path, other, "-m", "pluggableflow", "list", "--connection", "toy://hello.toy")
    assert done.returncode == 2 and "pluggableflow-toy" in done.stderr and "version 7" in done.stderr, done.stderr
    assert not (tmp_path / "hello.toy").exists()
