# SPDX-License-Identifier: Apache-2.0
"""What cancelling does to tasks that are running: in this thread, in others, in processes, on an event loop."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import stoppable
from stoppable import Deaf, DeafCoroutine, DeafThread, Refusing, Waiting

from pluggableflow import api, states, task
from pluggableflow.connection import CANCEL, CANCEL_AND_REVERT
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import Cancelled
from pluggableflow.executor import Executor
from pluggableflow.executors.asyncio import AsyncioExecutor
from pluggableflow.executors.processes import ProcessesExecutor
from pluggableflow.executors.serial import SerialExecutor
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.patterns import linear_flow, unordered_flow

KINDS = [SerialExecutor, ThreadsExecutor, AsyncioExecutor, ProcessesExecutor]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets deaf threads end, at the latest when the test does."""
    made = threading.Event()
    stoppable.RELEASE.append(made)
    yield made
    made.set()
    for thread in threading.enumerate():
        if thread.name.startswith("pluggableflow_"):
            thread.join()


def cancelled_by_itself(executor: Executor, kind: str, *tasks: Waiting, **options: Any) -> Engine:
    """An engine that was run to its end; the flow was cancelled, as if from elsewhere, once a task had begun."""
    connection = MemoryConnection()

    def begun(_event: str, details: dict[str, Any]) -> None:
        if details["progress"] == 0.5:
            connection.request(loaded.storage.flow_uuid, kind, "somebody")

    tasks[0].notifier.register(task.EVENT_UPDATE_PROGRESS, begun)
    flow = linear_flow.Flow("f").add(unordered_flow.Flow("g").add(*tasks), task.FunctorTask(os.getpid, name="last"))
    loaded = api.load(connection, flow, engine="parallel", executor=executor, lease_seconds=0.3, **options)
    with pytest.raises(Cancelled, match="somebody asked for it"):
        loaded.run()
    assert loaded.storage.get_flow_state() == states.CANCELLED
    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_task_is_told_and_what_it_returns_is_kept(kind: type[Executor]) -> None:
    loaded = cancelled_by_itself(kind(), CANCEL, Waiting("a"))
    assert loaded.storage.get("a") == "told"


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_task_is_told_before_everything_is_reverted(kind: type[Executor]) -> None:
    loaded = cancelled_by_itself(kind(), CANCEL_AND_REVERT, Waiting("a"))
    assert loaded.storage.get_revert_result("a") == "'told'"


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_fails_when_it_is_told_keeps_its_own_failure(kind: type[Executor]) -> None:
    loaded = cancelled_by_itself(kind(), CANCEL, Refusing("a"))
    assert loaded.storage.get_atom_state("a") == states.FAILURE
    assert "InterruptedError: told to end" in str(loaded.storage.get_execute_failure("a"))


@pytest.mark.parametrize("kind", [SerialExecutor, ThreadsExecutor, ProcessesExecutor])
def test_what_waits_for_a_worker_when_its_flow_is_cancelled_is_not_begun(kind: Any) -> None:
    executor = SerialExecutor() if kind is SerialExecutor else kind(1)
    first, second = Waiting("a"), Waiting("b")
    loaded = cancelled_by_itself(executor, CANCEL, first, second, prefetch=1)
    assert loaded.storage.get_atoms_states(["a", "b"]) == {
        "a": (states.SUCCESS, states.EXECUTE),
        "b": (states.PENDING, states.EXECUTE),
    }


@pytest.mark.parametrize(("executor", "kind"), [(ProcessesExecutor, Deaf), (AsyncioExecutor, DeafCoroutine)])
def test_what_does_not_listen_is_ended_where_that_can_be_done(executor: type[Executor], kind: type[Waiting]) -> None:
    loaded = cancelled_by_itself(executor(), CANCEL_AND_REVERT, kind("a"), grace_seconds=0)
    assert "atom 'a' was cancelled: somebody asked for it" in loaded.storage.get_revert_result("a")


