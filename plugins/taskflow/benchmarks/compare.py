# SPDX-License-Identifier: Apache-2.0
"""Runs ``program.py`` on TaskFlow and on this package, each in processes of its own, and prints the ratios.

The processes take turns, so that what else the machine does meets both. Of each case the best round counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).absolute().parent
STARTUP = HERE.parent / "tests" / "startup"


def run(original: bool, rounds: int, folder: str) -> dict[str, float]:
    """The best time of each case in one process, in seconds."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    path = [STARTUP, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(each).absolute()) for each in path)
    if not original:
        environment["PLUGGABLEFLOW_AS_TASKFLOW"] = "1"
    program = [sys.executable, str(HERE / "program.py"), str(rounds)]
    ended = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"the program failed:\n{ended.stderr}")
    return {case: min(times) for case, times in json.loads(ended.stdout).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each case in each process")
    parser.add_argument("--turns", type=int, default=3, help="processes of each package")
    given = parser.parse_args()
    best: dict[bool, dict[str, float]] = {True: {}, False: {}}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.turns):
            for original, times in best.items():
                for case, seconds in run(original, given.rounds, folder).items():
                    times[case] = min(seconds, times.get(case, seconds))
    print(f"{'100 tasks':22}{'TaskFlow':>12}{'this':>12}{'ratio':>8}")
    for case, seconds in best[True].items():
        ours = best[False][case]
        print(f"{case:22}{seconds * 1000:9.1f} ms{ours * 1000:9.1f} ms{seconds / ours:8.0f}")


if __name__ == "__main__":
    main()
