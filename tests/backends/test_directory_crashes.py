# SPDX-License-Identifier: Apache-2.0
"""A process is killed at every change that it makes to the files: afterwards all is done, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import states
from pluggableflow.connection import SUSPEND, Changes, Lease
from pluggableflow.connections.directory import DirectoryConnection
from pluggableflow.exceptions import PluggableFlowError
from pluggableflow.middleware import FlowDetail, LogBook, TaskDetail
from pluggableflow.testing.records import LONG, atom_record

CHANGING = ("write", "replace", "rename", "fsync", "mkdir", "rmdir", "unlink", "ftruncate")
TOKEN = "token"


def book_of(uuid: str, *flow_uuids: str) -> LogBook:
    book = LogBook("book", uuid)
    for flow_uuid in flow_uuids:
        flow = FlowDetail("flow", flow_uuid)
        for name in ("one", "two"):
            flow.add(TaskDetail(name, f"{flow_uuid}-{name}"))
        book.add(flow)
    return book


def commit(connection: DirectoryConnection) -> None:
    flow = FlowDetail("flow", "leased")
    lease = Lease("leased", TOKEN, 1, "tests", 0)
    changed = {f"leased-{name}": {"state": states.SUCCESS, "results": '"done"'} for name in ("one", "two")}
    added = [atom_record(flow, "new", uuid="leased-new")]
    connection.commit(lease, 0, Changes({"state": states.RUNNING, "priority": 7}, added, changed))


def commit_and_fold(connection: DirectoryConnection) -> None:
    connection._open.fold_bytes = 0
    commit(connection)


def save_new(connection: DirectoryConnection) -> None:
    connection.save_logbook(book_of("new", "new1", "new2"))


def save_more(connection: DirectoryConnection) -> None:
    book = book_of("book", "free", "leased", "more1", "more2")
    book.meta = {"more": True}
    connection.save_logbook(book)


def update(connection: DirectoryConnection) -> None:
    flow = connection.get_flow_details("free")
    for atom in flow:
        atom.put(states.SUCCESS, "done")
    flow.state = states.SUSPENDED
    flow.add(TaskDetail("three", "free-three"))
    connection.update_flow_details(flow)


def update_atom(connection: DirectoryConnection) -> None:
    atom = connection.get_atom_details("free-one")
    atom.put(states.SUCCESS, "done")
    connection.update_atom_details(atom)


def destroy(connection: DirectoryConnection) -> None:
    connection.destroy_logbook("book", force=True)


def claim(connection: DirectoryConnection) -> None:
    connection.claim(token="mine", owner="me", lease_seconds=LONG, flow_uuid="free")


def request(connection: DirectoryConnection) -> None:
    connection.request("leased", SUSPEND, "operator")


WORKS = [commit, commit_and_fold, save_new, save_more, update, update_atom, destroy, claim, request]
#: May be sent again, also if they were done.
REPEATABLE = (commit, commit_and_fold, save_new, save_more, claim)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    connection = DirectoryConnection(str(tmp_path / "template"))
    connection.upgrade()
    connection.save_logbook(book_of("book", "free", "leased"))
    connection.save_logbook(book_of("other", "other1"))
    connection.claim(token=TOKEN, owner="tests", lease_seconds=LONG, flow_uuid="leased")
    connection.close()
    return tmp_path / "template"


def content(root: Path) -> Any:
    """All that the store holds, without times."""
    connection = DirectoryConnection(str(root))
    connection.validate()
    books = connection.get_logbooks()
    assert {flow.uuid for flow in connection.find_flows()} == {flow.uuid for book in books for flow in book}
    connection.close()
    return {
        book.uuid: (
            book.meta,
            {
                flow.uuid: (
                    (flow.state, flow.priority, flow.revision, flow.token, flow.epoch, flow.request),
                    {atom.name: (atom.uuid, atom.state, atom.results, atom.revision) for atom in flow},
                )
                for flow in book
            },
        )
        for book in books
    }


def killed_at(root: Path, work: Callable[[DirectoryConnection], None], step: int) -> bool:
    """Do ``work`` in a child that kills itself before its ``step``-th change; whether it came to that.

    A ``write`` is two changes: half of it, and the rest.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            connection = DirectoryConnection(str(root))
            _kill_at(step)
            work(connection)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status)
    assert killed or os.waitstatus_to_exitcode(status) == 0
    return killed


