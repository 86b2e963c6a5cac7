# SPDX-License-Identifier: Apache-2.0
"""The kit for executors has teeth: it passes our executors, and fails each of many faulty copies of them.

``pytest -s`` prints which test caught which fault; ``PLUGGABLEFLOW_LONG=1`` runs the kit from its beginning.
"""

from __future__ import annotations

from typing import Any

import pytest
from backends.mutation_answers import LIMIT_SECONDS, answers_of, assert_caught, source
from backends.mutation_edits import edited
from core.executor_mutations import CONTROL, FAULTS

pytestmark = pytest.mark.timeout(LIMIT_SECONDS)


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return answers_of("core.executor_mutations", request, tmp_path_factory.mktemp("mutations"))


def test_every_fault_fits_the_code_and_has_a_name_of_its_own() -> None:
    for fault in FAULTS:
        compile(edited(source(fault.module), fault.edits), fault.name, "exec")
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) > 30


@pytest.mark.parametrize("name", [control.name for control in CONTROL.values()])
def test_the_kit_passes_a_copy_without_a_fault(answers: dict[str, Any], name: str) -> None:
    answer = answers[name]
    assert (answer["code"], answer["failed"]) == (0, [])
    assert len(answer["passed"]) > 20


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_the_kit_catches_a_fault(answers: dict[str, Any], name: str) -> None:
    assert_caught(answers[name])
