# SPDX-License-Identifier: Apache-2.0
"""Fills stores with many flows, in the form in which each store keeps them.

A flow that was stored and treated through the package is the pattern: its copies differ in uuid, token and time of
creation alone. What was written is then read back through the package.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from places import MariaDBPlace, MongoDBPlace, Place, PostgreSQLPlace, RedisPlace, SQLitePlace, SQLPlace

from pluggableflow import states
from pluggableflow.connection import Connection
from pluggableflow.middleware import FLOW_COLUMNS, FlowDetail, LogBook, new_uuid

#: What flows there may be besides those that are to be claimed, all of them older.
KINDS = ("runnable", "finished", "sleeping", "leased")
FACTORY = {"name": "module:function"}
LONG_SECONDS = 30 * 86400.0
_BATCH = 5000


def copy_uuid(number: int) -> str:
    """Of the copy with that number, from 1; they sort as they were created."""
    return f"b{number:031x}"


def saved(connection: Connection, kind: str, count: int) -> list[FlowDetail]:
    """So many flows of a kind in a new book, stored and treated through the package."""
    book = LogBook("claims")
    for _ in range(count):
        flow = FlowDetail("claims")
        flow.factory = FACTORY
        if kind == "finished":
            flow.state = states.SUCCESS
        elif kind == "sleeping":
            flow.wake_at = int((time.time() + LONG_SECONDS) * 1e6)
        book.add(flow)
    connection.save_logbook(book)
    for flow in book if kind == "leased" else ():
        connection.claim(token=new_uuid(), owner="another", lease_seconds=LONG_SECONDS, flow_uuid=flow.uuid)
    return list(book)


def fill(place: Place, connection: Connection, kind: str, count: int) -> None:
    """Store ``count`` flows of a kind, and read some of them back.

    :raises RuntimeError: the package does not find what was written
    """
    writer = next((write for product, write in _WRITERS.items() if isinstance(place, product)), None)
    if writer is None:
        for start in range(0, count, 100):
            saved(connection, kind, min(100, count - start))
        return
    (first,) = saved(connection, kind, 1)
    # Stores note at the first scan when a flow has to be looked at again.
    if claim := connection.claim(token=new_uuid(), owner="bulk", lease_seconds=LONG_SECONDS):
        connection.release(claim.lease)
    pattern = connection.get_flow_details(first.uuid)
    writer(place, pattern, count - 1)
    _check(connection, pattern, count - 1)


def _check(connection: Connection, pattern: FlowDetail, copies: int) -> None:
    assert pattern.created_at is not None
    for number in {1, (copies + 1) // 2, copies} if copies else ():
        found = connection.get_flow_details(copy_uuid(number))
        expected = pattern.copy()
        expected.uuid, expected.created_at = found.uuid, pattern.created_at - copies - 1 + number
        expected.token = found.token if pattern.token and found.token != pattern.token else pattern.token
        expected.updated_at = found.updated_at
        if found != expected:
            raise RuntimeError(f"{found} was not read back as it was written")
        after = [flow.uuid for flow in connection.find_flows(limit=5, after=found.uuid)]
        following = [copy_uuid(each) for each in range(number + 1, min(number + 5, copies) + 1)]
        if after != [*following, pattern.uuid][:5]:
            raise RuntimeError(f"after {found} a search found {after}")


# -- one writer for each kind of product ------------------------------------------------------------------------------


def _sql(place: Place, pattern: FlowDetail, numbers: str, uuid: str, joined: Callable[[str, str], str]) -> str:
    """One statement that copies the pattern for each row of ``numbers``, whose column is ``n``."""
    changed = {"uuid": uuid, "token": joined("flow.token", "numbers.n")}
    columns = ", ".join(changed.get(column, f"flow.{column}") for column in FLOW_COLUMNS)
    columns = columns.replace("flow.created_at", "flow.created_at - numbers.copies - 1 + numbers.n")
    table = f"{place.prefix}flows"
    return (
        f"INSERT INTO {table} ({', '.join(FLOW_COLUMNS)}) SELECT {columns}"
        f" FROM {table} AS flow, ({numbers}) AS numbers WHERE flow.uuid = '{pattern.uuid}'"
    )


def _postgresql(place: Any, pattern: FlowDetail, copies: int) -> None:
    numbers = f"SELECT n, {copies} AS copies FROM generate_series(1, {copies}) AS n"
    uuid = "'b' || lpad(to_hex(numbers.n), 31, '0')"
    _run(place, _sql(place, pattern, numbers, uuid, lambda a, b: f"{a} || {b}"))
    _run(place, f"ANALYZE {place.prefix}flows")


def _mariadb(place: Any, pattern: FlowDetail, copies: int) -> None:
    if copies:
        numbers = f"SELECT seq AS n, {copies} AS copies FROM seq_1_to_{copies}"
        uuid = "CONCAT('b', LPAD(LOWER(HEX(numbers.n)), 31, '0'))"
        _run(place, _sql(place, pattern, numbers, uuid, lambda a, b: f"CONCAT({a}, {b})"))
    _run(place, f"ANALYZE TABLE {place.prefix}flows")


def _run(place: SQLPlace, statement: str) -> None:
    place.sql.exec_driver_sql(statement)


def _sqlite(place: Any, pattern: FlowDetail, copies: int) -> None:
    numbers = (
        "WITH RECURSIVE counted (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted"
        f" WHERE n < {copies}) SELECT n, {copies} AS copies FROM counted WHERE n <= {copies}"
    )
    database = place.open(place.path())
    database.execute(_sql(place, pattern, numbers, "printf('b%031x', numbers.n)", lambda a, b: f"{a} || {b}"))


def _batches(copies: int) -> Iterator[list[int]]:
    numbers = iter(range(1, copies + 1))
    while batch := list(itertools.islice(numbers, _BATCH)):
        yield batch


def _mongodb(place: Any, pattern: FlowDetail, copies: int) -> None:
    flows = place.database[f"{place.prefix}flows"]
    document = flows.find_one({"_id": pattern.uuid})
    for batch in _batches(copies):
        flows.insert_many(
            [
                {
                    **document, "_id": copy_uuid(number), "life": new_uuid()[:16],
                    "created_at": document["created_at"] - copies - 1 + number,
                    "token": document["token"] and f"{document['token']}{number}",
                }
                for number in batch
            ],
            ordered=False,
        )  # fmt: skip


def _redis(place: Any, pattern: FlowDetail, copies: int) -> None:
    """A hash for each, its entries in the index as its field ``hint_at`` has them, and its place in the book."""
    from pluggableflow_redis.keys import Keys, age, hint

    keys, client = Keys(place.prefix), place.client
    fields = client.hgetall(keys.flow(pattern.uuid)[0])
    created_at, number_of_hint = int(fields[b"created_at"]), int(fields.get(b"hint", 0))
    since = int(fields[b"hint_at"]) if b"hint_at" in fields else None
    of_book = keys.book(str(pattern.parent_uuid))[1]
    for batch in _batches(copies):
        ages: dict[bytes, int] = {}
        entries: dict[bytes, int] = {}
        in_book: dict[bytes, int] = {}
        with client.pipeline(transaction=False) as pipeline:
            for number in batch:
                uuid, created = copy_uuid(number), created_at - copies - 1 + number
                changed = {b"uuid": uuid, b"created_at": created}
                if b"token" in fields:
                    changed[b"token"] = fields[b"token"] + b"%d" % number
                pipeline.hset(keys.flow(uuid)[0], mapping={**fields, **changed})
                ages[age(created, uuid)] = 0
                entries[hint(pattern.priority, created, uuid, number_of_hint)] = since or 0
                in_book[uuid.encode()] = created
            pipeline.zadd(keys.flows, ages)
            pipeline.hset(of_book, mapping=in_book)
            if since is not None:
                pipeline.zadd(keys.waiting if since else keys.ready, entries)
            pipeline.execute()


_WRITERS: dict[type[Place], Callable[[Any, FlowDetail, int], None]] = {
    PostgreSQLPlace: _postgresql, MariaDBPlace: _mariadb, SQLitePlace: _sqlite, MongoDBPlace: _mongodb,
    RedisPlace: _redis,
}  # fmt: skip