def _kill_at(step: int) -> None:
    changes = 0

    def count() -> None:
        nonlocal changes
        changes += 1
        if changes == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count()
            return real(*arguments, **options)

        return call

    def write_halves(descriptor: int, data: bytes) -> int:
        count()
        half = write(descriptor, data[: len(data) // 2])
        count()
        return half + write(descriptor, data[half:])

    write = os.write
    for name in CHANGING:
        setattr(os, name, killing(getattr(os, name)))
    os.write = write_halves  # type: ignore[assignment]


def copies(template: Path) -> Iterator[Path]:
    number = 0
    while True:
        number += 1
        root = template.parent / f"copy{number}"
        shutil.copytree(template, root)
        yield root
        shutil.rmtree(root)


@pytest.mark.parametrize("work", WORKS)
def test_a_process_killed_at_any_change_leaves_all_or_nothing(
    template: Path, work: Callable[[DirectoryConnection], None]
) -> None:
    before, found, after = content(template), [], None
    for step, root in enumerate(copies(template), start=1):
        killed = killed_at(root, work, step)
        assert not torn_files(root)
        found.append(content(root))
        connection = DirectoryConnection(str(root))
        connection.upgrade()
        assert not [path for path in root.iterdir() if path.name.startswith(".")]
        assert content(root) == found[-1]
        if work in REPEATABLE or found[-1] == before:
            work(connection)
        connection.close()
        if killed:
            after = after if after is not None else content(root)
            assert content(root) == after, f"killed at change {step}, it cannot be done again"
        else:
            break
    assert found[-1] == after != before
    assert all(each in (before, after) for each in found)
    kinds = [each == after for each in found]
    assert kinds == sorted(kinds) and len(kinds) > 2


def torn_files(root: Path) -> list[str]:
    """Files that count and are no JSON, found without the code that is tested."""
    torn = []
    for path in root.glob("books/*/**/*.json"):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            book = json.loads((root / "books" / path.relative_to(root).parts[1] / "book.json").read_text())
            if path.name == "book.json" or (path.name == "flow.json" and path.parent.name in book["flows"]):
                try:
                    json.loads(path.read_text())
                except ValueError:
                    torn.append(str(path))
    return torn


# -- the end of the journal ---------------------------------------------------------------------------------------


def journal_of(root: Path, flow_uuid: str) -> Path:
    (head,) = root.glob(f"books/*/{flow_uuid}/flow.json")
    return head.parent / json.loads(head.read_text())["journal"]


def test_a_journal_cut_anywhere_in_its_last_line_is_as_before_that_line(template: Path) -> None:
    before = content(template)
    journal = journal_of(template, "leased")
    start = journal.stat().st_size
    connection = DirectoryConnection(str(template), synchronous="normal")
    commit(connection)
    connection.close()
    after, whole = content(template), journal.read_bytes()
    for end in range(start, len(whole)):
        journal.write_bytes(whole[:end])
        assert content(template) == before
        connection = DirectoryConnection(str(template), synchronous="normal")
        commit(connection)
        connection.close()
        assert content(template) == after
        lines = journal.read_bytes().splitlines(keepends=True)
        assert len(lines) == 2 and lines[0] == whole[:start]
    journal.write_bytes(whole)
    assert content(template) == after


def test_zeros_at_the_end_of_a_journal_are_ignored(template: Path) -> None:
    before = content(template)
    journal = journal_of(template, "leased")
    whole = journal.read_bytes()
    for tail in (b"\0" * 100, b"\0" * 100 + b"\n", b'{"flow"' + b"\0" * 50 + b"\t1\t00000000\n"):
        journal.write_bytes(whole + tail)
        assert content(template) == before
    connection = DirectoryConnection(str(template))
    commit(connection)
    assert b"\0" not in journal.read_bytes()
    connection.close()


def test_a_line_that_was_changed_is_damage_and_is_not_dropped(template: Path) -> None:
    connection = DirectoryConnection(str(template))
    commit(connection)
    journal = journal_of(template, "leased")
    whole = journal.read_bytes()
    for changed in (whole.replace(b'"priority":7', b'"priority":8'), whole.replace(b'"epoch":1', b'"epoch":2')):
        assert changed != whole
        journal.write_bytes(changed)
        for call in (lambda: connection.get_flow_details("leased"), lambda: claim_by_force(connection)):
            with pytest.raises(PluggableFlowError, match=f"leased.*{journal.name}"):
                call()
        assert journal.read_bytes() == changed
    connection.close()


def claim_by_force(connection: DirectoryConnection) -> None:
    fresh = DirectoryConnection(connection.path)
    try:
        fresh.claim(token="by force", owner="me", lease_seconds=LONG, flow_uuid="leased", evict_epoch=1)
    finally:
        fresh.close()


def test_a_line_of_another_number_is_damage(template: Path) -> None:
    journal = journal_of(template, "leased")
    text = b'{"flow":{"priority":9}}\t5'
    journal.write_bytes(journal.read_bytes() + text + b"\t%08x\n" % zlib.crc32(text))
    connection = DirectoryConnection(str(template))
    with pytest.raises(PluggableFlowError, match="line 2"):
        connection.get_flow_details("leased")
    assert [flow.uuid for flow in connection.find_flows() if flow.damage] == ["leased"]
    connection.close()
