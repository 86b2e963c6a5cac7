# SPDX-License-Identifier: Apache-2.0
"""Processes that fight for the same flows while they are killed and frozen at any moment; ``pytest -s`` shows counts.

``PLUGGABLEFLOW_LONG=1`` fights for more flows, with more processes; ``PLUGGABLEFLOW_SEED`` gives other moments.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import evidence
import fight_flows
import pytest
from arena import Arena
from stores import STORES, store_url
from zygote import Zygote

from pluggableflow import api, states

LONG = os.environ.get("PLUGGABLEFLOW_LONG") == "1"
FLOWS, MOST_PROCESSES = (1000, 8) if LONG else (100, 4)
SEED = int(os.environ.get("PLUGGABLEFLOW_SEED", "1"))


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    with Zygote("fighter") as made:
        yield made


@pytest.fixture(params=[name for name in STORES if name != "mongodb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return store_url(request, tmp_path, "fight_")


@pytest.mark.timeout(3600 if LONG else 300)
def test_every_flow_ends_well_and_nothing_committed_is_done_again(
    request: pytest.FixtureRequest, tmp_path: Path, url: str, zygote: Zygote
) -> None:
    connection = api.connect(url)
    connection.clear_all()
    numbers = fight_flows.keep(connection, FLOWS)
    arena = Arena(zygote, url, str(tmp_path / "log"), SEED, MOST_PROCESSES)
    arena.run()

    stories = evidence.read(tmp_path / "log")
    counts = Counter(flows=FLOWS, processes=arena.processes, kills=arena.kills, freezes=arena.freezes)
    counts["storage_failures"] = len(stories.pop("", []))
    for uuid, number in numbers.items():
        detail = connection.get_flow_details(uuid)
        _, state, results = fight_flows.KINDS[number % len(fight_flows.KINDS)]
        assert detail.state == state, (uuid, number)
        tasks = {atom.name: atom.results for atom in detail if atom.kind == "TASK" and atom.state == states.SUCCESS}
        assert tasks == results, (uuid, number)
        counts.update(evidence.check(uuid, stories.pop(uuid), detail.revision))
    assert not stories
    connection.clear_all()
    connection.close()

    name = request.node.callspec.params["url"]
    print(f"\n{name}: " + ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items()))
    for what, count in counts.items():
        request.node.user_properties.append((what, count))
