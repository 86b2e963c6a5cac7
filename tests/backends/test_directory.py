# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, states
from pluggableflow.connection import Changes
from pluggableflow.connections.directory import DirectoryConnection
from pluggableflow.connections.folders import folder_name, identifier_of
from pluggableflow.exceptions import ForeignStore, OptionError, StorageFailure
from pluggableflow.middleware import FlowDetail, LogBook, TaskDetail
from pluggableflow.testing import ConnectionTests
from pluggableflow.testing.records import LONG, saved_flow


def read_raw(root: Path, kind: str, uuid: str) -> dict[str, Any] | None:
    """What the files say, read in the simplest way."""
    for book_file in root.glob("books/*/book.json"):
        book = json.loads(book_file.read_text())
        if kind == "logbook" and book["book"]["uuid"] == uuid:
            found: dict[str, Any] = book["book"]
            return found
        for flow_file in book_file.parent.glob("*/flow.json"):
            head = json.loads(flow_file.read_text())
            flow = head["flow"]
            if flow["uuid"] not in book["flows"]:
                continue
            atoms = {atom["uuid"]: atom for atom in json.loads((flow_file.parent / head["atoms"]).read_text())}
            for number, line in enumerate((flow_file.parent / head["journal"]).read_bytes().splitlines()):
                text, count, checksum = line.split(b"\t")
                assert int(count) == number and int(checksum, 16) == zlib.crc32(text + b"\t" + count)
                change = json.loads(text)
                flow.update(change.get("flow", {}))
                atoms.update({atom["uuid"]: atom for atom in change.get("put", [])})
                for atom_uuid, columns in change.get("changed", {}).items():
                    atoms[atom_uuid].update(columns)
            if kind == "flow" and flow["uuid"] == uuid:
                return dict(flow)
            if kind == "atom" and uuid in atoms:
                return dict(atoms[uuid])
    return None


@contextlib.contextmanager
def failing(step: int) -> Iterator[None]:
    """Lets the ``step``-th call to the system fail; nothing fails for a larger number."""
    calls = 0
    names = ("write", "fsync", "stat", "fstat", "dup", "open", "replace", "rename")
    real = {name: getattr(os, name) for name in names}

    def failing_at_step(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real[name](*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, failing_at_step(name))
        yield


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class TestDirectory(ConnectionTests):
    without = {
        "server": "the store is a folder",
        "frozen holder": "the lock of a flow is held while a line is appended to its journal",
    }

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "flows"

    @pytest.fixture
    def url(self, root: Path) -> str:
        return f"dir://{root}"

    @pytest.fixture
    def raw(self, root: Path) -> Any:
        return lambda kind, uuid: read_raw(root, kind, uuid)

    @pytest.fixture
    def damage(self, root: Path) -> Any:
        def spoil(kind: str, uuid: str) -> None:
            pattern = {"logbook": "book.json", "flow": "*/flow.json", "atom": "*/*"}[kind]
            for path in root.glob(f"books/*/{pattern}"):
                if f'"uuid":"{uuid}"' in path.read_text().replace('": "', '":"'):
                    cut_in_half(path)

        return spoil

    @pytest.fixture
    def interrupt(self) -> Any:
        return failing


class TestOftenFolded(TestDirectory):
    """Every write that makes the journal longer than the atoms folds it; nothing is synced."""

    @pytest.fixture
    def url(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(DirectoryConnection, "fold_bytes", 0)
        return f"file://{root}?synchronous=normal"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[DirectoryConnection]:
    made = DirectoryConnection(str(tmp_path / "flows"), synchronous="normal")
    made.upgrade()
    yield made
    made.close()


def flow_folder(connection: DirectoryConnection, flow: FlowDetail) -> Path:
    path = connection._store.find_flow(flow.uuid)
    assert path is not None
    return Path(path)


def folds(connection: DirectoryConnection, flow: FlowDetail) -> str:
    """A name that changes with every fold."""
    head: dict[str, str] = json.loads((flow_folder(connection, flow) / "flow.json").read_text())
    return head["journal"]


# -- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["colour=red", "synchronous=off", "synchronous=full&synchronous=full", "prefix=a"])
def test_a_wrong_parameter_is_refused_by_name(tmp_path: Path, query: str) -> None:
    with pytest.raises(OptionError, match=query.partition("=")[0]):
        api.connect(f"dir://{tmp_path}/flows?{query}")
    assert not (tmp_path / "flows").exists()


@pytest.mark.parametrize("url", ["dir://", "file://?synchronous=full", "dir:///a%00b"])
def test_a_url_without_a_folder_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="names no folder"):
        api.connect(url)


def test_a_relative_folder_stays_the_same_when_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    connection = api.connect("dir://below/my%20flows%3f?synchronous=NORMAL")
    monkeypatch.chdir("/")
    flow = saved_flow(connection)
    assert (tmp_path / "below" / "my flows?" / "version.json").exists()
    assert connection.get_flow_details(flow.uuid) == flow
    connection.close()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match="nowhere exists"):
        api.connect(f"dir://{tmp_path}/nowhere/flows")


