# SPDX-License-Identifier: Apache-2.0
"""The databases that TaskFlow's tests look for: user and password ``openstack_citest``, on the default ports.

A server that listens there already is used as it is. One that is not installed is an error if
``PLUGGABLEFLOW_REQUIRE_SERVERS`` is 1; otherwise its tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from servers import MariaDBServer, PostgreSQLServer, ServerMissing

_USER = "openstack_citest"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _postgresql(folder: Path) -> PostgreSQLServer:
    import psycopg

    server = PostgreSQLServer(folder, durable=False, port=5432)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {_USER} SUPERUSER LOGIN PASSWORD '{_USER}'")
    return server


def _mariadb(folder: Path) -> MariaDBServer:
    import pymysql

    server = MariaDBServer(folder, durable=False, port=3306)
    root = pymysql.connect(host="127.0.0.1", port=server.port, user="root")
    with root as connection, connection.cursor() as cursor:
        for host in "localhost", "%":
            cursor.execute(f"GRANT ALL ON *.* TO {_USER}@'{host}' IDENTIFIED BY '{_USER}'")
    return server


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Both servers, for the length of a block."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for start, port in (_postgresql, 5432), (_mariadb, 3306):
            if not _is_free(port):
                continue
            try:
                server = start(Path(folder) / start.__name__)
            except ServerMissing as missing:
                if os.environ.get("PLUGGABLEFLOW_REQUIRE_SERVERS") == "1":
                    raise
                print(f"skipped: {missing}", file=sys.stderr)
                continue
            stack.callback(server.stop)
        yield
