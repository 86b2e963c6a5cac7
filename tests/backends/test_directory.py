# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pluggableflow.connections.directory import DirectoryConnection
from pluggableflow.testing import ConnectionTests


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
