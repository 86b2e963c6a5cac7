# SPDX-License-Identifier: Apache-2.0
"""The command ``pluggableflow``."""

from __future__ import annotations


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    from pluggableflow.cli.commands import command

    command()
