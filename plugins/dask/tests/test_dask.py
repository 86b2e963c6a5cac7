# SPDX-License-Identifier: Apache-2.0
"""The executor on a real cluster: the kit of its contract, given clients and addresses, and workers that are killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Client
from pluggableflow_dask import DaskExecutor

from pluggableflow import api, config, retry, task
from pluggableflow.exceptions import OptionError, WorkerDied, WrappedFailure
from pluggableflow.executor import Executor
from pluggableflow.patterns import linear_flow
from pluggableflow.testing import ExecutorTests
from pluggableflow.testing.executor_kit import Run
from pluggableflow.testing.executor_tasks import LIMIT_SECONDS, add, always_die, die, echo, hold

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address, set_as_default=False) as made:
        made.wait_for_workers(4)
        yield made


class TestDask(ExecutorTests):
    ends = ()

    @pytest.fixture
    def executor(self, client: Client) -> Callable[[int], Executor]:
        client.wait_for_workers(4)
        return lambda workers: DaskExecutor(workers, client=client)


def test_by_name_it_uses_the_address_of_the_configuration(address: str, client: Client) -> None:
    import dask

    flow = linear_flow.Flow("f").add(task.FunctorTask(add, provides="sum"))
    with dask.config.set({"scheduler-address": address}):
        assert api.run(None, flow, store={"a": 1, "b": 2}, engine="parallel", executor="dask")["sum"] == 3


def test_without_a_cluster_it_says_how_to_name_one() -> None:
    with pytest.raises(OptionError, match="DASK_SCHEDULER_ADDRESS"):
        DaskExecutor()


def test_it_has_as_many_workers_as_the_cluster_has_threads(client: Client) -> None:
    executor = DaskExecutor(client=client)
    executor.start(lambda _outcome: None)
    executor.stop()
    assert executor.max_workers == sum(client.nthreads().values()) and client.status == "running"


def test_an_atom_whose_worker_was_killed_runs_again(client: Client, tmp_path: Path) -> None:
    flow = linear_flow.Flow("f").add(task.FunctorTask(die, provides="how"))
    done = api.run(
        None, flow, store={"marker": str(tmp_path / "m")}, engine="parallel", executor=DaskExecutor(client=client)
    )
    assert done["how"] == "survived"


def test_what_kills_each_worker_fails_and_a_retry_of_the_engine_decides(client: Client, tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    doomed = task.FunctorTask(always_die, inject={"path": str(deaths)})
    flow = linear_flow.Flow("f", retry.Times(2)).add(doomed)
    with pytest.raises((WorkerDied, WrappedFailure), match="'always_die': the worker died 3 times"):
        api.run(None, flow, engine="parallel", executor=DaskExecutor(client=client))
    assert deaths.read_text() == "died\n" * 6


def test_work_that_does_not_listen_is_given_up_and_makes_room(client: Client, tmp_path: Path) -> None:
    client.wait_for_workers(4)
    run, ended = Run(DaskExecutor(1, client=client)), threading.Event()
    run.hold(hold, tmp_path)
    assert not run.executor.end(0, ended.set)
    run.submit(1, echo, value=2)
    assert run.take(1)[1].value == 2 and not ended.is_set()
    (tmp_path / "release").touch()
    assert ended.wait(LIMIT_SECONDS)
    run.executor.stop()
    assert run.outcomes.empty()


def test_an_ini_file_names_the_cluster_and_each_engine_gets_an_executor_of_its_own(
    address: str, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "flows.conf"
    file.write_text(
        f"[pluggableflow]\nengine = parallel\nexecutor = dask\nmax_workers = 2\n"
        f"[pluggableflow_dask]\naddress = {address}\n"
    )
    options = config.engine_options(config.read([str(file)]))
    flow = linear_flow.Flow("f").add(task.FunctorTask(add, provides="sum"))
    for b in (2, 3):
        assert api.run(None, flow, store={"a": 1, "b": b}, **options)["sum"] == 1 + b
