# SPDX-License-Identifier: Apache-2.0
"""The command itself, and what its sub-commands share."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from pluggableflow.cli import running
from pluggableflow.connection import Connection
from pluggableflow.exceptions import NotFound, PluggableFlowError
from pluggableflow.loader import connection_for
from pluggableflow.middleware import FlowDetail

DEFAULT_CONNECTION = "sqlite:///pluggableflow.sqlite"


def fail(error: Exception) -> NoReturn:
    click.echo(f"pluggableflow: {error}", err=True)
    sys.exit(running.MISTAKE)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pluggableflow")
@click.option(
    "--config-file",
    "files",
    multiple=True,
    metavar="FILE",
    help="An ini file with the store, the engine and their options; may be repeated. Options of the command win.",
)
@click.pass_context
def command(context: click.Context, files: tuple[str, ...]) -> None:
    """Run durable flows: every step is kept in a store, failures are retried or reverted, and a flow goes on after a
    crash with what was not finished.

    \b
    Start with:
      pluggableflow run my_flow.py -p size=3
      pluggableflow list
      pluggableflow resume UUID

    Exit codes: 0 success, 1 the flow failed, or was reverted or cancelled, 2 a mistake in the call, 130 interrupted.
    """
    if files:
        from pluggableflow import config  # late: oslo.config takes its time to import

        try:
            context.obj = config.read(files)
        except PluggableFlowError as error:
            fail(error)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
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
            if is_default("url") and (conf := configured()) is not None:
                from pluggableflow import config

                arguments["url"] = config.url(conf)
            code = function(**arguments)
        except PluggableFlowError as error:
            fail(error)
        sys.exit(code or 0)

    return guarded


def configured() -> Any:
    """What was read from the files of ``--config-file``; ``None`` without one."""
    return click.get_current_context().obj


def config_files() -> tuple[str, ...]:
    """The files of ``--config-file``."""
    found: tuple[str, ...] = click.get_current_context().find_root().params["files"]
    return found


def is_default(parameter: str) -> bool:
    """Whether the command was called without an option."""
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.DEFAULT


def engine_options(engine: str) -> dict[str, Any]:
    """The engine type and its options: as configured, unless the command names another type."""
    conf = configured()
    if conf is None:
        return {"engine": engine}
    from pluggableflow import config

    found = config.engine_options(conf)
    if is_default("engine"):
        return found
    return {name: value for name, value in found.items() if config.takes(engine, name)} | {"engine": engine}


@contextmanager
def existing(url: str) -> Iterator[Connection]:
    """A connection to a store that must be there already."""
    with closing(connection_for(url)) as connection:
        connection.validate()
        yield connection


def flows(connection: Connection, **conditions: Any) -> Iterator[FlowDetail]:
    """Every flow for which the conditions of ``find_flows`` hold."""
    after = None
    while page := connection.find_flows(**conditions, after=after, limit=500):
        yield from page
        after = page[-1].uuid


def find(connection: Connection, beginning: str) -> FlowDetail:
    """The flow whose uuid begins so, without its atoms."""
    try:
        return connection.get_flow_details(beginning, lazy=True)
    except NotFound:
        found = [detail for detail in flows(connection) if beginning and detail.uuid.startswith(beginning)]
    if not found:
        raise NotFound(f"there is no flow {beginning!r}; `pluggableflow list` tells what there is")
    if len(found) > 1:
        uuids = ", ".join(detail.uuid for detail in found[:5])
        raise NotFound(f"{len(found)} flows begin with {beginning!r} ({uuids}); give more of the uuid")
    return found[0]


def shown(url: str) -> str:
    """The URL without its passwords."""
    url = re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&][a-z_]*password=)[^&]*", r"\1***", url)
