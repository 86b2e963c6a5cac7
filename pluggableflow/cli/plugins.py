# SPDX-License-Identifier: Apache-2.0
"""The sub-command that lists plugins."""

from __future__ import annotations

import json
import sys

import click

from pluggableflow.cli import running
from pluggableflow.cli.command import command
from pluggableflow.loader import CONNECTIONS, ENGINES, EXECUTORS, Plugin, installed


@command.command(name="plugins", short_help="List what is installed, and what cannot be loaded.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text for people.")
def list_plugins(as_json: bool) -> None:
    """List the stores, engines and executors that are installed, the distribution that each comes from, the version of
    the contract it follows, and why one cannot be loaded.

    Exit code 1 if there is such a one.
    """
    found = [plugin for group in (CONNECTIONS, ENGINES, EXECUTORS) for plugin in installed(group)]
    if as_json:
        click.echo(json.dumps([plugin._asdict() for plugin in found]))
    else:
        _print(found)
    sys.exit(running.FAILED if any(plugin.fault for plugin in found) else running.SUCCEEDED)


def _print(found: list[Plugin]) -> None:
    group = ""
    for plugin in found:
        if plugin.group != group:
            group = plugin.group
            click.echo(group)
        state = f"contract {plugin.contract_version}" if plugin.fault is None else f"cannot be loaded: {plugin.fault}"
        click.echo(f"  {plugin.name:<12} {plugin.distribution:<28} {state}")
