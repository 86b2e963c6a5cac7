# SPDX-License-Identifier: Apache-2.0
"""The executor passes the kit of its contract, and starts its workers with the command that it was given."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pluggableflow_command import CommandExecutor

from pluggableflow import api, task
from pluggableflow.exceptions import PluggableFlowError
from pluggableflow.executor import Executor
from pluggableflow.patterns import linear_flow
from pluggableflow.testing import ExecutorTests
from pluggableflow.testing.executor_kit import Run
from pluggableflow.testing.executor_tasks import hold, wait_until


class TestCommand(ExecutorTests):
    @pytest.fixture
    def executor(self) -> Callable[[int], Executor]:
        return CommandExecutor


def value_of_step(executor: Executor | str) -> str:
    flow = linear_flow.Flow("f").add(task.FunctorTask(os.getenv, name="env", inject={"key": "STEP"}, provides="step"))
    found: str = api.run(None, flow, engine="parallel", executor=executor)["step"]
    return found


def test_the_command_stands_before_that_of_a_worker() -> None:
    assert value_of_step(CommandExecutor(1, command=["env", "STEP=given"])) == "given"


def test_the_environment_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUGGABLEFLOW_COMMAND", "env 'STEP=of two words'")
    assert value_of_step("command") == "of two words"


def test_a_command_that_is_not_there_fails_the_atom() -> None:
    with pytest.raises((OSError, PluggableFlowError), match="no-such-command"):
        value_of_step(CommandExecutor(1, command=["no-such-command"]))


def test_work_that_does_not_listen_is_ended(tmp_path: Path) -> None:
    run = Run(CommandExecutor(1))
    run.hold(hold, tmp_path)
    assert run.executor.end(0, lambda: None)
    failure = run.take(1)[0].failure
    assert failure is not None and "NotRun" in failure.exc_type_names[0]
    run.executor.stop()


def test_workers_die_with_their_engine(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(
        "import os, time\ndef step():\n    open('pid.new', 'w').write(str(os.getpid()))\n"
        "    os.rename('pid.new', 'pid')\n    time.sleep(600)\n"
    )
    (tmp_path / "script.py").write_text(
        "import steps\nfrom pluggableflow_command import CommandExecutor\n"
        "from pluggableflow import api, task\nfrom pluggableflow.patterns import linear_flow\n"
        "flow = linear_flow.Flow('f').add(task.FunctorTask(steps.step))\n"
        "api.run(None, flow, engine='parallel', executor=CommandExecutor(1))\n"
    )
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path) as engine:
        wait_until((tmp_path / "pid").exists)
        death = os.pidfd_open(int((tmp_path / "pid").read_text()))
        engine.kill()
    select.select([death], [], [])
    os.close(death)
