# SPDX-License-Identifier: Apache-2.0
"""The executors of the core: where tasks run, what comes back, and what the death of a worker leads to."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, task
from pluggableflow.exceptions import WorkerDied, WrappedFailure
from pluggableflow.executor import Executor
from pluggableflow.executors.asyncio import AsyncioExecutor
from pluggableflow.executors.processes import ProcessesExecutor, ProcessPool
from pluggableflow.executors.serial import SerialExecutor
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.patterns import linear_flow, unordered_flow
from pluggableflow.testing.executor_tasks import add, always_die, die, explode, make_lock

KINDS = [SerialExecutor, ThreadsExecutor, AsyncioExecutor, ProcessesExecutor]


def run(executor: Executor, *functions: Any, **store: Any) -> dict[str, Any]:
    flow = linear_flow.Flow("f").add(*[task.FunctorTask(each, provides=each.__name__) for each in functions])
    return api.run(None, flow, store=store, engine="parallel", executor=executor)


@pytest.mark.parametrize("kind", KINDS)
def test_an_async_function_is_a_task_under_every_executor(kind: type[Executor]) -> None:
    assert run(kind(), add, a=1, b=2)["add"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_comes_back_with_its_cause(kind: type[Executor]) -> None:
    flow = linear_flow.Flow("f").add(task.FunctorTask(explode))
    loaded = api.load(None, flow, store={"path": "/nowhere"}, engine="parallel", executor=kind())
    with pytest.raises((ValueError, WrappedFailure), match="no such thing"):
        loaded.run()
    (failure,) = loaded.storage.get_execute_failures().values()
    assert failure.causes[0].exc_type_names[0] == "FileNotFoundError"


def test_an_atom_whose_worker_was_killed_runs_again(tmp_path: Path) -> None:
    assert run(ProcessesExecutor(1), die, marker=str(tmp_path / "marker"))["die"] == "survived"


def test_an_atom_that_kills_each_worker_fails_by_name() -> None:
    with pytest.raises(WorkerDied, match="'always_die': the worker died 3 times, at last by signal SIGKILL"):
        run(ProcessesExecutor(1), always_die)


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(WrappedFailure, match=r"'make_lock': the result \(lock\)"):
        run(ProcessesExecutor(1), make_lock)
    with pytest.raises(Exception, match=r"'add': argument 'a' \(function\)"):
        run(ProcessesExecutor(1), add, a=lambda: 1, b=2)


def test_one_pool_of_processes_serves_two_executors_and_is_left_running() -> None:
    pool = ProcessPool(1)
    assert run(ProcessesExecutor(workers=pool), os.getpid) == run(ProcessesExecutor(workers=pool), os.getpid)
    pool.close()


def test_thousands_of_coroutines_are_in_flight_at_once() -> None:
    come, everybody = [], asyncio.Event()

    async def meet() -> None:
        come.append(1)
        if len(come) == 2000:
            everybody.set()
        await everybody.wait()

    flow = unordered_flow.Flow("f").add(*[task.FunctorTask(meet, name=f"t{number}") for number in range(2000)])
    api.run(None, flow, engine="parallel", executor=AsyncioExecutor(2000))
    assert len(come) == 2000


def test_a_given_pool_runs_no_more_at_once_than_the_executor_may() -> None:
    running, most, lock = [0], [0], threading.Lock()

    def step() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        with lock:
            running[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        flow = unordered_flow.Flow("f").add(*[task.FunctorTask(step, name=f"t{number}") for number in range(50)])
        api.run(None, flow, engine="parallel", executor=ThreadsExecutor(1, pool=pool))
    assert most == [1]


def test_workers_die_with_their_engine(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from pluggableflow import api, task\n"
        "from pluggableflow.patterns import linear_flow\n"
        "def step():\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    flow = linear_flow.Flow('f').add(task.FunctorTask(step))\n"
        "    api.run(None, flow, engine='parallel', executor='processes', max_workers=1)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        death = os.pidfd_open(int(engine.stdout.readline()))
        engine.kill()
    select.select([death], [], [])
    os.close(death)