# -- threads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [ThreadsExecutor, AsyncioExecutor])
def test_a_thread_that_does_not_listen_is_given_up_and_nobody_waits_for_it(
    executor: type[Executor], release: threading.Event
) -> None:
    loaded = cancelled_by_itself(executor(), CANCEL, DeafThread("a"), grace_seconds=0)
    assert not release.is_set() and loaded.storage.get_atom_state("a") == states.FAILURE


def test_a_thread_of_a_given_pool_is_given_up_too(release: threading.Event) -> None:
    with ThreadPoolExecutor(1) as pool:
        loaded = cancelled_by_itself(ThreadsExecutor(pool=pool), CANCEL, DeafThread("a"), grace_seconds=0)
        assert not release.is_set() and loaded.storage.get_atom_state("a") == states.FAILURE
        release.set()


def test_what_was_given_up_is_reverted_only_when_its_thread_has_ended(release: threading.Event) -> None:
    seen = []

    class Watched(DeafThread):
        def execute(self) -> str:
            super().execute()
            seen.append("ended")
            return "too late"

        def revert(self, result: Any) -> Any:
            seen.append("reverted")
            return super().revert(result)

    class Free(Waiting):
        def revert(self, result: Any) -> None:
            release.set()

    loaded = cancelled_by_itself(ThreadsExecutor(), CANCEL_AND_REVERT, Watched("a"), Free("b"), grace_seconds=0)
    assert seen == ["ended", "reverted"]
    assert "Cancelled" in loaded.storage.get_revert_result("a")


def test_an_interruptible_task_is_reverted_while_its_thread_still_runs(release: threading.Event) -> None:
    class Interruptible(DeafThread):
        interruptible = True

        def revert(self, result: Any) -> bool:
            return self.cancelled.is_set()

    loaded = cancelled_by_itself(ThreadsExecutor(), CANCEL_AND_REVERT, Interruptible("a"), grace_seconds=0)
    assert not release.is_set()
    assert loaded.storage.get_revert_result("a") is False


def test_what_was_given_up_is_not_run_again_by_a_later_run_before_its_thread_has_ended(
    release: threading.Event,
) -> None:
    running: list[str] = []

    class Alone(DeafThread):
        def execute(self) -> str:
            assert not running
            running.append("a")
            try:
                return super().execute()
            finally:
                running.clear()

    loaded = cancelled_by_itself(ThreadsExecutor(), CANCEL, Alone("a"), grace_seconds=0)
    assert running == ["a"]
    loaded.reset()
    states_seen = loaded.run_iter()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(list, states_seen)
        release.set()
        assert ended.result(60)[-1] == states.SUCCESS


def test_a_run_that_waits_for_a_given_up_thread_can_be_suspended(release: threading.Event) -> None:
    loaded = cancelled_by_itself(ThreadsExecutor(), CANCEL, DeafThread("a"), grace_seconds=0)
    loaded.reset()
    loaded.suspend()
    loaded.run()
    assert loaded.storage.get_flow_state() == states.SUSPENDED


def test_a_lost_lease_is_told_to_running_tasks() -> None:
    connection = MemoryConnection()

    def begun(_event: str, details: dict[str, Any]) -> None:
        if details["progress"] == 0.5:
            held = connection.get_flow_details(loaded.storage.flow_uuid)
            connection.claim(
                token="theirs", owner="they", lease_seconds=60, flow_uuid=held.uuid, evict_epoch=held.epoch
            )

    waiting = Waiting("a")
    waiting.notifier.register(task.EVENT_UPDATE_PROGRESS, begun)
    flow = linear_flow.Flow("f").add(waiting)
    loaded = api.load(connection, flow, engine="parallel", lease_seconds=0.3)
    with pytest.raises(Exception, match="lease on flow .* was lost"):
        loaded.run()
