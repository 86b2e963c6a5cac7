# SPDX-License-Identifier: Apache-2.0
"""Conductors that share a store while they are killed and frozen at any moment; ``pytest -s`` shows counts.

``PLUGGABLEFLOW_LONG=1`` conducts more flows; ``PLUGGABLEFLOW_SEED`` gives other moments.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import battle
import pytest
from stores import store_url
from zygote import Zygote

LONG = os.environ.get("PLUGGABLEFLOW_LONG") == "1"
FLOWS = 1000 if LONG else 60
CONDUCTORS = 8
SEED = int(os.environ.get("PLUGGABLEFLOW_SEED", "1"))


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    with Zygote("conducting") as made:
        yield made


@pytest.fixture(params=["postgresql", "mongodb_replica_set", "redis_aof"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return store_url(request, tmp_path, "conduct_")


@pytest.mark.timeout(3600 if LONG else 300)
def test_every_flow_ends_well_and_nothing_committed_is_done_again(
    request: pytest.FixtureRequest, tmp_path: Path, url: str, zygote: Zygote
) -> None:
    counts = battle.fought(zygote, "conducting:main", url, tmp_path, FLOWS, SEED, CONDUCTORS)
    request.node.user_properties.extend(battle.show(request.node.callspec.params["url"], counts))
