# SPDX-License-Identifier: Apache-2.0
"""What the layer for users of TaskFlow adds to what TaskFlow's own tests say of it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pluggableflow_taskflow import engines, exceptions, states, task
from pluggableflow_taskflow.patterns import linear_flow
from pluggableflow_taskflow.persistence import backends
from pluggableflow_taskflow.utils import persistence_utils
from stranger import page

from pluggableflow.exceptions import OptionError

PAGE = page("coming-from-taskflow.md")
PROGRAM, DRAIN = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TESTS = Path(__file__).parents[2] / "plugins" / "taskflow" / "tests"
#: A flow of two tasks, suspended after the first; the same without a factory; and one that has ended.
STORE = """
def make():
    return linear_flow.Flow("flow").add(Greet("one"), Greet("two", provides="again"))

conf = {"connection": "file", "path": "store"}
with backends.backend(conf) as backend:
    engines.load_from_factory(make, store={"name": "me"}, backend=backend).run()
    for load, made in ((engines.load_from_factory, make), (engines.load, make())):
        engine = load(made, store={"name": "me"}, backend=backend)
        engine.atom_notifier.register(states.SUCCESS, lambda state, details: engine.suspend())
        engine.run()
        last = engine.storage.flow_uuid
left = drain(conf)
print(list(left) == [last], "factory" in str(left[last]))
"""


class Answer(task.Task):
    default_provides = "answer"

    def execute(self) -> int:
        return 42


class GreenThreadPoolExecutor(Executor):
    """Called as that of futurist is, which runs its tasks in the thread that waits for them."""

    def submit(self, *_args: Any, **_kwargs: Any) -> Future[Any]:
        raise AssertionError("nothing is submitted")


@pytest.mark.parametrize("kind", [GreenThreadPoolExecutor, ProcessPoolExecutor])
def test_a_pool_that_cannot_run_tasks_is_refused_when_the_engine_is_loaded(kind: Any) -> None:
    with kind() as pool, pytest.raises(OptionError, match=f"must be a pool of threads.*not a {kind.__name__}"):
        engines.load(linear_flow.Flow("flow").add(Answer()), engine="parallel", executor=pool)


@pytest.mark.parametrize("executor", ["thread", "threaded", "threads"])
@pytest.mark.parametrize("engine", ["serial", "parallel", "default"])
def test_options_of_the_parallel_engine_may_be_given_to_either(engine: str, executor: str) -> None:
    flow = linear_flow.Flow("flow").add(Answer())
    assert engines.run(flow, engine=engine, executor=executor, max_workers=2) == {"answer": 42}


def test_every_error_of_the_core_is_one_of_taskflow() -> None:
    with pytest.raises(exceptions.TaskFlowException):
        engines.run(linear_flow.Flow("flow").add(Answer(requires=["question"])))


def test_the_detail_that_was_given_tells_what_came_of_it() -> None:
    with backends.backend({"connection": "memory"}) as backend:
        book, detail = persistence_utils.temporary_flow_detail(backend)
        engines.run(linear_flow.Flow("flow").add(Answer("answer")), flow_detail=detail, backend=backend)
        stored = backend.get_connection().get_flow_details(detail.uuid)
    assert (detail.state, len(detail)) == (states.SUCCESS, 1)
    assert [each.results for each in detail] == [each.results for each in stored] == [42]
    assert detail.parent_uuid == book.uuid


def run(program: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_program_that_imports_taskflow_gets_this_after_two_lines() -> None:
    ended = run(
        "import pluggableflow_taskflow\n"
        "pluggableflow_taskflow.install_as_taskflow()\n"
        "pluggableflow_taskflow.install_as_taskflow()\n"
        "import taskflow.engines\n"
        "from taskflow.patterns import linear_flow\n"
        "import pluggableflow_taskflow.patterns.linear_flow as ours\n"
        "print(linear_flow is ours, taskflow is pluggableflow_taskflow)\n"
        "import taskflow.jobs\n"
    )
    assert ended.stdout == "True True\n"
    assert "No module named 'taskflow.jobs'" in ended.stderr


def test_it_does_not_take_the_place_of_a_taskflow_that_is_imported() -> None:
    ended = run(
        "import sys, types\n"
        "sys.modules['taskflow'] = types.ModuleType('taskflow')\n"
        "import pluggableflow_taskflow\n"
        "pluggableflow_taskflow.install_as_taskflow()\n"
    )
    assert "TaskFlow itself has been imported already (taskflow); call install_as_taskflow() before" in ended.stderr


def test_the_program_of_the_page_runs() -> None:
    assert run(PROGRAM).stdout == "hello you\n"


def test_the_function_of_the_page_drains_a_store_and_returns_what_is_left(tmp_path: Path) -> None:
    program = tmp_path / "program.py"  # for the factory is imported from it
    program.write_text(f"{PROGRAM}{DRAIN}{STORE}")
    ended = run("import program", tmp_path)
    assert (ended.stdout, ended.stderr) == ("hello you\nTrue True\n", "")


def test_the_page_tells_of_every_listed_test_and_of_no_other() -> None:
    listed: dict[str, str] = runpy.run_path(str(TESTS / "listed.py"))["LISTED"]
    assert set(re.findall(r"`(test_\w+)`", PAGE)) == {name.rpartition(".")[2].partition("(")[0] for name in listed}
    assert f"{len(listed)} are listed below" in " ".join(PAGE.split())
    assert len(listed) <= 40


def test_the_page_counts_the_listed_examples() -> None:
    examples: dict[str, str] = runpy.run_path(str(TESTS / "run_taskflow_examples.py"))["LISTED"]
    assert f"{len(examples)} are listed there" in " ".join(PAGE.split())
