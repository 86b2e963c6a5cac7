# SPDX-License-Identifier: Apache-2.0
"""The kit for connections, tried on stores that break the rules of their author."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pluggableflow.testing import ConnectionTests
from pluggableflow.testing.abilities import ABILITIES, STATED

REASONS = {ability: "not in memory" for ability in ABILITIES if ability != "frozen holder"}


def toy(**attributes: Any) -> type:
    return type("TestToy", (ConnectionTests,), attributes)


def run(folder: Path, tests: str, *selected: str) -> str:
    """The report of pytest on a file of tests."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_toy.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-rsfE", "-p", "no:cacheprovider", *selected]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


def run_toy(folder: Path, body: str, without: dict[str, str] | None = None, *selected: str) -> str:
    """The report of pytest on a class of tests for a store in memory."""
    tests = (
        "import pytest\n"
        "from pluggableflow.connections.memory import MemoryConnection\n"
        "from pluggableflow.testing import ConnectionTests\n\n\n"
        "class TestToy(ConnectionTests):\n"
        f"    without = {REASONS if without is None else without!r}\n\n"
        "    @pytest.fixture\n"
        "    def connection(self):\n"
        "        return MemoryConnection()\n\n"
        f"{body}"
    )
    return run(folder, tests, *selected)


def test_a_test_of_the_kit_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match="test_close_may_be_called_again"):
        toy(test_close_may_be_called_again=lambda self: None)
    with pytest.raises(TypeError, match="test_close_may_be_called_again"):
        toy(test_close_may_be_called_again=None)


def test_a_test_of_the_kit_cannot_be_overridden_by_another_base() -> None:
    class Cheat:
        def test_a_stale_lease_changes_nothing(self) -> None:
            pass

    with pytest.raises(TypeError, match="test_a_stale_lease_changes_nothing"):
        type("TestToy", (Cheat, ConnectionTests), {})


def test_a_part_of_the_kit_cannot_be_overridden_either() -> None:
    for part in ConnectionTests.__bases__:
        name = next(name for name in vars(part) if name.startswith("test_"))
        with pytest.raises(TypeError, match=name):
            type("TestToy", (part,), {name: lambda self: None})


def test_further_tests_may_be_added() -> None:
    assert hasattr(toy(test_of_the_authors_own=lambda self: None), "test_close_may_be_called_again")


def test_an_unknown_ability_is_refused_with_those_there_are() -> None:
    with pytest.raises(TypeError, match="'flying' is none of raw, processes"):
        toy(without={"flying": "too heavy"})


@pytest.mark.parametrize("reason", ["", "  ", None, True])
def test_an_ability_is_not_dropped_without_a_reason(reason: Any) -> None:
    with pytest.raises(TypeError, match="say why the store is without 'server'"):
        toy(without={"server": reason})


@pytest.mark.parametrize(
    ("ability", "fixture"), [("processes", "url"), ("damage", "damage"), ("raw", "raw"), ("server", "server")]
)
def test_an_ability_is_not_supplied_and_dropped_at_once(ability: str, fixture: str) -> None:
    with pytest.raises(TypeError, match=f"supplies the fixture '{fixture}'"):
        toy(without={ability: "for some reason"}, **{fixture: pytest.fixture(lambda self: None)})


def test_an_ability_that_is_neither_supplied_nor_declared_missing_is_an_error(tmp_path: Path) -> None:
    without = {ability: reason for ability, reason in REASONS.items() if ability != "processes"}
    report = run_toy(tmp_path, "", without, "-k", "test_processes_that_scan")
    assert "TestToy supplies nothing for 'processes'" in report
    assert "without = {'processes': 'the reason'}" in report


def test_a_skipped_test_shows_the_reason(tmp_path: Path) -> None:
    report = run_toy(tmp_path, "", {**REASONS, "processes": "it is a toy"}, "-k", "test_processes_that_scan")
    assert "without 'processes': it is a toy" in report and "1 skipped" in report


def test_a_store_without_a_back_door_is_tested_through_its_connection(tmp_path: Path) -> None:
    report = run_toy(tmp_path, "")
    assert " passed" in report and "failed" not in report and "error" not in report, report


@pytest.mark.parametrize(("ability", "stated"), STATED.items())
def test_an_ability_that_the_connection_states_cannot_be_dropped(tmp_path: Path, ability: str, stated: str) -> None:
    connection = (
        "    @pytest.fixture\n"
        "    def connection(self):\n"
        "        made = MemoryConnection()\n"
        f"        made.{stated} = True\n"
        "        return made\n"
    )
    report = run_toy(tmp_path, connection, None, "-k", "test_abilities_are_declared")
    assert f"`without` drops '{ability}', but the connection's '{stated}' is true" in report


def test_a_store_that_loses_a_write_is_found_out(tmp_path: Path) -> None:
    connection = (
        "    @pytest.fixture\n"
        "    def connection(self):\n"
        "        class Forgetful(MemoryConnection):\n"
        "            def commit(self, lease, revision, changes):\n"
        "                changes.changed.clear()\n"
        "                return super().commit(lease, revision, changes)\n\n"
        "        return Forgetful()\n"
    )
    report = run_toy(tmp_path, connection, None, "-k", "test_a_commit")
    assert "test_a_commit_writes_all_its_changes_and_nothing_else" in report


UNFENCED = """
import dataclasses
import pytest
from pluggableflow.connection import Changes
from pluggableflow.exceptions import LeaseLost
from pluggableflow.testing import ConnectionTests
from pluggableflow_sqlalchemy import SQLAlchemyConnection

fenced = SQLAlchemyConnection.commit


def check_then_write(self, lease, revision, changes):
    stored = self.get_flow_details(lease.flow_uuid, lazy=True)
    if (stored.token, stored.revision) != (lease.token, revision):
        raise LeaseLost(lease.flow_uuid)
    stored = self.get_flow_details(lease.flow_uuid, lazy=True)
    return fenced(self, dataclasses.replace(lease, token=stored.token), stored.revision, changes)


def write_in_two_steps(self, lease, revision, changes):
    if not changes.added or not changes.changed:
        return fenced(self, lease, revision, changes)
    revision = fenced(self, lease, revision, Changes(changes.flow, changes.added))
    fenced(self, lease, revision, Changes(changed=changes.changed))
    return revision


class TestToy(ConnectionTests):
    without = {"raw": "a toy", "frozen holder": "a file has one lock"}

    @pytest.fixture
    def url(self, tmp_path, monkeypatch):
        monkeypatch.setattr(SQLAlchemyConnection, "commit", COMMIT)
        return f"sqlite:///{tmp_path}/flows.db"
"""


@pytest.mark.parametrize(
    ("commit", "test"),
    [
        ("check_then_write", "test_a_holder_frozen_in_a_commit_writes_nothing_after_a_takeover"),
        ("write_in_two_steps", "test_a_holder_killed_in_a_commit_leaves_all_or_nothing"),
        ("write_in_two_steps", "test_a_reader_sees_whole_commits_only"),
    ],
)
def test_a_commit_that_others_can_come_into_is_found_out(tmp_path: Path, commit: str, test: str) -> None:
    report = run(tmp_path, UNFENCED.replace("COMMIT", commit), "-k", test)
    assert f"FAILED test_toy.py::TestToy::{test}" in report, report
