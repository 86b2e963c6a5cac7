# SPDX-License-Identifier: Apache-2.0
"""Conductors: what they run, leave, set aside, and how they stop."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, retry, states, task
from pluggableflow.conductor import META_ASIDE, Conductor
from pluggableflow.connection import Connection
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import OptionError, PluginError, StorageFailure
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow

LIMIT_SECONDS = 60.0
ALLOWED = [__name__]
#: What tasks of this module do beyond returning, by name.
acts: dict[str, Any] = {}


def work(name: str) -> str:
    act = acts.get(name)
    return act() if act is not None else name


def make(*names: str, attempts: int = 1, delay_seconds: float = 0) -> Flow:
    flow = linear_flow.Flow("made", retry.Times(attempts, delay_seconds=delay_seconds))
    return flow.add(*[task.FunctorTask(work, name=name, inject={"name": name}) for name in names])


def broken() -> Flow:
    raise LookupError("nothing to make a flow of")


def unfinished() -> Flow:
    return linear_flow.Flow("unfinished").add(task.FunctorTask(lambda lacking: None, name="task"))


@pytest.fixture(params=["memory://", "sqlite:///{folder}/flows.db"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    acts.clear()
    made = api.connect(request.param.format(folder=tmp_path))
    yield made
    made.close()


def keep(connection: Connection, factory: Any, *args: Any, **kwargs: Any) -> str:
    flow, detail = factory, api.create_flow_detail(linear_flow.Flow("kept"), connection=connection)
    api.save_factory_details(detail, flow, args, kwargs, connection)
    return detail.uuid


def state_of(connection: Connection, uuid: str) -> str:
    return connection.get_flow_details(uuid, lazy=True).state


def test_all_that_is_waiting_is_run_and_an_idle_conductor_returns(connection: Connection) -> None:
    kept = [keep(connection, make, "a", "b") for _ in range(10)]
    Conductor(connection, ALLOWED, max_flows=3).run(until_idle=True)
    assert {state_of(connection, uuid) for uuid in kept} == {states.SUCCESS}
    assert [atom.results for atom in connection.get_flow_details(kept[0]) if atom.kind == "TASK"] == ["a", "b"]


def test_several_flows_run_at_once_but_no_more_than_so_many(connection: Connection) -> None:
    barrier, running, most = threading.Barrier(3), [0], [0]
    lock = threading.Lock()

    def meet() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        barrier.wait(LIMIT_SECONDS)
        with lock:
            running[0] -= 1

    acts["a"] = meet
    for _ in range(6):
        keep(connection, make, "a")
    Conductor(connection, ALLOWED, max_flows=3).run(until_idle=True)
    assert most == [3]


def test_a_failed_flow_is_reverted_and_blocks_nothing(connection: Connection) -> None:
    def fail() -> None:
        raise ValueError("no")

    acts["bad"] = fail
    bad, good = keep(connection, make, "bad"), keep(connection, make, "good")
    Conductor(connection, ALLOWED, max_flows=1).run(until_idle=True)
    assert (state_of(connection, bad), state_of(connection, good)) == (states.REVERTED, states.SUCCESS)


@pytest.mark.parametrize(
    "factory, reason",
    [
        (broken, "LookupError: nothing to make a flow of"),
        (unfinished, "lacking"),
        ("os:getcwd", "not below an allowed prefix"),
        (f"{__name__}:no_such_factory", "cannot be loaded"),
    ],
)
def test_a_flow_that_cannot_be_loaded_is_set_aside_with_the_reason(
    connection: Connection, factory: Any, reason: str
) -> None:
    bad, good = keep(connection, factory), keep(connection, make, "good")
    Conductor(connection, ALLOWED, max_flows=1).run(until_idle=True)
    stored = connection.get_flow_details(bad)
    assert (stored.state, stored.token) == (states.SUSPENDED, None)
    assert reason in stored.meta[META_ASIDE]
    assert state_of(connection, good) == states.SUCCESS


def test_a_flow_that_waits_for_a_delay_is_left_and_taken_again_when_it_is_over(connection: Connection) -> None:
    failing = [True]

    def fail() -> None:
        if failing:
            failing.pop()
            raise ValueError("not yet")

    acts["a"] = fail
    uuid = keep(connection, make, "a", attempts=2, delay_seconds=0.2)
    conductor = Conductor(connection, ALLOWED, max_flows=1, poll_seconds=0.02)
    conductor.run(until_idle=True)
    stored = connection.get_flow_details(uuid)
    assert (stored.state, stored.token) == (states.RUNNING, None) and stored.wake_at is not None
    while state_of(connection, uuid) != states.SUCCESS:
        conductor.run(until_idle=True)


def test_stopping_lets_running_atoms_end_and_leaves_the_flow_to_another(connection: Connection) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert may_end.wait(LIMIT_SECONDS)
        return "waited"

    acts["a"] = wait
    uuid = keep(connection, make, "a", "b")
    engines: list[Any] = []
    conductor = Conductor(connection, ALLOWED, max_flows=1, on_engine=engines.append)
    running = threading.Thread(target=conductor.run)
    running.start()
    assert begun.wait(LIMIT_SECONDS)
    conductor.stop()
    while not engines[0]._leaving:
        running.join(0.001)
    may_end.set()
    running.join(LIMIT_SECONDS)
    stored = connection.get_flow_details(uuid)
    assert (stored.state, stored.token, stored.wake_at) == (states.RUNNING, None, None)
    done = {atom.name: atom.state for atom in stored}
    assert done["a"] == states.SUCCESS and done.get("b", states.PENDING) == states.PENDING
    acts.clear()
    Conductor(connection, ALLOWED).run(until_idle=True)
    assert state_of(connection, uuid) == states.SUCCESS


class _Failing(MemoryConnection):
    """A store that is away for the first claims."""

    away = 3

    def claim(self, **options: Any) -> Any:
        if self.away:
            self.away -= 1
            raise StorageFailure("nobody answers")
        return super().claim(**options)


def test_a_store_that_does_not_answer_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    connection = _Failing()
    uuid = keep(connection, make, "a")
    with caplog.at_level(logging.WARNING):
        Conductor(connection, ALLOWED, poll_seconds=0.001).run(until_idle=True)
    assert state_of(connection, uuid) == states.SUCCESS
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["nobody answers"] * 3


@pytest.mark.parametrize("options", [{"max_flows": 0}, {"max_attempts": 0}, {"poll_seconds": 0}, {"lease_seconds": -1}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Conductor(MemoryConnection(), ALLOWED, **options)
    with pytest.raises(OptionError, match="allowed_prefixes"):
        Conductor(MemoryConnection(), [])


@pytest.mark.parametrize("options, error", [({"engine": "none"}, PluginError), ({"speed": 1}, OptionError)])
def test_an_engine_that_cannot_be_had_ends_the_conductor_and_no_flow(options: Any, error: type[Exception]) -> None:
    connection = MemoryConnection()
    uuid = keep(connection, make, "a")
    with pytest.raises(error):
        Conductor(connection, ALLOWED, **options).run()
    stored = connection.get_flow_details(uuid)
    assert (stored.state, stored.token) == (states.PENDING, None)


def test_engines_are_shown_before_they_run(connection: Connection) -> None:
    seen: list[str] = []

    def watch(engine: Engine) -> None:
        engine.notifier.register(states.SUCCESS, lambda state, details: seen.append(details["flow_uuid"]))

    uuid = keep(connection, make, "a")
    Conductor(connection, ALLOWED, on_engine=watch).run(until_idle=True)
    assert seen == [uuid]


# -- as processes -------------------------------------------------------------------------------------------------

MODULE = """
import os, signal, sys, time
from pluggableflow import task
from pluggableflow.patterns import linear_flow

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def wait():
    print("begun", flush=True)
    sys.stdin.readline()
    return "waited"

