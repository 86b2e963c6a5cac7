# SPDX-License-Identifier: Apache-2.0
"""What the tests of connections store, and how they call from several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pluggableflow.connection import Claim, Connection
from pluggableflow.middleware import FlowDetail, LogBook, Record, RetryDetail, TaskDetail, new_uuid

#: Long enough that no lease of a test runs out by itself.
LONG = 600.0
#: Has run out by the time the call returns.
SHORT = 1e-6
#: What a flow needs for a scan to take it.
FACTORY = {"name": "module:function"}

Raw = Callable[[str, str], dict[str, Any] | None]


def new_book(*flow_names: str, name: str = "book") -> LogBook:
    """A book with a flow of each name, each with a task and a retry."""
    book = LogBook(name)
    for flow_name in flow_names:
        flow = FlowDetail(flow_name)
        flow.add(TaskDetail("task"))
        flow.add(RetryDetail("retry"))
        book.add(flow)
    return book


def saved_flow(connection: Connection, name: str = "flow", **columns: Any) -> FlowDetail:
    """A stored flow of its own book."""
    book = new_book(name)
    (flow,) = book
    for column, value in columns.items():
        setattr(flow, column, value)
    connection.save_logbook(book)
    return flow


def claimed(connection: Connection, flow: FlowDetail | str, seconds: float = LONG, **options: Any) -> Claim:
    """A successful claim of a flow, given as its detail or its uuid."""
    uuid = flow if isinstance(flow, str) else flow.uuid
    found = connection.claim(token=new_uuid(), owner="tests", lease_seconds=seconds, flow_uuid=uuid, **options)
    assert found is not None
    return found


def atom_record(flow: FlowDetail | str, name: str, **columns: Any) -> Record:
    """A complete record of a new task."""
    detail = TaskDetail(name)
    detail.parent_uuid = flow if isinstance(flow, str) else flow.uuid
    return {**detail.to_record(), **columns}


def by_age(details: Any) -> list[str]:
    """The uuids of books or flows in the order in which a list has to give them."""
    return [each.uuid for each in sorted(details, key=lambda each: (each.created_at, each.uuid))]


def scan(connection: Connection) -> list[str]:
    """Claim by scan until nothing is left; returns the flows in the order in which they were taken."""
    taken = []
    while claim := connection.claim(token=new_uuid(), owner="scanner", lease_seconds=LONG):
        assert claim.lease.flow_uuid not in taken, "a flow that is leased was taken"
        taken.append(claim.lease.flow_uuid)
    return taken


def at_once(count: int, work: Callable[[int], Any], ahead: int = -1) -> list[Any]:
    """What ``work`` returns for each number, called by as many threads that set off together.

    The thread that comes last to the start runs on at once, while the others have yet to wake: ``ahead`` says which
    it is (modulo ``count``), so that a race which is repeated can give each its turn.
    """
    barrier, outcomes, errors = threading.Barrier(count), [None] * count, []

    def run(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=((ahead + turn) % count,)) for turn in range(1, count + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return outcomes
