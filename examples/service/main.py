# SPDX-License-Identifier: Apache-2.0
"""Starts the service: one process for the API, one that conducts flows, and the one that keeps both running.

    python main.py --config-file service.conf

SIGTERM lets running tasks end; SIGHUP reads ``debug`` and ``max_flows`` again.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import cotyledon
from app import Application
from oslo_config import cfg
from oslo_log import log
from waitress.server import create_server

from pluggableflow import config

LOG = log.getLogger(__name__)
OPTIONS = [
    cfg.HostAddressOpt("host", default="127.0.0.1", help="Address that the API listens on."),
    cfg.PortOpt("port", default=8080, help="Port that the API listens on."),
    cfg.StrOpt("folder", default="machines", help="Folder that machines are made in."),
]


def configured(arguments: list[str]) -> cfg.ConfigOpts:
    """The configuration that the arguments name, with logging set up by it."""
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    log.set_defaults(default_log_levels=[*log.get_default_log_levels(), "alembic=WARNING"])
    config.register_opts(conf)
    conf.register_opts(OPTIONS, group="service")
    conf(arguments, project="service", default_config_files=[])
    log.setup(conf, "service")
    return conf


class Api(cotyledon.Service):
    """Answers requests."""

    def __init__(self, worker_id: Any, arguments: list[str]) -> None:
        super().__init__(worker_id)
        self._conf = configured(arguments)
        self._connection = config.connect(self._conf)
        ours = self._conf.service
        self._server = create_server(Application(self._connection, ours.folder), host=ours.host, port=ours.port)

    def run(self) -> None:
        LOG.info("the API listens on port %s", self._conf.service.port)
        self._server.run()

    def terminate(self) -> None:
        self._server.close()
        self._connection.close()

    def reload(self) -> None:
        self._conf.mutate_config_files()


class Conductor(cotyledon.Service):
    """Runs the flows that the API has stored."""

    graceful_shutdown_timeout = 0  # running tasks may take their time

    def __init__(self, worker_id: Any, arguments: list[str]) -> None:
        super().__init__(worker_id)
        self._arguments = arguments
        self._conf = configured(arguments)
        self._connection = config.connect(self._conf)
        self._conductor = config.conductor(self._conf, self._connection)
        self._ended = threading.Event()
        self._ended.set()

    def run(self) -> None:
        self._ended.clear()
        LOG.info("the conductor runs up to %d flows", self._conductor.max_flows)
        try:
            self._conductor.run()
        finally:
            self._ended.set()

    def terminate(self) -> None:
        self._conductor.stop()
        self._ended.wait()
        self._connection.close()
        LOG.info("the conductor has left its flows to others")

    def reload(self) -> None:
        self._conf.mutate_config_files()
        self._conductor.max_flows = configured(self._arguments).pluggableflow.max_flows
        LOG.info("the conductor runs up to %d flows", self._conductor.max_flows)


def main() -> None:
    arguments = sys.argv[1:]
    configured(arguments)  # what is wrong with it is told before anything starts
    manager = cotyledon.ServiceManager(graceful_shutdown_timeout=0)
    manager.add(Api, args=(arguments,))
    manager.add(Conductor, args=(arguments,))
    manager.run()


if __name__ == "__main__":
    main()
