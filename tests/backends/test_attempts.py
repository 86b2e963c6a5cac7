# SPDX-License-Identifier: Apache-2.0
"""How often the stores make a call that meets errors which pass, as their URLs say."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any, NoReturn

import pytest
import redis
from pluggableflow_mongodb import MongoDBConnection
from pluggableflow_redis import RedisConnection
from pluggableflow_sqlalchemy import SQLAlchemyConnection
from pluggableflow_sqlalchemy.connection import _resent
from pymongo.errors import AutoReconnect

from pluggableflow.exceptions import OptionError, StorageFailure
from pluggableflow.loader import connection_for

ATTEMPTS = [1, 2, 3]


class Failing:
    """A call that always fails in the same way."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def __call__(self, *_args: Any) -> NoReturn:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize("attempts", ATTEMPTS)
def test_a_database_is_asked_so_often(attempts: int) -> None:
    call = Failing(StorageFailure("locked"))
    call.error.__cause__ = sqlite3.OperationalError("database is locked")
    connection = connection_for(f"sqlite://?attempts={attempts}")
    assert isinstance(connection, SQLAlchemyConnection)
    with closing(connection), pytest.raises(StorageFailure):
        _resent(True)(lambda self: call())(connection)
    assert call.calls == attempts


@pytest.mark.parametrize("attempts", ATTEMPTS)
def test_redis_is_asked_so_often(attempts: int) -> None:
    call = Failing(redis.exceptions.ConnectionError("cut"))
    connection = connection_for(f"redis://127.0.0.1:1/0?attempts={attempts}")
    assert isinstance(connection, RedisConnection)
    with closing(connection), pytest.raises(StorageFailure):
        connection._client.attempt(call)
    assert call.calls == attempts


@pytest.mark.parametrize("attempts", ATTEMPTS)
def test_mongodb_is_asked_so_often(attempts: int, mongodb_url: str) -> None:
    call = Failing(AutoReconnect("cut"))
    connection = connection_for(f"{mongodb_url}{'&' if '?' in mongodb_url else '?'}attempts={attempts}")
    assert isinstance(connection, MongoDBConnection)
    with closing(connection), pytest.raises(AutoReconnect):
        connection._store.repeated(call)
    assert call.calls == attempts


@pytest.mark.parametrize("url", ["sqlite://", "postgresql://h/d", "mariadb://h/d", "redis://h/0", "mongodb://h/d"])
@pytest.mark.parametrize("attempts", ["0", "-1", "some"])
def test_impossible_numbers_are_refused(url: str, attempts: str) -> None:
    with pytest.raises(OptionError, match="attempts must be a number above 0"):
        connection_for(f"{url}?attempts={attempts}").close()
