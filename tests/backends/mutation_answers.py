# SPDX-License-Identifier: Apache-2.0
"""What a kit says about faulty copies, and what must hold of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LONG = os.environ.get("PLUGGABLEFLOW_LONG") == "1"
LIMIT_SECONDS = 3 * 3600 if LONG else 900
TESTS = Path(__file__).parent.parent
#: What an edit raises that does not fit its surroundings. A plugin so broken shows nothing about the kit.
BROKEN = ("NameError", "UnboundLocalError", "ImportError", "SyntaxError", "AttributeError", "TypeError")


def answers_of(module: str, request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    """What the kit said about each copy that a selected test asks for; ``module`` names the faults."""
    parameters = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    names = [each.params["name"] for each in parameters if each is not None and "name" in each.params]
    command = [sys.executable, "-m", "backends.mutation_runner", str(folder)]
    ran = subprocess.run(
        [*command, "whole" if LONG else "selected", module],
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


def assert_caught(answer: dict[str, Any]) -> None:
    """A test has failed, and not because the copy is only broken."""
    assert answer["failed"], f"nothing failed; pytest returned {answer['code']}; passed: {answer.get('passed')}"
    _test, error = answer["failed"][0]
    assert not error.startswith(("setup:", "teardown:")), f"no test failed, but {error}"
    assert answer["code"] == 1 and not error.startswith(BROKEN), f"it is only broken: {error}"
