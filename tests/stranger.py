# SPDX-License-Identifier: Apache-2.0
"""Follows a page for authors of plugins as a stranger would: its files, a folder of their own, and pip."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def page(name: str) -> str:
    return (Path(__file__).parents[1] / "docs" / name).read_text()


def files_of(text: str) -> dict[str, str]:
    """The files that a page shows whole, by name."""
    return dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


def install(files: Mapping[str, str], folder: Path, target: Path) -> None:
    """Write the files into a folder, and install their distribution into another."""
    for name, text in files.items():
        (folder / name).write_text(text)
    pip_install(folder, target, ".")
    shutil.rmtree(folder / "build", ignore_errors=True)


def pip_install(folder: Path, target: Path, what: str) -> None:
    """Install a distribution from a place in the stranger's folder."""
    done = run(folder, target, "-m", "pip", "install", "--no-deps", *_isolation(), "--target", str(target), what)
    assert done.returncode == 0, done.stdout + done.stderr


def run(folder: Path, target: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the stranger's folder, with what was installed there."""
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = (sys.executable, *command)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def _isolation() -> list[str]:
    """Spares pip the download of setuptools where an installed one makes wheels, as it does by itself from 70.1 on."""
    installed = {each.name.lower(): each.version for each in importlib.metadata.distributions() if each.name}
    version = [int(part) for part in installed.get("setuptools", "0").split(".")[:2]]
    able = version >= [70, 1] or (version >= [64] and "wheel" in installed)
    return ["--no-build-isolation"] if able else []
