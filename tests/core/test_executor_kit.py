# SPDX-License-Identifier: Apache-2.0
"""The executors of the core pass the kit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pluggableflow.executor import Executor
from pluggableflow.executors.asyncio import AsyncioExecutor
from pluggableflow.executors.processes import ProcessesExecutor
from pluggableflow.executors.serial import SerialExecutor
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.testing import ExecutorTests


class TestSerial(ExecutorTests):
    killable = False
    immediate = True

    @pytest.fixture
    def executor(self) -> Callable[[int], Executor]:
        return lambda workers: SerialExecutor()


class TestThreads(ExecutorTests):
    killable = False
    ends = ()

    @pytest.fixture
    def executor(self) -> Callable[[int], Executor]:
        return ThreadsExecutor


class TestGivenThreads(ExecutorTests):
    killable = False
    ends = ()

    @pytest.fixture
    def executor(self) -> Iterator[Callable[[int], Executor]]:
        with ThreadPoolExecutor(8) as pool:
            together = threading.Barrier(8)
            list(pool.map(lambda _: together.wait(), range(8)))  # it makes all its threads now
            yield lambda workers: ThreadsExecutor(workers, pool=pool)


class TestAsyncio(ExecutorTests):
    killable = False
    ends = ("coroutine",)

    @pytest.fixture
    def executor(self) -> Callable[[int], Executor]:
        return AsyncioExecutor


class TestProcesses(ExecutorTests):
    @pytest.fixture
    def executor(self) -> Callable[[int], Executor]:
        return ProcessesExecutor
