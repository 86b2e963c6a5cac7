# SPDX-License-Identifier: Apache-2.0
"""What the log of a fight proves: who wrote each revision of each flow, and that nothing committed was done again.

A process logs a claim before it uses it, a commit before it sends it ("try") and after it was answered ("commit"). So
a commit without an answer was applied exactly if the next claim of the flow, or else the end, shows its revision.
"""

from __future__ import annotations

import bisect
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pluggableflow import states

Line = dict[str, Any]
#: How far an atom has come within an attempt: executed, undone.
_EXECUTED, _UNDONE = 1, 2
_STAGES = {
    states.SUCCESS: _EXECUTED,
    states.FAILURE: _EXECUTED,
    states.REVERTING: _EXECUTED,
    states.REVERTED: _UNDONE,
    states.REVERT_FAILURE: _UNDONE,
}


def read(path: Path) -> dict[str, list[Line]]:
    """The lines of each flow, in the order of the log; those about none under ``""``."""
    flows: dict[str, list[Line]] = defaultdict(list)
    for number, text in enumerate(path.read_text().splitlines()):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # empty, or the last word of a process that was killed while it wrote
            continue
        flows[line.get("flow", "")].append({**line, "at": number})
    return flows


def check(flow: str, lines: list[Line], revision: int) -> Counter[str]:
    """Check the story of one flow that has ended at ``revision``; returns what happened how often."""
    claims = {line["epoch"]: line for line in lines if line["do"] == "claim"}
    tries = [line for line in lines if line["do"] == "try"]
    commits = {(line["epoch"], line["revision"]) for line in lines if line["do"] == "commit"}
    assert len(claims) == sum(line["do"] == "claim" for line in lines), f"{flow}: an epoch had two holders"
    assert len({line["token"] for line in claims.values()}) == len(claims), f"{flow}: a token claimed twice"
    epochs, known = sorted(claims), [claims[epoch]["revision"] for epoch in sorted(claims)] + [revision]
    assert known == sorted(known), f"{flow}: a committed revision was lost: {known}"

    writers: dict[int, list[Line]] = defaultdict(list)
    for line in tries:
        assert line["token"] == claims[line["epoch"]]["token"], f"{flow}: a commit under another's epoch"
        seen_next = known[bisect.bisect_right(epochs, line["epoch"])]
        answered = (line["epoch"], line["revision"]) in commits
        assert not answered or seen_next >= line["revision"], f"{flow}: an answered commit was lost: {line}"
        if seen_next >= line["revision"]:
            writers[line["revision"]].append(line)
    for each in range(known[0] + 1, revision + 1):
        assert len({line["token"] for line in writers[each]}) == 1, f"{flow}: writers of {each}: {writers[each]}"
    assert max(writers) == revision

    _check_calls(flow, lines, [line for each in sorted(writers) for line in writers[each]])
    calls = Counter(line["key"] for line in lines if line["do"] == "call")
    return Counter(
        takeovers=sum(epoch > 1 for epoch in epochs),
        commits=len(writers),
        unanswered=sum((line["epoch"], line["revision"]) not in commits for each in writers.values() for line in each),
        not_applied=len(tries) - sum(map(len, writers.values())),
        leases_lost=sum(line["do"] == "lost" for line in lines),
        calls=sum(calls.values()),
        calls_repeated=sum(count - 1 for count in calls.values()),
    )


def _check_calls(flow: str, lines: list[Line], applied: list[Line]) -> None:
    """No holder of the flow has called anything whose outcome it, or a holder before it, had committed."""
    outcomes: dict[str, list[tuple[int, int, tuple[int, int]]]] = defaultdict(list)
    for line in applied:
        for atom, attempt, state in line["atoms"]:
            outcomes[atom].append((line["epoch"], line["at"], (attempt, _STAGES.get(state, 0))))
    for line in lines:
        if line["do"] != "call":
            continue
        _, atom, attempt, what = line["key"].split("/")
        stage = (int(attempt), _EXECUTED if what == "revert" else 0)
        for epoch, at, come in outcomes[atom]:
            before = epoch < line["epoch"] or (epoch == line["epoch"] and at < line["at"])
            assert not (before and come > stage), f"{flow}: {line} after {come} had been committed under {epoch}"
