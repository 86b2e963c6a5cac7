# SPDX-License-Identifier: Apache-2.0
"""The kit for connections has teeth: it passes our backends, and fails each of many faulty copies of them.

``pytest -s`` prints which test caught which fault. Normally each fault meets the few tests that it names;
``PLUGGABLEFLOW_LONG=1`` runs the kit from its beginning, until a test fails.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backends.mutation_edits import Edit, edited
from backends.mutations import CONTROL, FAULTS

LONG = os.environ.get("PLUGGABLEFLOW_LONG") == "1"
LIMIT_SECONDS = 3 * 3600 if LONG else 900
TESTS = Path(__file__).parent.parent
#: What an edit raises that does not fit its surroundings. A backend so broken shows nothing about the kit.
BROKEN = ("NameError", "UnboundLocalError", "ImportError", "SyntaxError", "AttributeError", "TypeError")

pytestmark = pytest.mark.timeout(LIMIT_SECONDS)


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the kit said about each copy that a selected test asks for."""
    parameters = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    names = [each.params["name"] for each in parameters if each is not None and "name" in each.params]
    command = [sys.executable, "-m", "backends.mutation_runner", str(tmp_path_factory.mktemp("mutations"))]
    ran = subprocess.run(
        [*command, "whole" if LONG else "selected"],
        input=json.dumps(names),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=True,
    )
    found = {answer["fault"]: answer for answer in json.loads(ran.stdout)}
    print("\n| fault | found by |\n|---|---|")
    for name in names:
        if found[name]["failed"]:
            print(f"| {name} | `{found[name]['failed'][0][0].partition('::')[2]}` |")
    return found


def source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text()


def test_every_fault_fits_the_code_and_has_a_name_of_its_own() -> None:
    for fault in FAULTS:
        compile(edited(source(fault.module), fault.edits), fault.name, "exec")
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) > 200


@pytest.mark.parametrize("old", ["a = 2", "a"])
def test_an_edit_that_does_not_fit_the_code_once_is_an_error(old: str) -> None:
    with pytest.raises(ValueError, match=f"'{old}' stands . times"):
        edited("def one():\n    a = 1\n    return a\n\ndef two():\n    a = 2\n", [Edit("one", old, "")])


@pytest.mark.parametrize("name", [control.name for control in CONTROL.values()])
def test_the_kit_passes_a_copy_without_a_fault(answers: dict[str, Any], name: str) -> None:
    answer = answers[name]
    assert (answer["code"], answer["failed"]) == (0, [])
    assert len(answer["passed"]) > 20


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_the_kit_catches_a_fault(answers: dict[str, Any], name: str) -> None:
    answer = answers[name]
    assert answer["failed"], f"nothing failed; pytest returned {answer['code']}; passed: {answer.get('passed')}"
    _test, error = answer["failed"][0]
    assert not error.startswith(("setup:", "teardown:")), f"no test failed, but {error}"
    assert answer["code"] == 1 and not error.startswith(BROKEN), f"it is only broken: {error}"
