# SPDX-License-Identifier: Apache-2.0
"""The stores whose flows survive a killed process."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Name to the fixture that gives the URL of its server; ``None`` where files do.
STORES = {
    "sqlite": None,
    "postgresql": "postgresql_url",
    "mariadb": "mariadb_url",
    "mongodb": "mongodb_url",
    "mongodb_replica_set": "mongodb_replica_set_url",
    "redis_aof": "redis_aof_url",
    "directory": None,
}


def store_url(request: pytest.FixtureRequest, folder: Path, prefix: str) -> str:
    """The URL of the store ``request.param``, apart from what other tests keep on the same server.

    :param folder: for a store of files
    """
    if request.param == "sqlite":
        return f"sqlite:///{folder}/flows.db"
    if request.param == "directory":
        return f"dir://{folder}/flows"
    url: str = request.getfixturevalue(STORES[request.param] or "")
    return f"{url}{'&' if '?' in url else '?'}prefix={prefix}"