def killer():
    return linear_flow.Flow("killer").add(task.FunctorTask(kill))

def waiter():
    return linear_flow.Flow("waiter").add(task.FunctorTask(wait), task.FunctorTask(lambda: 1, name="last"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "made.py").write_text(MODULE)
    return tmp_path


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pluggableflow", "worker", "--connection", "sqlite:///flows.db", *options]
    return subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def command(folder: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pluggableflow", name, "--connection", "sqlite:///flows.db", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_flow_that_kills_its_workers_is_set_aside(folder: Path) -> None:
    connection = api.connect(f"sqlite:///{folder}/flows.db")
    uuid = keep(connection, "made:killer")
    options = ("--allow", "made", "--max-attempts", "2", "--lease-seconds", "0.3", "--until-idle")
    codes = []
    while state_of(connection, uuid) != states.SUSPENDED:
        worker = start(folder, *options)
        _out, said = worker.communicate(timeout=LIMIT_SECONDS)
        if worker.returncode != 0 or uuid in said:  # it was not there too early
            codes.append(worker.returncode)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert "begun 2 times in a row" in connection.get_flow_details(uuid).meta[META_ASIDE]
    shown = command(folder, "show", uuid)
    assert "set aside: it was begun 2 times in a row" in shown.stdout
    (folder / "made.py").write_text(MODULE.replace("os.kill(os.getpid(), signal.SIGKILL)", "pass"))
    refused = command(folder, "resume", uuid)
    assert refused.returncode == 2 and "allow" in refused.stderr
    resumed = command(folder, "resume", uuid, "--allow", "made")
    assert resumed.returncode == 0 and state_of(connection, uuid) == states.SUCCESS, resumed.stderr
    connection.close()


def test_a_worker_that_gets_sigterm_ends_its_task_leaves_its_flow_and_exits_well(folder: Path) -> None:
    connection = api.connect(f"sqlite:///{folder}/flows.db")
    uuid = keep(connection, "made:waiter")
    worker = start(folder, "--allow", "made")
    assert worker.stdout is not None and worker.stdout.readline() == "begun\n"
    os.kill(worker.pid, signal.SIGTERM)
    _out, said = worker.communicate("go on\n", timeout=LIMIT_SECONDS)
    assert worker.returncode == 0 and f"flow {uuid}" in said
    stored = connection.get_flow_details(uuid)
    assert (stored.state, stored.token) == (states.RUNNING, None)
    again = start(folder, "--allow", "made", "--until-idle")
    again.communicate(timeout=LIMIT_SECONDS)
    assert again.returncode == 0 and state_of(connection, uuid) == states.SUCCESS
    connection.close()
