# SPDX-License-Identifier: Apache-2.0
"""The engine type for event loops: it awaits tasks on the caller's loop and never blocks it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, states, task
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.engines.asyncio import AsyncioActionEngine
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow

LIMIT_SECONDS = 60.0


def load(connection: Any, *tasks: task.BaseTask, **options: Any) -> AsyncioActionEngine:
    flow = linear_flow.Flow("f").add(*tasks)
    engine = api.load(connection, flow, engine="asyncio", **options)
    assert isinstance(engine, AsyncioActionEngine)
    return engine


async def one() -> int:
    return 1


def test_thousands_of_tasks_are_in_flight_on_the_callers_loop() -> None:
    count = 2000
    there: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        all_there = asyncio.Event()

        async def wait() -> None:
            there.append(asyncio.get_running_loop())
            if len(there) == count:
                all_there.set()
            await asyncio.wait_for(all_there.wait(), LIMIT_SECONDS)

        flow = unordered_flow.Flow("f").add(*[task.FunctorTask(wait, name=f"t{n}") for n in range(count)])
        await api.load(None, flow, engine="asyncio", max_workers=count).run()
        assert set(there) == {asyncio.get_running_loop()}

    asyncio.run(main())
    assert len(there) == count


class _Held(MemoryConnection):
    """A store whose commits last until the loop has done something else."""

    loop: asyncio.AbstractEventLoop
    commits = 0

    def commit(self, *args: Any, **kwargs: Any) -> int:
        turned = threading.Event()
        self.loop.call_soon_threadsafe(turned.set)
        assert turned.wait(LIMIT_SECONDS), "the loop is blocked by the store"
        self.commits += 1
        return super().commit(*args, **kwargs)


def test_the_loop_goes_on_while_the_store_works() -> None:
    connection = _Held()

    async def main() -> dict[str, Any]:
        connection.loop = asyncio.get_running_loop()
        engine = load(connection, task.FunctorTask(one, provides="x"))
        await engine.run()
        return engine.storage.fetch_all()

    assert asyncio.run(main()) == {"x": 1} and connection.commits >= 2


def test_a_task_that_is_not_async_runs_in_a_thread_beside_the_loop() -> None:
    async def main() -> tuple[int, Any]:
        engine = load(None, task.FunctorTask(lambda: threading.get_ident(), name="plain", provides="thread"))
        await engine.run()
        return threading.get_ident(), engine.storage.fetch("thread")

    loops, tasks = asyncio.run(main())
    assert loops != tasks


class _Undone(task.Task):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    async def execute(self) -> None:
        self._seen.append("execute")

    async def revert(self, **kwargs: Any) -> None:
        self._seen.append("revert")


async def boom() -> None:
    raise LookupError("boom")


def test_a_failure_is_raised_as_itself_after_the_flow_is_reverted() -> None:
    seen: list[str] = []
    engine = load(MemoryConnection(), _Undone(seen), task.FunctorTask(boom))
    with pytest.raises(LookupError, match="boom"):
        asyncio.run(engine.run())
    assert seen == ["execute", "revert"] and engine.storage.get_flow_state() == states.REVERTED


def test_a_cancelled_run_ends_what_runs_suspends_the_flow_and_goes_on_later() -> None:
    connection = MemoryConnection()
    begun, seen = threading.Event(), []

    async def main() -> str:
        may_end = asyncio.Event()

        async def slow() -> int:
            begun.set()
            await asyncio.wait_for(may_end.wait(), LIMIT_SECONDS)
            seen.append("slow")
            return 1

        async def after(x: int) -> int:
            seen.append("after")
            return x + 1

        engine = load(connection, task.FunctorTask(slow, provides="x"), task.FunctorTask(after, provides="y"))
        running = asyncio.ensure_future(engine.run())
        await asyncio.to_thread(begun.wait, LIMIT_SECONDS)
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()  # impatience changes nothing
        assert not running.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        (stored,) = connection.find_flows()
        assert (stored.state, stored.lease_expires_at) == (states.SUSPENDED, None)
        assert seen == ["slow"]
        await engine.run()
        return engine.storage.get_flow_state()

    assert asyncio.run(main()) == states.SUCCESS and seen == ["slow", "after"]


def test_the_states_of_a_run_can_be_iterated_and_closing_suspends() -> None:
    async def main() -> tuple[list[str], list[str]]:
        tasks = [task.FunctorTask(one, name=name) for name in "abc"]
        engine = load(MemoryConnection(), *tasks)
        states_of_run = engine.run_iter()
        first = [await anext(states_of_run), engine.storage.get_flow_state()]
        await states_of_run.aclose()  # type: ignore[attr-defined]
        first.append(engine.storage.get_flow_state())
        return first, [state async for state in engine.run_iter()]

    first, rest = asyncio.run(main())
    assert first == [states.RUNNING, states.RUNNING, states.SUSPENDED]
    assert rest[-1] == states.SUCCESS


def test_many_flows_share_one_loop_and_one_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"

    async def main() -> list[dict[str, Any]]:
        connection = await asyncio.to_thread(api.connect, url)

        async def run(number: int) -> dict[str, Any]:
            async def double(n: int) -> int:
                await asyncio.sleep(0)
                return 2 * n

            flow = graph_flow.Flow(f"flow{number}").add(task.FunctorTask(double, provides="doubled"))
            engine = await asyncio.to_thread(api.load, connection, flow, store={"n": number}, engine="asyncio")
            await engine.run()
            return engine.storage.fetch_all()

        found = await asyncio.gather(*[run(number) for number in range(8)])
        await asyncio.to_thread(connection.close)
        return found

    assert [each["doubled"] for each in asyncio.run(main())] == [2 * number for number in range(8)]


def test_a_blocking_call_runs_it_to_its_end_even_where_a_loop_runs() -> None:
    flow = linear_flow.Flow("f").add(task.FunctorTask(one, provides="x"))
    assert api.run(None, flow, engine="asyncio") == {"x": 1}

    async def main() -> dict[str, Any]:
        return api.run(None, flow, engine="asyncio")

    assert asyncio.run(main()) == {"x": 1}


def test_the_command_runs_a_flow_by_the_name_of_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "hello.py"
    file.write_text(
        "from pluggableflow import task\nfrom pluggableflow.patterns import linear_flow\n"
        "async def hello():\n    return 'hello'\n"
        "def create_flow():\n    return linear_flow.Flow('f').add(task.FunctorTask(hello, provides='x'))\n"
    )
    url = f"sqlite:///{tmp_path}/flows.db"
    command = [sys.executable, "-m", "pluggableflow", "run", str(file), "--connection", url, "--json", "--engine"]
    done = subprocess.run([*command, "asyncio"], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["results"] == {"x": "hello"}, done.stderr
    done = subprocess.run([*command, "asynchro"], capture_output=True, text=True)
    assert done.returncode == 2 and "asynchro" in done.stderr and "asyncio, parallel, serial" in done.stderr
    with closing(api.connect(url)) as connection:
        assert len(connection.find_flows()) == 1
