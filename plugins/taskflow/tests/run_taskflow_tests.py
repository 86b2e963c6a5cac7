# SPDX-License-Identifier: Apache-2.0
"""Runs the unit tests of the installed wheel of TaskFlow against pluggableflow_taskflow, and prints a table.

``--original`` runs them against TaskFlow itself; names of modules run only those; ``-v`` prints tracebacks. Ends with
status 1 if a test fails that ``listed.py`` does not name, or if one that it names passes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import sys
import unittest
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import databases
import shims
from listed import LISTED

MODULES = (
    "patterns.test_graph_flow", "patterns.test_linear_flow", "patterns.test_unordered_flow",
    "persistence.test_dir_persistence", "persistence.test_memory_persistence", "persistence.test_sql_persistence",
    "test_arguments_passing", "test_check_transition", "test_deciders", "test_engine_helpers", "test_engines",
    "test_exceptions", "test_failure", "test_flow_dependencies", "test_formatters", "test_functor_task",
    "test_listeners", "test_mapfunctor_task", "test_notifier", "test_progress", "test_reducefunctor_task",
    "test_retries", "test_states", "test_storage", "test_suspend", "test_task",
)  # fmt: skip
#: Classes that need eventlet, ZooKeeper or the worker engine, or test private classes.
OUT_OF_SCOPE = re.compile(r"Eventlet|WorkerBased|TestClaimListener|MemoryFilesystemTest|ExcInfoUtilsTest")
COLUMNS = ("passed", "skipped", "listed", "failed")


class _Result(unittest.TestResult):
    """Sorts tests into the columns of the table."""

    def __init__(self, verbose: bool) -> None:
        super().__init__()
        self.verdicts: dict[str, str] = {}
        self._verbose = verbose

    def _put(self, test: unittest.TestCase, verdict: str, detail: object = "") -> None:
        name = test.id().removeprefix("taskflow.tests.unit.")
        if self.verdicts.get(name) == "failed":
            return
        self.verdicts[name] = verdict
        if verdict == "failed" and self._verbose:
            print(f"== {name}\n{detail}")

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._put(test, "passed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._put(test, "skipped")

    def _failed(self, test: unittest.TestCase, err: object = None, details: object = None) -> None:
        text = err if details is None else "\n".join(map(_text, details.values()))  # type: ignore[attr-defined]
        if isinstance(text, tuple):
            text = self._exc_info_to_string(text, test)
        self._put(test, "failed", text)

    addError = addFailure = _failed  # type: ignore[assignment]


def _text(content: object) -> str:
    return str(content.as_text())  # type: ignore[attr-defined]


def _tests(suite: object) -> Iterator[unittest.TestCase]:
    if isinstance(suite, unittest.TestCase):
        yield suite
    else:
        for each in suite:  # type: ignore[attr-defined]
            yield from _tests(each)


def _prepare(original: bool) -> None:
    os.environ.setdefault("TAKSFLOW_TEST_URL", "none://")  # so spelt there; spares a search for servers
    if original:
        shims.install()
    else:
        shims.install_in_place_of_taskflow()
    importlib.import_module("taskflow.test")


def _run(module: str, verbose: bool) -> Counter[str]:
    result = _Result(verbose)
    try:
        suite = unittest.defaultTestLoader.loadTestsFromName(f"taskflow.tests.unit.{module}")
        unittest.TestSuite(each for each in _tests(suite) if not OUT_OF_SCOPE.search(each.id())).run(result)
    except Exception as error:
        print(f"{module} cannot be loaded: {error!r}")
        return Counter(failed=1)
    counts: Counter[str] = Counter()
    for name in LISTED:
        if name.startswith(f"{module}.") and name not in result.verdicts:
            print(f"failed: {name} is listed, and there is no such test")
            counts["failed"] += 1
    for name, verdict in result.verdicts.items():
        if name in LISTED and verdict != "skipped":
            verdict = "listed" if verdict == "failed" else "failed"
        if verdict == "failed":
            print(f"failed: {name}{' (it is listed, and passes)' if name in LISTED else ''}")
        counts[verdict] += 1
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--original", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    given = parser.parse_args(arguments)
    if given.original:
        LISTED.clear()
    modules = given.modules or MODULES
    with databases.running() if "persistence.test_sql_persistence" in modules else contextlib.nullcontext():
        _prepare(given.original)
        counts = {module: _run(module, given.verbose) for module in modules}
    print("\n".join(f"{name} = {reason}" for name, reason in sorted(LISTED.items())))
    print(f"{'module':40}" + "".join(f"{column:>9}" for column in COLUMNS))
    for module, each in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{module:40}" + "".join(f"{each[column]:9}" for column in COLUMNS))
    return 1 if any(each["failed"] for each in counts.values()) else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
