# SPDX-License-Identifier: Apache-2.0
"""Servers for the whole run, each started when the first test asks for it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from hypothesis import HealthCheck, settings

# A busy machine takes its time; that says nothing about what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def served(variable: str, start: Callable[[Any], Any]) -> Any:
    """A session's fixture that gives the URL of a server."""

    @pytest.fixture(scope="session")
    def url() -> Iterator[str]:
        given = os.environ.get(f"PLUGGABLEFLOW_TEST_{variable}_URL")
        if given is not None:
            yield given
            return
        # Not below pytest's own folder: other users, as whom some servers run, cannot enter that.
        with tempfile.TemporaryDirectory(prefix="pluggableflow-", ignore_cleanup_errors=True) as folder:
            server = start_or_skip(lambda: start(Path(folder) / "server"))
            yield server.url
            server.stop()

    return url


def start_or_skip(start: Callable[[], Any]) -> Any:
    """Start a server; where it is not installed, skip the test, or fail with ``PLUGGABLEFLOW_REQUIRE_SERVERS=1``."""
    try:
        return start()
    except servers.ServerMissing as missing:
        if os.environ.get("PLUGGABLEFLOW_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(missing))


postgresql_url = served("POSTGRESQL", lambda folder: servers.PostgreSQLServer(folder, durable=False))
mariadb_url = served("MARIADB", lambda folder: servers.MariaDBServer(folder, durable=False))
mongodb_url = served("MONGODB", servers.MongoDBServer)
mongodb_replica_set_url = served("MONGODB_REPLICA_SET", lambda folder: servers.MongoDBServer(folder, replica_set=True))
redis_url = served("REDIS", servers.RedisServer)
redis_aof_url = served("REDIS_AOF", lambda folder: servers.RedisServer(folder, aof=True))
redis_cluster_url = served("REDIS_CLUSTER", servers.RedisCluster)
