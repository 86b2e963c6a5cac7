# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, task
from pluggableflow.patterns import linear_flow
from pluggableflow.secret import Secret


class Reporter(task.Task):
    def __init__(self, seen: list[float], stored: threading.Event) -> None:
        super().__init__(name="reporter")
        self.seen, self.stored = seen, stored
        self.notifier.register(task.EVENT_UPDATE_PROGRESS, lambda _event, details: seen.append(details["progress"]))

    def execute(self) -> None:
        self.update_progress(0.25)
        assert self.stored.wait(60)
        self.update_progress(0.75)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{folder}/flows.db"])
def test_progress_is_stored_while_a_task_runs_and_told_to_listeners(url: str, tmp_path: Path) -> None:
    connection = api.connect(url.format(folder=tmp_path))
    seen: list[float] = []
    stored = threading.Event()
    flow = linear_flow.Flow("flow").add(Reporter(seen, stored))
    engine = api.load(connection, flow, engine="parallel", max_workers=1)
    for _state in engine.run_iter():
        atoms = {atom.name: atom for atom in connection.get_atoms_for_flow(engine.storage.flow_uuid)}
        if atoms["reporter"].meta.get("progress") == 0.25:
            stored.set()
    assert seen == [0.0, 0.25, 0.75, 1.0]
    assert engine.storage.get_task_progress("reporter") == 1.0
    assert connection.get_atoms_for_flow(engine.storage.flow_uuid)[0].meta["progress"] == 1.0
    connection.close()


def progress_of(execute: Any, url: str = "memory://") -> tuple[Any, Any, Any]:
    """What is stored of the progress of a task, and the task."""

    class Progressing(task.Task):
        def execute(self) -> Any:
            return execute(self)

    with contextlib.closing(api.connect(url)) as connection:
        atom = Progressing("task")
        engine = api.load(connection, linear_flow.Flow("flow").add(atom))
        with contextlib.suppress(RuntimeError):
            engine.run()
        (stored,) = connection.get_atoms_for_flow(engine.storage.flow_uuid)
        assert engine.storage.get_task_progress("task") == stored.meta.get("progress", 0.0)
        return stored.meta.get("progress"), stored.meta.get("progress_details"), atom


def test_details_of_progress_are_stored_with_what_it_was_then() -> None:
    def execute(atom: task.Task) -> None:
        atom.update_progress(0.5, copied=["a", "b"])
        atom.update_progress(0.6)

    progress, details, _atom = progress_of(execute)
    assert (progress, details) == (1.0, {"at_progress": 0.5, "details": {"copied": ["a", "b"]}})


def test_who_notifies_by_the_notifier_of_the_task_reports_progress_too() -> None:
    def execute(atom: task.Task) -> None:
        atom.notifier.notify(task.EVENT_UPDATE_PROGRESS, {"progress": 0.5, "step": 3})

    progress, details, _atom = progress_of(execute)
    assert (progress, details) == (1.0, {"at_progress": 0.5, "details": {"step": 3}})


def test_a_task_that_fails_stays_where_it_was() -> None:
    def execute(atom: task.Task) -> None:
        atom.update_progress(0.5)
        raise RuntimeError("no")

    class Forward(task.Task):
        def execute(self) -> None:
            execute(self)

    engine = api.load(None, linear_flow.Flow("flow").add(Forward("task")), never_resolve=True)
    with pytest.raises(RuntimeError):
        engine.run()
    assert engine.storage.get_task_progress("task") == 0.5


def test_a_task_that_says_nothing_and_has_no_listener_stores_no_progress() -> None:
    progress, details, atom = progress_of(lambda _task: None)
    assert (progress, details, atom._notifier) == (None, None, None)


def test_details_that_cannot_be_stored_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    progress, details, _atom = progress_of(lambda atom: atom.update_progress(0.5, lock=threading.Lock()))
    assert (progress, details) == (1.0, None)
    assert "what task 'task' said of its progress cannot be stored" in caplog.text
    caplog.clear()
    progress, details, _atom = progress_of(lambda atom: atom.update_progress(0.5, token=Secret("hunter2")))
    assert (progress, details) == (1.0, None)
    assert "hunter2" not in caplog.text


def test_the_copy_of_a_task_reports_for_itself() -> None:
    class Silent(task.Task):
        def execute(self) -> None: ...

    heard: list[float] = []
    original = Silent("task")
    original.notifier.register(task.EVENT_UPDATE_PROGRESS, lambda _event, details: heard.append(details["progress"]))
    reports: list[Any] = []
    clone = original.copy()
    clone._report = lambda *report: reports.append(report)
    clone.update_progress(0.5)
    original.update_progress(0.25)
    assert heard == [0.5, 0.25]
    assert reports == [(-1, 0.5, {})]
