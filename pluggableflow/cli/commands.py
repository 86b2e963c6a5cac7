# SPDX-License-Identifier: Apache-2.0
"""The commands and their options."""

from __future__ import annotations

import functools
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NoReturn

import click

from pluggableflow import api, states
from pluggableflow.cli import inspection, running
from pluggableflow.cli.flow_file import FlowFile, sha256_of
from pluggableflow.connection import Connection
from pluggableflow.exceptions import FlowFileError, NotFound, PluggableFlowError
from pluggableflow.loader import connection_for
from pluggableflow.middleware import FlowDetail, LogBook

DEFAULT_CONNECTION = "sqlite:///pluggableflow.sqlite"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pluggableflow")
def command() -> None:
    """Run durable flows: every step is kept in a store, failures are retried or reverted, and a flow goes on after a
    crash with what was not finished.

    \b
    Start with:
      pluggableflow run my_flow.py -p size=3
      pluggableflow list
      pluggableflow resume UUID

    Exit codes: 0 success, 1 the flow failed or was reverted, 2 a mistake in the call, 130 interrupted.
    """


def _fail(error: Exception) -> NoReturn:
    click.echo(f"pluggableflow: {error}", err=True)
    sys.exit(running.MISTAKE)


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command; an error of ours becomes a line on standard error and exit code 2."""

    @click.option(
        "--connection",
        "url",
        metavar="URL",
        default=DEFAULT_CONNECTION,
        show_default=True,
        help="The store; relative paths are relative to the working directory.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text for people.")
    @functools.wraps(function)
    def guarded(**arguments: Any) -> None:
        try:
            code = function(**arguments)
        except PluggableFlowError as error:
            _fail(error)
        sys.exit(code or 0)

    return guarded


_engine_option = click.option(
    "--engine",
    type=click.Choice(["serial", "parallel"]),
    default="serial",
    show_default=True,
    help="Run one task after the other, or independent tasks at the same time in threads.",
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
@_common
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
        loaded = api.load(connection, flow, detail, engine=engine)
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
@_engine_option
@_common
def resume(uuid: str, file: str | None, url: str, engine: str, as_json: bool) -> int:
    """Go on with the flow UUID (a unique beginning will do) that was suspended, or whose process has died.

    Tasks that are done are not run again. The flow's file must be as it was when the flow was stored; `--file` accepts
    another one, which may differ in what has not begun.
    """
    with _existing(url) as connection:
        stored = _find(connection, uuid)
        if stored.state not in states.UNFINISHED:
            return _already_finished(stored, as_json)
        flow_file, parameters = _file_of(stored, file)
        flow = flow_file.create_flow(parameters)
        loaded = api.load(connection, flow, connection.get_flow_details(stored.uuid), engine=engine)
        loaded.prepare()
        _announce(stored, url, as_json)
        code = running.carry_out(loaded, flow_file, _resume_command(stored.uuid, url), as_json)
        if file is not None:
            # Only now: while a lease is held, be it that of a process which has died, this write is refused.
            stored = connection.get_flow_details(stored.uuid, lazy=True)
            stored.factory = {"file": flow_file.path, "sha256": flow_file.sha256, "params": parameters}
            connection.update_flow_details(stored)
        return code


@command.command(name="list")
@click.option("--state", "wanted", multiple=True, metavar="STATE", help="Only flows in this state. May be repeated.")
@_common
def list_flows(wanted: tuple[str, ...], url: str, as_json: bool) -> None:
    """List the stored flows, oldest first."""
    with _existing(url) as connection:
        found = list(_flows(connection, [state.upper() for state in wanted] or None))
    if as_json:
        click.echo(json.dumps([inspection.flow_summary(detail) for detail in found], default=repr))
    else:
        inspection.print_list(found)


@command.command(short_help="Show a flow's owner, tasks and failures.")
@click.argument("uuid")
@_common
def show(uuid: str, url: str, as_json: bool) -> None:
    """Show the flow UUID (a unique beginning will do): its owner, and what its tasks and retries did.

    Tasks that have not begun are not listed.
    """
    with _existing(url) as connection:
        stored = _find(connection, uuid)
        detail, unread = inspection.read(connection, stored)
    if as_json:
        click.echo(json.dumps(inspection.flow_document(detail, unread), default=repr))
    else:
        inspection.print_tree(detail, unread)


@command.command(short_help="Create the store, or migrate it.")
@_common
def upgrade(url: str, as_json: bool) -> None:
    """Create the store, or migrate it from an earlier release; data is kept."""
    with closing(connection_for(url)) as connection:
        connection.upgrade()
    click.echo(json.dumps({"connection": _shown(url)}) if as_json else f"{_shown(url)} is up to date")


# -- what the commands share --------------------------------------------------------------------------------------


@contextmanager
def _existing(url: str) -> Iterator[Connection]:
    """A connection to a store that must be there already."""
    with closing(connection_for(url)) as connection:
        connection.validate()
        yield connection


def _flows(connection: Connection, wanted: list[str] | None = None) -> Iterator[FlowDetail]:
    after = None
    while page := connection.find_flows(states=wanted, after=after, limit=500):
        yield from page
        after = page[-1].uuid


def _find(connection: Connection, beginning: str) -> FlowDetail:
    """The flow whose uuid begins so, without its atoms."""
    try:
        return connection.get_flow_details(beginning, lazy=True)
    except NotFound:
        found = [detail for detail in _flows(connection) if beginning and detail.uuid.startswith(beginning)]
    if not found:
        raise NotFound(f"there is no flow {beginning!r}; `pluggableflow list` tells what there is")
    if len(found) > 1:
        uuids = ", ".join(detail.uuid for detail in found[:5])
        raise NotFound(f"{len(found)} flows begin with {beginning!r} ({uuids}); give more of the uuid")
    return found[0]


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
        click.echo(f"flow {detail.name} {detail.uuid}, kept in {_shown(url)}")


def _resume_command(uuid: str, url: str) -> str:
    option = "" if url == DEFAULT_CONNECTION else f" --connection {shlex.quote(_shown(url))}"
    return f"pluggableflow resume {uuid}{option}"


def _shown(url: str) -> str:
    """The URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)
