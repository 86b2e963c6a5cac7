# SPDX-License-Identifier: Apache-2.0
"""Processes killed around every commit while the server that keeps their flows lives on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from flows import FLOWS
from scenes import Scene, kill_around_every_commit
from stores import STORES, store_url
from zygote import Zygote

from pluggableflow import api
from pluggableflow.connection import Connection

#: Several of its tasks run at once, or one runs while another is undone; of the others both engines make the same.
PARALLEL = {"unordered", "diamond", "exhausted", "decided_all", "decided_in_retry"}


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("run_flow") as made:
        yield made


@pytest.fixture(scope="module", params=[name for name in STORES if name != "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return store_url(request, tmp_path_factory.mktemp(request.param), "kill_")


@pytest.fixture(scope="module")
def connection(url: str) -> Iterator[Connection]:
    made = api.connect(url)
    made.clear_all()
    yield made
    made.clear_all()
    made.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(FLOWS))
def test_a_flow_killed_around_any_commit_ends_as_if_nothing_had_happened(
    tmp_path: Path, url: str, connection: Connection, zygote: Zygote, name: str
) -> None:
    engine = "parallel" if name in PARALLEL else "serial"
    start = functools.partial(zygote.call, "run_flow:main")
    kill_around_every_commit(lambda folder: Scene(tmp_path / folder, name, engine, url, connection, start))
