# SPDX-License-Identifier: Apache-2.0
"""Runs the examples of the installed wheel of TaskFlow, unchanged, on pluggableflow_taskflow, and prints a table.

The output of each is compared with the ``.out.txt`` of the wheel, and where there is none, or TaskFlow itself prints
something else by now, with what TaskFlow prints, unless that varies with time or with the order of sets. Names of
examples run only those; ``-v`` prints what differs. Ends with status 1 if one fails that is not listed.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LIMIT_SECONDS = 120
#: Of the order of sets in the runs of TaskFlow whose outputs are compared with each other.
SEEDS = (1, 2, 3)
#: Need ZooKeeper, the worker engine, job boards or conductors; the last two are broken in TaskFlow itself.
OUT_OF_SCOPE = {
    "99_bottles", "jobboard_produce_consume_colors", "tox_conductor",
    "wbe_event_sender", "wbe_mandelbrot", "wbe_simple_linear",
    "alphabet_soup", "hello_world",
}  # fmt: skip
_FILES = "prints the private file system in which TaskFlow keeps what is in memory"
LISTED: dict[str, str] = {
    "dump_memory_backend": _FILES,
    "fake_billing": "prints the lines of a listener, whose text is our own, and the 0 % of a task nobody listens to",
    "parallel_table_multiply": "prints a line for each time that the engine wakes up, which is more often here",
    "persistence_example": "prints all that is stored of a logbook, and a traceback through the engine",
    "resume_from_backend": "prints the state of a flow that never ran, which is PENDING here and was None",
    "simple_map_reduce": "prints the options of an engine, which are all of them here, with their defaults",
    "switch_graph_flow": _FILES,
}
#: What differs between two runs of the same program, and what stands for it.
_VARYING = (
    (re.compile(r"\b[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}\b"), "<UUID>"),
    (re.compile(r"\b0x[0-9a-f]+\b"), "<ADDRESS>"),
    (re.compile(r"\b\d+\.\d+(e-\d+)?\b"), "<NUMBER>"),
    (re.compile(r"/\S*?/tmp\w+"), "<FOLDER>"),
)


class Ran(NamedTuple):
    """How a program ended: its exit status, what it printed and what it complained of."""

    status: int
    output: str
    errors: str


def folder_of_examples() -> Path:
    return Path(str(importlib.metadata.distribution("taskflow").locate_file("taskflow/examples")))


def names_of_examples() -> list[str]:
    found = {path.stem for path in folder_of_examples().glob("*.py")} - {"__init__", "example_utils"}
    return sorted(found - OUT_OF_SCOPE)


def run(name: str, original: bool, seed: int = 0) -> Ran:
    """Run an example in a process and a working directory of its own.

    :param seed: of the order of sets
    """
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONWARNINGS": "ignore"}
    path = [Path(__file__).parent / "startup", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(each).absolute()) for each in path)
    if not original:
        environment["PLUGGABLEFLOW_AS_TASKFLOW"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        environment["TMPDIR"] = folder  # where some keep a store from one run to the next
        try:
            ended = subprocess.run(
                [sys.executable, str(folder_of_examples() / f"{name}.py")],
                cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Ran(-1, "", f"did not end within {LIMIT_SECONDS} seconds")
    return Ran(ended.returncode, ended.stdout, ended.stderr)


def normalised(text: str) -> str:
    """The text without what varies, printed dictionaries sorted by their keys."""
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return re.sub(r"\{([^{}]*)\}", lambda found: f"{{{', '.join(sorted(found[1].split(', ')))}}}", text)


def judge(name: str) -> tuple[str, str]:
    """``same`` as the wheel says or TaskFlow prints, ``runs`` if that varies, or just in its order, or ``failed``.

    :returns: the verdict, and what there is to see if it is ``failed``
    """
    ours = run(name, original=False)
    if ours.status:
        return "failed", f"status {ours.status}\n{ours.output[-2000:]}{ours.errors[-4000:]}"
    printed = normalised(ours.output)
    stated = folder_of_examples() / f"{name}.out.txt"
    if stated.exists() and printed == normalised(stated.read_text()):
        return "same", ""
    theirs = [run(name, original=True, seed=seed) for seed in SEEDS]
    if any(each.status for each in theirs):
        return "failed", f"TaskFlow itself failed:\n{theirs[0].errors[-2000:]}"
    wanted = normalised(theirs[0].output)
    if printed == wanted:
        return "same", ""
    if any(normalised(each.output) != wanted for each in theirs):
        return "runs", ""
    if sorted(printed.splitlines()) == sorted(wanted.splitlines()):  # what runs at the same time, for instance
        return "runs", ""
    difference = difflib.unified_diff(wanted.splitlines(), printed.splitlines(), "wanted", "printed", lineterm="")
    return "failed", "\n".join(difference)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("-v", "--verbose", action="store_true")
    given = parser.parse_args(arguments)
    counts: dict[str, int] = {}
    for name in given.names or names_of_examples():
        verdict, detail = judge(name)
        reason = ""
        if verdict == "failed" and name in LISTED:
            verdict, reason = "listed", LISTED[name]
        counts[verdict] = counts.get(verdict, 0) + 1
        print(f"{name:28} {verdict:8} {reason}".rstrip(), flush=True)
        if detail and given.verbose:
            print(detail)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return 1 if "failed" in counts else 0


if __name__ == "__main__":
    sys.exit(main())
