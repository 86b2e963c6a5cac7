# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pluggableflow import api, task
from pluggableflow.patterns import linear_flow


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
    assert seen == [0.25, 0.75]
    assert engine.storage.get_task_progress("reporter") == 0.75
    assert connection.get_atoms_for_flow(engine.storage.flow_uuid)[0].meta["progress"] == 0.75
    connection.close()
