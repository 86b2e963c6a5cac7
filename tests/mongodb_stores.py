# SPDX-License-Identifier: Apache-2.0
"""Databases of their own on a MongoDB server that tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pymongo

from pluggableflow.middleware import new_uuid


@contextlib.contextmanager
def database_of(url: str) -> Iterator[Any]:
    """The driver's own view of a database that is dropped in the end."""
    with pymongo.MongoClient[Any](url) as client:
        database = client.get_default_database()
        yield database
        client.drop_database(database)


def own_database(url: str) -> str:
    """The same server's URL with a database of its own."""
    base, _, query = url.partition("?")
    return f"{base.rpartition('/')[0]}/tests_{new_uuid()[:12]}" + (f"?{query}" if query else "")
