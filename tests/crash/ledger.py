# SPDX-License-Identifier: Apache-2.0
"""What a store has acknowledged, kept beside it, so that a test can tell whether anything of it is missing later."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from pluggableflow import states, task
from pluggableflow.connection import Changes, Connection, Lease
from pluggableflow.exceptions import StorageFailure
from pluggableflow.flow import Flow
from pluggableflow.middleware import Record
from pluggableflow.patterns import linear_flow

_EXECUTED = {states.SUCCESS, states.FAILURE, states.REVERTING, states.REVERTED, states.REVERT_FAILURE}
_UNDONE = {states.REVERTED, states.REVERT_FAILURE}


class Known:
    """What is acknowledged of one flow: its revision, and the written columns of the flow and of its atoms."""

    def __init__(self) -> None:
        self.revision = 0
        self.flow: Record = {}
        self.atoms: dict[str, Record] = {}
        self.open: Changes | None = None  # sent without an answer

    def add(self, changes: Changes) -> None:
        self.revision += 1
        self.flow |= changes.flow
        for record in changes.added:  # a store sets these two itself
            given = {column: value for column, value in record.items() if column != "parent_uuid"}
            self.atoms[str(record["uuid"])] = {**given, "revision": 1}
        for uuid, columns in changes.changed.items():
            revision = self.atoms[uuid]["revision"]
            assert isinstance(revision, int)
            self.atoms[uuid] |= {**columns, "revision": revision + 1}


class Ledger:
    """Records the commits of a connection that are answered, and the calls of tasks.

    :param before: called before a commit is sent, with its number, from 1, its flow and the revision that it is on
    :ivar commits: how many were sent, a commit that the connection itself sends again counting once
    :ivar acknowledged: how many were answered
    :ivar applied: commits without an answer that were in the store all the same
    :ivar calls: idempotency key to how often the task was called under it
    :ivar repeated: calls whose outcome had been acknowledged before
    """

    def __init__(
        self, connection: Connection, before: Callable[[int, str, int], object] = lambda number, flow, revision: None
    ) -> None:
        self._before, self._real, self._lock = before, connection.commit, threading.Lock()
        self.connection = connection
        self.flows: dict[str, Known] = {}
        self.commits = self.acknowledged = self.unanswered = self.applied = 0
        self.calls: Counter[str] = Counter()
        self.repeated: list[str] = []
        connection.commit = self._commit  # type: ignore[method-assign]

    def _commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        with self._lock:
            self.commits += 1
            number, known = self.commits, self.flows.setdefault(lease.flow_uuid, Known())
        known.open = changes
        self._before(number, lease.flow_uuid, revision)
        try:
            answer = self._real(lease, revision, changes)
        except StorageFailure:
            self.unanswered += 1
            raise
        assert answer == revision + 1 == known.revision + 1
        known.add(changes)
        known.open = None
        with self._lock:
            self.acknowledged += 1
        return answer

    def call(self, key: str) -> None:
        """A task is called under this idempotency key."""
        flow, atom, attempt, what = key.split("/")
        known = self.flows[flow].atoms.get(atom, {})
        come = (known.get("attempt"), known.get("state") in (_EXECUTED if what == "execute" else _UNDONE))
        with self._lock:
            self.calls[key] += 1
            if come == (int(attempt), True):
                self.repeated.append(key)

    def check(self, flow_uuid: str) -> None:
        """Compare the store with what it acknowledged; a commit without an answer was written as a whole or not."""
        known, detail = self.flows.get(flow_uuid, Known()), self.connection.get_flow_details(flow_uuid)
        changes, known.open = known.open, None
        if changes is not None and detail.revision == known.revision + 1:
            known.add(changes)
            self.applied += 1
        assert detail.revision == known.revision, f"{flow_uuid}: a commit was lost, or applied twice"
        flow, atoms = detail.to_record(), {atom.uuid: atom.to_record() for atom in detail}
        assert flow | known.flow == flow
        assert {uuid: atoms[uuid] | columns for uuid, columns in known.atoms.items()} == {
            uuid: atoms[uuid] for uuid in known.atoms
        }


class Step(task.Task):
    """Tells the ledger of its calls, and runs ``meanwhile`` in them."""

    def __init__(
        self, ledger: Ledger, name: str, meanwhile: Callable[[], object] = lambda: None, fails: bool = False
    ) -> None:
        super().__init__(name=name)
        self._ledger, self._meanwhile, self._fails = ledger, meanwhile, fails

    def execute(self, **kwargs: Any) -> str:
        self._ledger.call(self.idempotency_key)
        self._meanwhile()
        if self._fails:
            raise ValueError(f"{self.name} fails")
        return self.idempotency_key

    def revert(self, **kwargs: Any) -> None:
        self._ledger.call(self.idempotency_key)


def passing(ledger: Ledger) -> Flow:
    return linear_flow.Flow("passing").add(*(Step(ledger, name) for name in "abc"))


def undone(ledger: Ledger) -> Flow:
    return linear_flow.Flow("undone").add(*(Step(ledger, name) for name in "abc"), Step(ledger, "d", fails=True))
