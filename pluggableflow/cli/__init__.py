# SPDX-License-Identifier: Apache-2.0
"""The command ``pluggableflow``."""

from __future__ import annotations


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    from pluggableflow.cli import commands, maintenance, plugins, worker
    from pluggableflow.cli.command import command

    assert commands and maintenance and plugins and worker, "their import adds them to the command"
    command()
