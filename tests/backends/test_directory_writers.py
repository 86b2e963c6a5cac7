# SPDX-License-Identifier: Apache-2.0
"""Several writers of one folder: what each knows of the files, and what happens when one of them is stopped."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import states
from pluggableflow.connection import SUSPEND, Changes
from pluggableflow.connections import folders, store_folder
from pluggableflow.connections.directory import DirectoryConnection
from pluggableflow.exceptions import DamagedRecord, FlowOwned, LeaseLost, NotFound, StorageFailure
from pluggableflow.middleware import FlowDetail, new_uuid
from pluggableflow.testing.records import FACTORY, LONG, atom_record, claimed, new_book, saved_flow


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[DirectoryConnection]:
    made = DirectoryConnection(str(tmp_path / "flows"))
    made.upgrade()
    yield made
    made.close()


@pytest.fixture
def second(connection: DirectoryConnection) -> Iterator[DirectoryConnection]:
    made = DirectoryConnection(connection.path)
    yield made
    made.close()


def folder_of(connection: DirectoryConnection, flow: FlowDetail) -> Path:
    return Path(connection._store.found_flow(flow.uuid))


def head_of(connection: DirectoryConnection, flow: FlowDetail) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder_of(connection, flow) / "flow.json").read_text())
    return found


# -- folding ----------------------------------------------------------------------------------------------------------


def test_a_fold_keeps_everything_and_leaves_three_files(connection: DirectoryConnection) -> None:
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    (folder_of(connection, flow) / "notes.txt").write_text("mine")
    connection._open.fold_bytes = 3000
    heads = set()
    for revision in range(40):
        connection.commit(claim.lease, revision, Changes(added=[atom_record(flow, f"atom{revision}")]))
        head = head_of(connection, flow)
        heads.add(head["journal"])
        names = {path.name for path in folder_of(connection, flow).iterdir()}
        assert names == {"flow.json", head["journal"], head["atoms"], "notes.txt"}
    stored = connection.get_flow_details(flow.uuid)
    assert [atom.name for atom in stored][2:] == [f"atom{number}" for number in range(40)]
    assert 2 < len(heads) < 20 and stored.revision == 40


def test_a_long_flow_is_not_written_anew_for_every_short_journal(connection: DirectoryConnection) -> None:
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    connection._open.fold_bytes = 0
    connection.commit(claim.lease, 0, Changes(added=[atom_record(flow, f"atom{number}") for number in range(500)]))
    before = head_of(connection, flow)["journal"]
    for revision in range(1, 20):
        connection.commit(claim.lease, revision, Changes(flow={"priority": revision}))
    assert head_of(connection, flow)["journal"] == before


def test_writers_follow_each_others_folds(connection: DirectoryConnection, second: DirectoryConnection) -> None:
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    for each in (connection, second):
        each._open.fold_bytes = 1000
    for revision in range(60):
        writer, reader = (connection, second) if revision % 3 else (second, connection)
        writer.commit(claim.lease, revision, Changes(added=[atom_record(flow, f"atom{revision}")]))
        assert reader.renew(claim.lease, LONG).request is None
        assert len(reader.get_flow_details(flow.uuid)) == revision + 3
    with pytest.raises(StorageFailure, match="atom0"):
        connection.commit(claim.lease, 60, Changes(added=[atom_record(flow, "atom0")]))


def test_a_fold_gives_way_to_what_is_written_meanwhile(
    connection: DirectoryConnection, second: DirectoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    connection._open.fold_bytes = 0
    big = Changes(added=[atom_record(flow, f"atom{number}") for number in range(20)])
    fsync, steps = os.fsync, []

    def meanwhile(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(descriptor)
        if len(steps) == 4:  # the fold has written its first file
            second.request(flow.uuid, SUSPEND, "operator")

    before = head_of(connection, flow)
    monkeypatch.setattr(os, "fsync", meanwhile)
    connection.commit(claim.lease, 0, big)
    monkeypatch.undo()
    assert len(steps) > 4
    assert head_of(connection, flow) == before and len(list(folder_of(connection, flow).iterdir())) == 3
    renewal = connection.renew(claim.lease, LONG)
    assert renewal.request is not None and renewal.request.by == "operator"
    connection.commit(claim.lease, 1, Changes(flow={"request_handled": 1}))
    assert head_of(connection, flow) != before
    assert len(second.get_flow_details(flow.uuid)) == 22


def test_what_a_failed_sync_may_have_dropped_is_written_to_new_files(
    connection: DirectoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    before = head_of(connection, flow)["journal"]

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    changes = Changes(added=[atom_record(flow, "added")])
    monkeypatch.setattr(os, "fsync", fail)
    for _ in range(2):
        with pytest.raises(StorageFailure):
            connection.commit(claim.lease, 0, changes)
    monkeypatch.undo()
    assert connection.commit(claim.lease, 0, changes) == 1
    assert head_of(connection, flow)["journal"] != before
    assert connection.commit(claim.lease, 1, Changes(flow={"priority": 4})) == 2
    assert len(connection.get_flow_details(flow.uuid)) == 3


def test_a_commit_that_changes_nothing_else_makes_one_write_and_one_sync(
    connection: DirectoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = saved_flow(connection)
    task, retry = flow
    claim = claimed(connection, flow)
    connection.commit(claim.lease, 0, Changes(flow={"priority": 1}))
    calls: list[str] = []

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return real(*arguments, **options)

        return call

    for name in ("write", "fsync", "open", "pread", "replace"):
        monkeypatch.setattr(os, name, counting(name, getattr(os, name)))
    connection.commit(claim.lease, 1, Changes(changed={task.uuid: {"attempt": 1}, retry.uuid: {"attempt": 1}}))
    assert calls == ["write", "fsync"]


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "null", '{"flow": 3}', '{"book": {}, "flows": 1}', "[" * 10**5])
@pytest.mark.parametrize("file", ["flow.json", "../book.json", "atoms", "journal"])
def test_a_damaged_file_is_named_and_hinders_nothing_else(
    connection: DirectoryConnection, second: DirectoryConnection, file: str, text: str
) -> None:
    good = saved_flow(connection, "good", factory=FACTORY, priority=1)
    bad = saved_flow(connection, "bad", factory=FACTORY, priority=9)
    path = folder_of(connection, bad) / head_of(connection, bad).get(file, file)
    path.write_text(f"{text}\n")
    is_book = file == "../book.json"
    with pytest.raises(DamagedRecord, match=path.name):
        _ = second.get_logbook(str(bad.parent_uuid)) if is_book else second.get_flow_details(bad.uuid)
    assert [flow.uuid for flow in second.find_flows(name="good")] == [good.uuid]
    assert {flow.uuid for flow in second.find_flows()} == {good.uuid, bad.uuid}
    assert second.get_flow_details(good.uuid) == good
    assert second.get_atom_details(next(iter(good)).uuid).name == "task"
    taken = []
    while claim := second.claim(token=new_uuid(), owner="o", lease_seconds=LONG):
        taken.append(claim.lease.flow_uuid)
    # A book or atoms that cannot be read do not keep the flow's own columns from being read.
    assert taken == ([good.uuid] if file in ("flow.json", "journal") else [bad.uuid, good.uuid])
    saved_flow(second)
    second.destroy_logbook(str(bad.parent_uuid), force=True)
    assert bad.uuid not in {flow.uuid for flow in second.find_flows()}


@pytest.mark.parametrize(
    "column, value", [("revision", "1"), ("uuid", "other"), ("state", None), ("created_at", None), ("token", 3)]
)
def test_a_column_with_an_impossible_value_is_damage(
    connection: DirectoryConnection, column: str, value: object
) -> None:
    flow = saved_flow(connection)
    head = head_of(connection, flow)
    head["flow"][column] = value
    (folder_of(connection, flow) / "flow.json").write_text(json.dumps(head))
    with pytest.raises(DamagedRecord, match=flow.uuid):
        connection.get_flow_details(flow.uuid)
    assert [each.damage is not None for each in connection.find_flows()] == [True]
    with pytest.raises(DamagedRecord, match=column if column != "uuid" else "other"):
        claimed(connection, flow)


def test_a_file_that_is_missing_is_damage_a_folder_that_is_missing_is_not(connection: DirectoryConnection) -> None:
    for file in ("flow.json", "atoms", "journal"):
        flow = saved_flow(connection)
        (folder_of(connection, flow) / head_of(connection, flow).get(file, file)).unlink()
        for call in (lambda: connection.get_flow_details(flow.uuid), lambda: connection.update_flow_details(flow)):  # noqa: B023
            with pytest.raises(DamagedRecord, match=f"{file}.*is missing"):
                call()
    flow = saved_flow(connection)
    folder = folder_of(connection, flow)
    folder.rename(folder.parent.parent.parent / ".trash-by-hand")
    with pytest.raises(NotFound):
        connection.get_flow_details(flow.uuid)
    assert flow.uuid not in {each.uuid for each in connection.find_flows()}
    connection.destroy_logbook(str(flow.parent_uuid))
    assert not list(Path(connection.path).glob(".*"))


# -- who waits for whom -----------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(connection: DirectoryConnection) -> Iterator[FlowDetail]:
    """A flow of high priority whose lock is held by a process that was stopped."""
    flow = saved_flow(connection, "stopped", factory=FACTORY, priority=9)
    child = os.fork()
    if child == 0:
        try:
            with DirectoryConnection(connection.path)._open.writing(flow.uuid):
                os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    yield flow
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_stopped_writer_holds_up_the_writers_of_its_flow_only(
    connection: DirectoryConnection, second: DirectoryConnection, stopped: FlowDetail
) -> None:
    assert connection.get_flow_details(stopped.uuid) == stopped
    assert [flow.uuid for flow in connection.find_flows()] == [stopped.uuid]
    other = saved_flow(connection, "other", factory=FACTORY)
    book = connection.get_logbook(str(stopped.parent_uuid))
    book.meta = {"changed": True}
    book.add(FlowDetail("more"))
    connection.save_logbook(book)
    claim = connection.claim(token="t", owner="o", lease_seconds=LONG)
    assert claim is not None and claim.lease.flow_uuid == other.uuid
    connection.commit(claim.lease, 0, Changes(flow={"state": states.SUCCESS}))
    connection.renew(claim.lease, LONG)
    connection.release(claim.lease)
    second.destroy_logbook(str(other.parent_uuid))
    second.destroy_logbook(str(stopped.parent_uuid))
    assert connection.find_flows() == []


def test_a_child_that_does_nothing_keeps_no_lock_of_its_parent(connection: DirectoryConnection) -> None:
    flow = saved_flow(connection)
    locked, release = os.pipe(), os.pipe()
    grandchild_is_up = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            with connection._open.writing(flow.uuid), folders.locked(connection.path):
                if os.fork() == 0:
                    os.write(grandchild_is_up[1], b".")
                    os.read(release[0], 1)
                    os._exit(0)
                os.write(locked[1], b".")
                signal.pause()
        finally:
            os._exit(1)
    os.read(locked[0], 1)
    os.read(grandchild_is_up[0], 1)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    try:
        with connection._open.writing(flow.uuid, patience_seconds=LONG / 100):
            pass
        with folders.locked(connection.path, patience_seconds=LONG / 100):
            pass
    finally:
        os.write(release[1], b".")
        for descriptor in (*locked, *release, *grandchild_is_up):
            os.close(descriptor)


def test_a_book_is_not_destroyed_while_a_claim_of_its_flow_is_written(
    connection: DirectoryConnection, second: DirectoryConnection
) -> None:
    flow = saved_flow(connection)
    outcomes: list[BaseException | None] = []

    def destroy() -> None:
        try:
            second.destroy_logbook(str(flow.parent_uuid))
            outcomes.append(None)
        except BaseException as error:
            outcomes.append(error)

    thread = threading.Thread(target=destroy)
    with connection._open.book_of(flow.uuid):
        thread.start()
        assert claimed(connection, flow).lease.epoch == 1
    thread.join()
    assert isinstance(outcomes[0], FlowOwned)
    assert connection.get_flow_details(flow.uuid).owner == "tests"


def test_a_flow_that_was_destroyed_and_made_again_does_not_take_the_old_commits(
    connection: DirectoryConnection, second: DirectoryConnection
) -> None:
    book = new_book("flow")
    (flow,) = book
    for rounds in range(3):
        connection.save_logbook(book)
        claim = claimed(connection, flow)
        connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING}))
        second.destroy_logbook(book.uuid, force=True)
        if rounds % 2:
            second.save_logbook(book)
        with pytest.raises(LeaseLost):
            connection.commit(claim.lease, 1, Changes(flow={"state": states.SUCCESS}))
        with pytest.raises(LeaseLost):
            connection.renew(claim.lease, LONG)
        connection.release(claim.lease)
        if rounds % 2:
            assert second.get_flow_details(flow.uuid).revision == 0
            second.destroy_logbook(book.uuid)


def test_many_open_flows_take_few_descriptors(connection: DirectoryConnection) -> None:
    connection._writer.synchronous = False
    claims = [claimed(connection, saved_flow(connection, f"flow{number}")) for number in range(100)]
    for revision in range(2):
        for claim in claims:
            connection.commit(claim.lease, revision, Changes(flow={"priority": revision}))
    assert len(os.listdir("/dev/fd")) < 300
    connection.close()
    for claim in claims:
        connection.release(claim.lease)
    assert {flow.revision for flow in connection.find_flows()} == {2}


def test_a_search_reads_only_what_changed(connection: DirectoryConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    flows = [saved_flow(connection, f"flow{number}") for number in range(5)]
    connection.find_flows()
    read: list[str] = []
    real = store_folder.read_flow

    def reading(path: str, uuid: str, with_atoms: bool) -> Any:
        read.append(uuid)
        return real(path, uuid, with_atoms)

    monkeypatch.setattr(store_folder, "read_flow", reading)
    assert len(connection.find_flows()) == 5 and read == []
    connection.request(flows[3].uuid, SUSPEND, "operator")
    assert [flow.uuid for flow in connection.find_flows() if flow.request] == [flows[3].uuid]
    assert read == [flows[3].uuid]


def test_a_renewal_does_not_wait_for_a_commit_that_reads_a_long_flow(connection: DirectoryConnection) -> None:
    flow = saved_flow(connection)
    claim = claimed(connection, flow)
    with connection._open._folder(flow.uuid, apart=False)._turn:
        renewal = connection.renew(claim.lease, 2 * LONG)
    assert connection.get_flow_details(flow.uuid).lease_expires_at == renewal.expires_at
    assert connection.commit(claim.lease, 0, Changes(flow={"state": states.RUNNING})) == 1
