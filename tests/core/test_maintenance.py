# SPDX-License-Identifier: Apache-2.0
"""What operators do to a store: purge, clear, suspend; in the library and from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, states
from pluggableflow.connection import Connection
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.exceptions import OptionError
from pluggableflow.middleware import FlowDetail, LogBook, new_uuid
from pluggableflow.purging import purge

NOW = timedelta(0)


@pytest.fixture(params=["memory", "sqlite"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    made = api.connect("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/flows.db")
    yield made
    made.close()


def stored(connection: Connection, *flow_states: str, name: str = "book") -> LogBook:
    book = LogBook(name)
    for number, state in enumerate(flow_states):
        flow = FlowDetail(f"flow{number}")
        flow.state = state
        book.add(flow)
    connection.save_logbook(book)
    return book


def left(connection: Connection) -> set[str]:
    return {book.uuid for book in connection.get_logbooks(lazy=True)}


def test_only_books_of_which_every_flow_has_finished_are_purged(connection: Connection) -> None:
    done = stored(connection, states.SUCCESS, states.REVERTED, states.FAILURE)
    running = stored(connection, states.SUCCESS, states.RUNNING)
    suspended = stored(connection, states.SUSPENDED)
    assert [book.uuid for book in purge(connection, NOW)] == [done.uuid]
    assert left(connection) == {running.uuid, suspended.uuid}
    assert list(purge(connection, NOW)) == []


def test_books_that_were_written_to_lately_are_kept(connection: Connection) -> None:
    book = stored(connection, states.SUCCESS)
    assert list(purge(connection, timedelta(hours=1))) == []
    assert left(connection) == {book.uuid}


def test_only_flows_of_the_given_states_are_purged(connection: Connection) -> None:
    good, bad = stored(connection, states.SUCCESS), stored(connection, states.FAILURE)
    assert [book.uuid for book in purge(connection, NOW, {states.SUCCESS})] == [good.uuid]
    assert left(connection) == {bad.uuid}


def test_a_dry_run_tells_every_book_once_and_deletes_nothing(connection: Connection) -> None:
    books = {stored(connection, states.SUCCESS, states.SUCCESS).uuid for _number in range(3)}
    told = [book.uuid for book in purge(connection, NOW, dry_run=True)]
    assert sorted(told) == sorted(books) and left(connection) == books


def test_a_book_is_kept_while_a_flow_of_it_is_leased(connection: Connection) -> None:
    book = stored(connection, states.FAILURE)
    other = stored(connection, states.SUCCESS)
    (flow,) = book
    claim = connection.claim(token=new_uuid(), owner="me", lease_seconds=600, flow_uuid=flow.uuid)
    assert claim is not None
    assert [each.uuid for each in purge(connection, NOW)] == [other.uuid]
    connection.release(claim.lease)
    assert [each.uuid for each in purge(connection, NOW)] == [book.uuid]


def test_purging_goes_on_over_pages_that_are_partly_kept(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pluggableflow.purging._PAGE", 3)
    kept = {stored(connection, states.SUCCESS, states.PENDING).uuid for _number in range(5)}
    gone = {stored(connection, states.SUCCESS, states.SUCCESS).uuid for _number in range(7)}
    kept |= {stored(connection, states.SUCCESS, states.PENDING).uuid for _number in range(4)}
    assert {book.uuid for book in purge(connection, NOW)} == gone
    assert left(connection) == kept


def test_unfinished_states_and_negative_ages_are_refused_before_anything_is_deleted() -> None:
    connection = MemoryConnection()
    stored(connection, states.SUCCESS)
    with pytest.raises(OptionError, match="RUNNING"):
        purge(connection, NOW, {states.SUCCESS, states.RUNNING})
    with pytest.raises(OptionError, match="negative"):
        purge(connection, timedelta(seconds=-1))
    assert len(left(connection)) == 1


# -- from the command line ------------------------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path: Path) -> str:
    made = f"sqlite:///{tmp_path}/flows.db"
    with closing(api.connect(made)) as connection:
        stored(connection, states.SUCCESS, name="done")
        stored(connection, states.SUSPENDED, name="waiting")
    return made


def command(url: str, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "pluggableflow", *arguments, "--connection", url]
    return subprocess.run(whole, input=answer, capture_output=True, text=True)


def listed(url: str, *conditions: str) -> list[Any]:
    found: list[Any] = json.loads(command(url, "list", "--json", *conditions).stdout)
    return found


def test_purge_deletes_what_has_finished_and_says_so(url: str) -> None:
    done = command(url, "purge", "--older-than", "0s", "--dry-run")
    assert done.returncode == 0 and "would delete logbook" in done.stdout and len(listed(url)) == 2
    done = command(url, "purge", "--older-than", "0s")
    assert done.returncode == 0 and done.stdout.endswith("1 logbook deleted\n")
    assert [flow["state"] for flow in listed(url)] == [states.SUSPENDED]


def test_an_age_without_a_unit_is_refused_with_an_example(url: str) -> None:
    done = command(url, "purge", "--older-than", "30")
    assert done.returncode == 2 and "30d" in done.stderr and len(listed(url)) == 2


def test_clear_deletes_everything_only_when_the_name_of_the_store_is_given(url: str) -> None:
    for done in (command(url, "clear", answer="yes\n"), command(url, "clear", "--name", "other.db")):
        assert done.returncode == 2 and "flows.db" in done.stderr and "Traceback" not in done.stderr
        assert len(listed(url)) == 2
    assert command(url, "clear", answer="flows.db\n").returncode == 0
    assert listed(url) == []


def test_list_finds_by_name_owner_and_age(url: str) -> None:
    assert len(listed(url, "--name", "flow0")) == 2 and listed(url, "--name", "flow") == []
    assert listed(url, "--owner", "nobody") == []
    assert listed(url, "--older-than", "1d") == [] and len(listed(url, "--older-than", "0s")) == 2


def test_suspend_leaves_a_request_with_an_unfinished_flow(url: str) -> None:
    finished, waiting = listed(url)
    assert command(url, "suspend", waiting["uuid"]).returncode == 0
    done = command(url, "suspend", finished["uuid"])
    assert done.returncode == 2 and "has finished" in done.stderr
    with closing(api.connect(url)) as connection:
        flow = connection.get_flow_details(waiting["uuid"])
        assert (flow.request, flow.request_sequence, flow.request_handled) == ("SUSPEND", 1, 0)
        assert connection.get_flow_details(finished["uuid"]).request is None


def test_a_command_on_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    done = command(f"sqlite:///{tmp_path}/nothing.db", "list")
    assert done.returncode == 2 and "upgrade" in done.stderr
    assert list(tmp_path.iterdir()) == []