def test_a_store_that_was_never_upgraded_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "flows"):
        connection = DirectoryConnection(str(path))
        for call in (connection.validate, connection.find_flows, functools.partial(saved_flow, connection)):
            with pytest.raises(StorageFailure, match="pluggableflow upgrade"):
                call()
        assert not any(tmp_path.iterdir())


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("to a friend")
    with pytest.raises(ForeignStore, match="letter.txt"):
        api.connect(f"dir://{tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other", "version": 1}', '{"format": "pluggableflow"}'])
def test_a_version_file_of_another_program_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "version.json").write_text(text)
    for call in (lambda: api.connect(f"dir://{tmp_path}"), DirectoryConnection(str(tmp_path)).validate):
        with pytest.raises((ForeignStore, StorageFailure)):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["version.json"]


def test_a_store_of_a_newer_release_is_refused(tmp_path: Path, connection: DirectoryConnection) -> None:
    version = Path(connection.path, "version.json")
    version.write_text(version.read_text().replace("1", "2"))
    for call in (connection.upgrade, connection.validate):
        with pytest.raises(ForeignStore, match="newer"):
            call()


@pytest.mark.parametrize(
    "uuid",
    ["../../escaped", "a/b", ".", "..", "", "book.json", "%", "%2f", "a\0b", "Ü\U0001f600\u2028\n", "A", "x" * 10_000,
     "/" * 90, "\ud800", ".new-1"],
)  # fmt: skip
def test_any_id_stays_inside_the_folder(connection: DirectoryConnection, tmp_path: Path, uuid: str) -> None:
    other = saved_flow(connection, "other")
    book = LogBook("book", uuid)
    flow = FlowDetail("flow", uuid)
    book.uuid = flow.uuid = uuid  # an empty one too
    flow.add(TaskDetail("task", uuid or "task"))
    book.add(flow)
    connection.save_logbook(book)
    fresh = DirectoryConnection(connection.path)
    claim = fresh.claim(token="t", owner="o", lease_seconds=LONG, flow_uuid=uuid)
    assert claim is not None
    fresh.commit(claim.lease, 0, Changes(changed={uuid or "task": {"state": states.SUCCESS}}))
    assert fresh.get_atom_details(uuid or "task").state == states.SUCCESS
    assert [each.uuid for each in fresh.get_logbook(uuid)] == [uuid]
    assert {each.uuid for each in fresh.find_flows()} == {uuid, other.uuid}
    assert [path.name for path in tmp_path.iterdir()] == ["flows"]
    assert sorted(path.name for path in (tmp_path / "flows").iterdir()) == ["books", "version.json"]
    fresh.destroy_logbook(uuid, force=True)
    assert [each.uuid for each in connection.find_flows()] == [other.uuid]
    fresh.close()


def test_different_ids_have_different_folders_also_where_case_does_not_count() -> None:
    ids = ["a", "A", "%41", "a ", "ä", "a\u0308", "", "%", "x" * 300, "x" * 301, "X" * 300, "x" * 150, "x" * 151]
    names = {folder_name(each).lower() for each in ids}
    assert len(names) == len(ids)
    assert all(0 < len(name) <= 255 and not name.startswith(".") for name in names)
    assert [identifier_of(folder_name(each)) for each in ids[:8]] == ids[:8]
