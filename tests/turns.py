# SPDX-License-Identifier: Apache-2.0
"""Clients of one store that take turns, in an order that is drawn and can be drawn again."""

from __future__ import annotations

import contextlib
import functools
import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pluggableflow import states
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import FlowOwned, LeaseLost, NotFound
from pluggableflow.middleware import FlowDetail, LogBook, new_uuid
from pluggableflow.testing.records import FACTORY, LONG, new_book

Wait = Callable[[], None]
#: Opens a connection of its own that calls ``wait`` before everything that it sends to the server.
Open = Callable[[Wait], AbstractContextManager[Connection]]
Work = Callable[[Connection], object]


class Chooser(Protocol):
    """Names whose turn it is."""

    def choice(self, waiting: list[int], /) -> int: ...


class Order:
    """The turns in an order that is given, and then in that of their numbers."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def choice(self, waiting: list[int], /) -> int:
        return self.numbers.pop(0) if self.numbers and self.numbers[0] in waiting else waiting[0]


class Turns:
    """Does each work in a thread and on a connection of its own, which stops before every call until it is its turn."""

    def __init__(self, open_: Open, works: Sequence[Work]) -> None:
        self.open_, self.works = open_, works
        self.arrived: queue.SimpleQueue[tuple[int, BaseException | None, bool]] = queue.SimpleQueue()
        self.turns = [threading.Semaphore(0) for _ in works]

    def _run(self, number: int, work: Work) -> None:
        error = None
        try:
            with self.open_(functools.partial(self._wait, number)) as connection:
                work(connection)
        except BaseException as raised:
            error = raised
        self.arrived.put((number, error, True))

    def _wait(self, number: int) -> None:
        self.arrived.put((number, None, False))
        self.turns[number].acquire()

    def play(self, choose: Chooser) -> Iterator[None]:
        """One call after the other, each of a thread that is drawn; yields before each."""
        for number, work in enumerate(self.works):
            threading.Thread(target=self._run, args=(number, work), daemon=True).start()
        waiting, running = set[int](), len(self.works)
        while True:
            while running:
                number, error, ended = self.arrived.get(timeout=60)
                if error is not None:
                    raise error
                running -= 1
                if not ended:
                    waiting.add(number)
            if not waiting:
                return
            yield
            turn = choose.choice(sorted(waiting))
            waiting.remove(turn)
            running = 1
            self.turns[turn].release()


def save(connection: Connection, book: LogBook) -> None:
    connection.save_logbook(book)


def save_copy(connection: Connection, book: LogBook) -> None:
    connection.save_logbook(book.copy())


def destroy(connection: Connection, book: LogBook, force: bool = False) -> None:
    with contextlib.suppress(NotFound, FlowOwned):
        connection.destroy_logbook(book.uuid, force=force)


def claim(connection: Connection, book: LogBook) -> None:
    with contextlib.suppress(NotFound, FlowOwned, LeaseLost):
        found = connection.claim(token=new_uuid(), owner="o", lease_seconds=LONG, flow_uuid=next(iter(book)).uuid)
        assert found is not None
        connection.commit(found.lease, found.revision, Changes(flow={"state": states.RUNNING}))
        connection.release(found.lease)


def look(connection: Connection, book: LogBook) -> None:
    with contextlib.suppress(NotFound):
        for _ in range(3):
            assert as_seen(connection.get_logbook(book.uuid)) == WHOLE
            assert as_seen(connection.get_flows_for_book(book.uuid)) == WHOLE


def as_seen(flows: Iterable[FlowDetail]) -> list[str]:
    return sorted(f"{flow.name} {len(flow)}" for flow in flows)


WORKS = (save_copy, save_copy, destroy, functools.partial(destroy, force=True), claim, look)
WHOLE = ["one 2", "two 2"]


def whole_or_nothing(connection: Connection, open_: Open, seed: int) -> None:
    """Six savers, destroyers, claimers and readers of one book: all see the whole of it or nothing. It is gone then."""
    choose = random.Random(seed)
    book = new_book("one", "two")
    for flow in book:
        flow.factory = FACTORY
    if choose.random() < 0.7:
        connection.save_logbook(book.copy())

    def seen() -> list[str]:
        try:
            return as_seen(connection.get_logbook(book.uuid))
        except NotFound:
            return []

    turns = Turns(open_, [functools.partial(choose.choice(WORKS), book=book) for _ in range(6)])
    for _ in turns.play(choose):
        if choose.random() < 0.1:
            assert seen() in ([], WHOLE), seed
    left = seen()
    assert left in ([], WHOLE), seed
    assert sorted(f"{flow.name} 2" for flow in connection.find_flows()) == left, seed
    assert [each.uuid for each in connection.get_logbooks()] == [book.uuid][: len(left)], seed
    if left:
        connection.destroy_logbook(book.uuid, force=True)


def one_version(connection: Connection, open_: Open, seed: int) -> None:
    """Three savers of flows that differ: of each flow one version is seen, whole, from the first time on."""
    choose = random.Random(seed)
    book = new_book("one", "two")
    copies = []
    for number in range(3):
        flows = [flow.copy() for flow in book]
        for flow in flows[:: choose.choice((1, 2))]:
            flow.meta = {"saved by": number}
        copies.append(LogBook.from_record(book.to_record(), flows))
    seen: dict[str, Any] = {}

    def look_again() -> None:
        for flow in book:
            try:
                found = connection.get_flow_details(flow.uuid)
            except NotFound:
                assert flow.uuid not in seen, seed
                continue
            version = (found.created_at, found.meta)
            assert seen.setdefault(flow.uuid, version) == version, seed
            assert [atom.uuid for atom in found] == [atom.uuid for atom in flow], seed

    turns = Turns(open_, [functools.partial(save, book=copy) for copy in copies])
    for _ in turns.play(choose):
        if choose.random() < 0.2:
            look_again()
    look_again()
    assert len(seen) == 2, seed
    assert all(flow.created_at in (None, seen[flow.uuid][0]) for copy in copies for flow in copy), seed
    assert {copy.created_at for copy in copies} == {connection.get_logbook(book.uuid).created_at}, seed
    assert len(connection.find_flows()) == 2, seed
    connection.destroy_logbook(book.uuid)
