# SPDX-License-Identifier: Apache-2.0
"""Many small flows, the processes that run them while they are killed at any moment, and what must come of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import evidence
import fight_flows
from arena import Arena
from zygote import Zygote

from pluggableflow import api, states


def fought(zygote: Zygote, main: str, url: str, folder: Path, flows: int, seed: int, most: int) -> Counter[str]:
    """Counts of a battle in which every flow ended well and nothing committed was done again.

    :param main: what each process calls, as ``module:function``
    :param most: how many processes there are at once, at most
    """
    connection = api.connect(url)
    connection.clear_all()
    numbers = fight_flows.keep(connection, flows)
    arena = Arena(zygote, main, url, str(folder / "log"), seed, most)
    arena.run()

    stories = evidence.read(folder / "log")
    counts = Counter(flows=flows, processes=arena.processes, kills=arena.kills, freezes=arena.freezes)
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
    return counts


def show(name: str, counts: Counter[str]) -> list[tuple[str, int]]:
    """Print the counts of a store; returns them as properties for a report."""
    print(f"\n{name}: " + ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items()))
    return list(counts.items())
