# SPDX-License-Identifier: Apache-2.0
"""Processes that fight for the same flows while they are killed and frozen at any moment; ``pytest -s`` shows counts.

``PLUGGABLEFLOW_LONG=1`` fights for more flows, with more processes; ``PLUGGABLEFLOW_SEED`` gives other moments.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import battle
import pytest
from stores import STORES, store_url
from zygote import Zygote

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
    counts = battle.fought(zygote, "fighter:main", url, tmp_path, FLOWS, SEED, MOST_PROCESSES)
    request.node.user_properties.extend(battle.show(request.node.callspec.params["url"], counts))
