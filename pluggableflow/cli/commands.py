# SPDX-License-Identifier: Apache-2.0
"""Sub-commands that run flows and show them."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from contextlib import closing
from datetime import timedelta
from typing import Any

import click

from pluggableflow import api, states
from pluggableflow.cli import inspection, running
from pluggableflow.cli.age import age
from pluggableflow.cli.command import (
    DEFAULT_CONNECTION,
    command,
    common,
    config_files,
    engine_options,
    existing,
    find,
    flows,
    is_default,
    shown,
)
from pluggableflow.cli.flow_file import FlowFile, sha256_of
from pluggableflow.exceptions import FlowFileError
from pluggableflow.loader import connection_for
from pluggableflow.middleware import FlowDetail, LogBook

_engine_option = click.option(
    "--engine",
    metavar="TYPE",
    default="serial",
    show_default=True,
    help="serial: one task after the other; parallel: independent tasks at the same time, in threads; asyncio: async"
    " tasks on an event loop; or another type that is installed (pluggableflow plugins lists them).",
)


@command.command(short_help="Make the flow of a file, store it, and run it.")
@click.argument("file", type=click.Path())
@click.option(
    "-p",
    "--param",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of create_flow; VALUE is JSON if it can be read as such, otherwise text. May be repeated.",
)
@_engine_option
@common
def run(file: str, pairs: tuple[str, ...], url: str, engine: str, as_json: bool) -> int:
    """Make the flow of FILE, store it, and run it.

    FILE is a Python file that defines create_flow(**params) -> Flow. If it also defines report(results) -> str, that
    text is printed when the flow has succeeded.

    Ctrl-C lets running tasks end and suspends the flow, a second Ctrl-C stops at once; in both cases, as after a
    crash, `pluggableflow resume` goes on with it.
    """
    flow_file = FlowFile(file)
    parameters = flow_file.parameters(pairs)
    flow = flow_file.create_flow(parameters)
    detail = FlowDetail(flow.name)
    detail.factory = {"file": flow_file.path, "sha256": flow_file.sha256, "params": parameters}
    with closing(api.connect(url)) as connection:
        loaded = api.load(connection, flow, detail, **engine_options(engine))
        loaded.compile()
        loaded.validate()
        book = LogBook(flow.name)
        book.add(detail)
        connection.save_logbook(book)
        _announce(detail, url, as_json)
        return running.carry_out(loaded, flow_file, _resume_command(detail.uuid, url), as_json)


@command.command(short_help="Go on with a suspended flow, or one whose process died.")
@click.argument("uuid")
@click.option("--file", metavar="PATH", help="Take the flow from this file, though it is not the stored one.")
@click.option(
    "--allow",
    "prefixes",
    metavar="MODULE",
    multiple=True,
    help="For a flow that a factory makes, as workers run them: a package or module that it may come from.",
)
@click.option("--force", is_flag=True, help="Take the flow from the process that holds it, though that may be alive.")
@_engine_option
@common
def resume(
    uuid: str, file: str | None, prefixes: tuple[str, ...], force: bool, url: str, engine: str, as_json: bool
) -> int:
    """Go on with the flow UUID (a unique beginning will do) that was suspended, or whose process has died.

    Tasks that are done are not run again. The flow's file must be as it was when the flow was stored; `--file` accepts
    another one, which may differ in what has not begun.
    """
    with existing(url) as connection:
        stored = find(connection, uuid)
        if stored.state not in states.UNFINISHED:
            return _already_finished(stored, as_json)
        flow_file: FlowFile | None = None
        parameters: dict[str, Any] = {}
        if file is None and "name" in (stored.factory or {}):
            sys.path.insert(0, os.getcwd())
            flow = api.flow_from_detail(stored, prefixes)
        else:
            flow_file, parameters = _file_of(stored, file)
            flow = flow_file.create_flow(parameters)
        detail = connection.get_flow_details(stored.uuid)
        loaded = api.load(connection, flow, detail, **engine_options(engine), force=force)
        loaded.prepare()
        _announce(stored, url, as_json)
        code = running.carry_out(loaded, flow_file, _resume_command(stored.uuid, url), as_json)
        if file is not None and flow_file is not None:
            # Only now: while a lease is held, be it that of a process which has died, this write is refused.
            stored = connection.get_flow_details(stored.uuid, lazy=True)
            stored.factory = {"file": flow_file.path, "sha256": flow_file.sha256, "params": parameters}
            connection.update_flow_details(stored)
        return code


@command.command(name="list")
@click.option("--state", "wanted", multiple=True, metavar="STATE", help="Only flows in this state. May be repeated.")
@click.option("--name", help="Only flows of exactly this name.")
@click.option("--owner", help="Only flows that this process holds or last held.")
@click.option("--older-than", type=age, metavar="AGE", help="Only flows that were created longer ago: 90m, 12h, 30d.")
@common
def list_flows(
    wanted: tuple[str, ...],
    name: str | None,
    owner: str | None,
    older_than: timedelta | None,
    url: str,
    as_json: bool,
) -> None:
    """List the stored flows, oldest first."""
    before = None if older_than is None else time.time_ns() // 1000 - older_than // timedelta(microseconds=1)
    upper = [state.upper() for state in wanted] or None
    with existing(url) as connection:
        found = list(flows(connection, states=upper, name=name, owner=owner, created_before=before))
    if as_json:
        click.echo(json.dumps([inspection.flow_summary(detail) for detail in found], default=repr))
    else:
        inspection.print_list(found)


@command.command(short_help="Show a flow's owner, tasks and failures.")
@click.argument("uuid")
@common
def show(uuid: str, url: str, as_json: bool) -> None:
    """Show the flow UUID (a unique beginning will do): its owner, and what its tasks and retries did.

    Tasks that have not begun are not listed.
    """
    with existing(url) as connection:
        stored = find(connection, uuid)
        detail, unread = inspection.read(connection, stored)
    if as_json:
        click.echo(json.dumps(inspection.flow_document(detail, unread), default=repr))
    else:
        inspection.print_tree(detail, unread)


@command.command(short_help="Create the store, or migrate it.")
@common
def upgrade(url: str, as_json: bool) -> None:
    """Create the store, or migrate it from an earlier release; data is kept."""
    with closing(connection_for(url)) as connection:
        connection.upgrade()
    click.echo(json.dumps({"connection": shown(url)}) if as_json else f"{shown(url)} is up to date")


def _file_of(stored: FlowDetail, other: str | None) -> tuple[FlowFile, dict[str, Any]]:
    factory = stored.factory or {}
    parameters = factory.get("params") or {}
    if other is not None:
        return FlowFile(other), parameters
    if "file" not in factory:
        raise FlowFileError(f"flow {stored.uuid} was not made from a file; name one with --file PATH")
    if sha256_of(factory["file"]) != factory["sha256"]:
        raise FlowFileError(
            f"flow file {factory['file']} has changed since flow {stored.uuid} was stored;"
            f" restore it, or accept it with --file {shlex.quote(factory['file'])}"
        )
    return FlowFile(factory["file"]), parameters


def _already_finished(stored: FlowDetail, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"uuid": stored.uuid, "name": stored.name, "state": stored.state}))
    else:
        click.echo(f"flow {stored.name} has already finished as {stored.state}; `pluggableflow run` starts a new one")
    return running.SUCCEEDED if stored.state == states.SUCCESS else running.FAILED


def _announce(detail: FlowDetail, url: str, as_json: bool) -> None:
    if not as_json:
        click.echo(f"flow {detail.name} {detail.uuid}, kept in {shown(url)}")


def _resume_command(uuid: str, url: str) -> str:
    before, after = [], []
    if is_default("url"):
        before = [f"--config-file {shlex.quote(file)} " for file in config_files()]
    elif url != DEFAULT_CONNECTION:
        after = [f" --connection {shlex.quote(shown(url))}"]
    return "".join(["pluggableflow ", *before, f"resume {uuid}", *after])
