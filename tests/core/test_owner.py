# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pluggableflow import owner


def test_a_process_that_has_ended_is_gone_and_a_living_one_is_not() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "from pluggableflow import owner; print(owner.identity(), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    identity = child.stdout.readline().strip()
    assert not owner.is_gone(identity)
    child.communicate("\n")
    assert owner.is_gone(identity)


def test_this_process_is_not_gone() -> None:
    assert not owner.is_gone(owner.identity())


def test_a_process_that_was_killed_but_not_yet_reaped_is_gone() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, owner.identity().encode())
        signal.pause()
    identity = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert not owner.is_gone(identity)
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert owner.is_gone(identity)
    os.waitpid(child, 0)
    assert owner.is_gone(identity)


def test_a_process_of_the_same_number_that_started_at_another_time_is_another() -> None:
    boot, namespace, pid, _started = owner.identity().split("/")
    assert owner.is_gone(f"{boot}/{namespace}/{pid}/1")


@pytest.mark.parametrize("part", [pytest.param(0, id="boot"), pytest.param(1, id="pid namespace")])
def test_an_owner_that_cannot_be_judged_counts_as_alive(part: int) -> None:
    parts = owner.identity().split("/")
    parts[2:] = ["4194304", "1"]
    assert owner.is_gone("/".join(parts))
    for other in ("elsewhere", "unknown"):
        parts[part] = other
        assert not owner.is_gone("/".join(parts))


def test_an_owner_that_is_not_an_identity_counts_as_alive() -> None:
    assert not owner.is_gone("somebody")
