# SPDX-License-Identifier: Apache-2.0
"""The command that runs whatever flows a store has waiting."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import closing
from types import FrameType
from typing import Any

import click

from pluggableflow import api
from pluggableflow.cli.command import command, common, configured, is_default, shown
from pluggableflow.cli.running import INTERRUPTED, SUCCEEDED
from pluggableflow.conductor import Conductor
from pluggableflow.connection import Connection
from pluggableflow.exceptions import OptionError


@command.command(short_help="Run the flows that a store has waiting, until it is told to stop.")
@click.option(
    "--allow",
    "prefixes",
    metavar="MODULE",
    multiple=True,
    help="A package or module whose factories may be called; others are not trusted. May be repeated.",
)
@click.option("--max-flows", default=4, show_default=True, help="How many flows run at a time.")
@click.option(
    "--engine",
    metavar="TYPE",
    default="serial",
    show_default=True,
    help="The engine type that runs them; pluggableflow plugins lists them.",
)
@click.option(
    "--lease-seconds", default=30.0, show_default=True, help="When a flow of a dead worker may be taken over."
)
@click.option(
    "--poll-seconds", default=1.0, show_default=True, help="How often the store is asked when it has nothing."
)
@click.option(
    "--max-attempts",
    default=5,
    show_default=True,
    help="A flow that is begun more often in a row, without a task of it ending, is set aside.",
)
@click.option("--until-idle", is_flag=True, help="End when there is nothing to run at the moment.")
@common
def worker(
    prefixes: tuple[str, ...],
    max_flows: int,
    engine: str,
    lease_seconds: float,
    poll_seconds: float,
    max_attempts: int,
    until_idle: bool,
    url: str,
    as_json: bool,
) -> int:
    """Claim runnable flows of the store one after the other, and run several at a time.

    Any number of workers may share a store; there is no other service. They run flows that were stored with a factory,
    those of dead workers among them. A flow that cannot be loaded is set aside as SUSPENDED; `pluggableflow show`
    tells why.

    SIGTERM and Ctrl-C let running tasks end and leave their flows to other workers. A second Ctrl-C stops at once.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    sys.path.insert(0, os.getcwd())
    with closing(api.connect(url)) as connection:
        conductor = _conductor(
            connection,
            prefixes=prefixes,
            max_flows=max_flows,
            engine=engine,
            lease_seconds=lease_seconds,
            poll_seconds=poll_seconds,
            max_attempts=max_attempts,
        )
        stopped = _Stopped()

        def stop(number: int, _frame: FrameType | None) -> None:
            if stopped.by == signal.SIGINT == number:
                os._exit(INTERRUPTED)
            stopped.by = number
            conductor.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        logging.info("worker %d runs flows of %s", os.getpid(), shown(url))
        conductor.run(until_idle)
    return INTERRUPTED if stopped.by == signal.SIGINT else SUCCEEDED


def _conductor(connection: Connection, **options: Any) -> Conductor:
    """The conductor that the options of the command describe; those that were not given are as configured."""
    conf = configured()
    if conf is not None:
        options = {name: value for name, value in options.items() if not is_default(name)}
    if "prefixes" in options:
        options["allowed_prefixes"] = options.pop("prefixes")
        if not options["allowed_prefixes"]:
            raise OptionError("say with --allow which packages the factories of flows may come from")
    if conf is None:
        return Conductor(connection, **options)
    from pluggableflow import config

    return config.conductor(conf, connection, **options)


class _Stopped:
    by: int | None = None
