# SPDX-License-Identifier: Apache-2.0
"""Sub-commands for operators: ask a flow to stop, delete what is old, delete everything."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from contextlib import closing
from datetime import timedelta

import click

from pluggableflow import owner, states
from pluggableflow.cli.age import age
from pluggableflow.cli.command import command, common, existing, find, shown
from pluggableflow.connection import CANCEL, CANCEL_AND_REVERT, SUSPEND, Connection, Request
from pluggableflow.exceptions import OptionError
from pluggableflow.loader import connection_for
from pluggableflow.middleware import FlowDetail
from pluggableflow.purging import purge


@command.command(short_help="Ask the process that runs a flow to suspend it.")
@click.argument("uuid")
@common
def suspend(uuid: str, url: str, as_json: bool) -> None:
    """Ask for the flow UUID (a unique beginning will do) to be suspended.

    The process that runs it sees that when it next renews its lease, lets running tasks end, and suspends the flow;
    `pluggableflow resume` goes on with it.
    """
    with existing(url) as connection:
        stored = find(connection, uuid)
        request = _ask(connection, stored, SUSPEND)
    _tell_asked(stored, request, "to suspend", as_json)


@command.command(short_help="Stop a flow for good, undoing it or not.")
@click.argument("uuid")
@click.option("--revert", is_flag=True, help="Undo what has begun; otherwise all stays as it is.")
@common
def cancel(uuid: str, revert: bool, url: str, as_json: bool) -> None:
    """Ask for the flow UUID (a unique beginning will do) to be stopped for good. It ends as CANCELLED.

    The process that runs it sees that when it next renews its lease. Running tasks are told and may end; one that does
    not for a while is ended, or left alone if it runs in a thread. If nobody runs the flow now, whoever resumes it
    does nothing but cancel it.
    """
    with existing(url) as connection:
        stored = find(connection, uuid)
        request = _ask(connection, stored, CANCEL_AND_REVERT if revert else CANCEL)
    _tell_asked(stored, request, "to be reverted and cancelled" if revert else "to be cancelled", as_json)
    if not as_json and (stored.token is None or owner.is_gone(str(stored.owner))):
        click.echo(f"nobody runs it now; `pluggableflow resume {stored.uuid}` carries that out")


def _ask(connection: Connection, stored: FlowDetail, kind: str) -> Request:
    return connection.request(stored.uuid, kind, f"{getpass.getuser()}@{socket.gethostname()} {os.getpid()}")


def _tell_asked(stored: FlowDetail, request: Request, what: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"uuid": stored.uuid, "request": request.kind, "sequence": request.sequence}))
    else:
        click.echo(f"flow {stored.name} {stored.uuid} is asked {what}")


@command.command(name="purge", short_help="Delete what finished long ago.")
@click.option(
    "--older-than",
    type=age,
    metavar="AGE",
    required=True,
    help="How long ago a flow was last written to: 90m, 12h, 30d; 0s for all.",
)
@click.option(
    "--state",
    "wanted",
    multiple=True,
    type=click.Choice(sorted(states.FINISHED), case_sensitive=False),
    help="Only flows that finished so. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@common
def purge_books(older_than: timedelta, wanted: tuple[str, ...], dry_run: bool, url: str, as_json: bool) -> None:
    """Delete logbooks, with their flows, of which every flow has finished long ago.

    May be stopped at any time, and run beside anything.
    """
    count = 0
    with existing(url) as connection:
        for book in purge(connection, older_than, wanted or states.FINISHED, dry_run):
            count += 1
            if not as_json:
                click.echo(f"{'would delete' if dry_run else 'deleted'} logbook {book.uuid} {book.name}")
    books = "1 logbook" if count == 1 else f"{count} logbooks"
    text = f"{books} would be deleted" if dry_run else f"{books} deleted"
    click.echo(json.dumps({"logbooks": count, "dry_run": dry_run}) if as_json else text)


@command.command(short_help="Delete everything in a store.")
@click.option("--name", help="The name of the store, instead of typing it when asked.")
@common
def clear(name: str | None, url: str, as_json: bool) -> None:
    """Delete every logbook and flow of the store, also those that are running.

    Asks for the name of the store (the last part of its URL) before it does.
    """
    expected = _store_name(url)
    with closing(connection_for(url)) as connection:
        connection.validate()
        if name is None:
            name = click.prompt(f"This deletes every flow in {shown(url)}. To go on, type the store's name, {expected}")
        if name != expected:
            raise OptionError(f"the store's name is {expected!r}, not {name!r}; nothing was deleted")
        connection.clear_all()
    click.echo(json.dumps({"cleared": shown(url)}) if as_json else f"{shown(url)} is empty")


def _store_name(url: str) -> str:
    """The last part of the path, or the host and port where there is none."""
    place = re.sub(r"^[^:]*://([^/@]*@)?", "", url).partition("?")[0]
    return place.rstrip("/").rpartition("/")[2] or url.partition(":")[0]
