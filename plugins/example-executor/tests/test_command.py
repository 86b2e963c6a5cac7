# SPDX-License-Identifier: Apache-2.0
"""The executor passes the kit of its contract, and starts its workers with the command that it was given."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from pluggableflow_command import CommandExecutor

from pluggableflow import api, task
from pluggableflow.exceptions import PluggableFlowError
from pluggableflow.executor import Executor
from pluggableflow.patterns import linear_flow
from pluggableflow.testing import ExecutorTests


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
