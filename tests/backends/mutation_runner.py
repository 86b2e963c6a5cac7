# SPDX-License-Identifier: Apache-2.0
"""Runs a kit against faulty copies of our plugins, each in a process of its own.

A module names the faults, and the tests that certify what is faulty: ``backends.mutations`` is one.

This one imports all that the copies share, and forks for each fault. The copy is made in memory, when the child imports
the plugin; the files stay as they are, and the tests are those of the plugin itself.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from backends.mutation_edits import Edit, Fault, edited

ROOT = Path(__file__).parent.parent.parent
#: After this a test counts as hung, which is a failure of it.
TEST_SECONDS = 30


class _Loader(importlib.machinery.SourceFileLoader):
    edits: Sequence[Edit] = ()

    def get_code(self, fullname: str) -> CodeType:
        # The cached code is not read and none is written.
        text = edited(self.get_data(self.path).decode(), self.edits)
        text = text.replace(
            "import annotations\n", "import annotations\n\nfrom backends.mutation_edits import meet\n", 1
        )
        return compile(text, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._fault.module:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(each for each in found if each is not None)
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin)
        spec.loader.edits = self._fault.edits
        return spec


class _Recorder:
    """Notes which tests ran, and how those failed that did.

    :param answer: file for what was noted when the first test has failed, which then ends the process: what a fault
        has hung would hang the fixtures too
    """

    def __init__(self, answer: Path | None) -> None:
        self.passed: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self._answer = answer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[2]
        if report.failed:
            crash: Any = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash is not None else str(report.longrepr)
            self.failed.append((name, text if report.when == "call" else f"{report.when}: {text}"))
            if self._answer is not None and report.when == "call":
                self._answer.write_text(json.dumps(self.so_far(1)))
                os._exit(0)
        elif report.passed and report.when == "call":
            self.passed.append(name)

    def so_far(self, code: int) -> dict[str, Any]:
        return {"code": code, "passed": self.passed, "failed": self.failed}


def run_kit(fault: Fault, tests: str, folder: Path, selection: str) -> dict[str, Any]:
    """In a child: the kit on a plugin with a fault."""
    recorder = _Recorder(folder / "answer.json" if fault.edits else None)
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "pytest_timeout", f"-otimeout={TEST_SECONDS}"]
    options += [f"--basetemp={folder / 'kit'}", f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}"]
    if selection:
        options += ["-k", selection]
    if fault.edits:
        sys.meta_path.insert(0, _Finder(fault))
        options.append("-x")
    code = pytest.main([*options, str(ROOT / "tests" / tests)], plugins=[recorder])
    return recorder.so_far(int(code))


class _Child:
    """A process that tries one fault."""

    def __init__(self, fault: Fault, tests: str, folder: Path, selection: str) -> None:
        self.fault, self._answer = fault, folder / "answer.json"
        self._since = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()  # so that its children can be killed with it
                report = os.open(folder / "report.txt", os.O_WRONLY | os.O_CREAT)
                os.dup2(report, 1)
                os.dup2(report, 2)
                answer = run_kit(fault, tests, folder, selection)
                self._answer.write_text(json.dumps(answer))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)  # threads that a fault has hung must not keep it alive

    def answer(self) -> dict[str, Any]:
        """What it found, now that it has ended; its own children may still be there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        answer = json.loads(self._answer.read_text()) if self._answer.exists() else {"code": -1, "failed": []}
        return {"fault": self.fault.name, "seconds": time.monotonic() - self._since, **answer}


def run(module: Any, names: Sequence[str], folder: Path, whole: bool) -> list[dict[str, Any]]:
    """Try the faults of these names, as many at once as there are processors."""
    every = {fault.name: fault for fault in (*module.CONTROL.values(), *module.FAULTS)}
    waiting, answers = [every[name] for name in names], []
    running: dict[int, _Child] = {}
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            fault = waiting.pop(0)
            place = folder / str(len(waiting))
            place.mkdir()
            child = _Child(fault, module.TESTS[fault.store], place, "" if whole else fault.tests)
            running[child.pid] = child
        pid, _status = os.wait()
        answers.append(running.pop(pid).answer())
    return answers


def main() -> None:
    names, folder, whole = json.load(sys.stdin), Path(sys.argv[1]), sys.argv[2] == "whole"
    module = importlib.import_module(sys.argv[3])
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # to look for them takes longer than most tests here
    os.environ.pop("PYTEST_ADDOPTS", None)
    for name in module.SHARED:
        importlib.import_module(name)
    loaded = [name for name in sys.modules if name.startswith(module.FAULTY)]
    assert not loaded, f"{loaded} are imported already and cannot be made faulty"
    json.dump(run(module, names, folder, whole), sys.stdout)


if __name__ == "__main__":
    main()
