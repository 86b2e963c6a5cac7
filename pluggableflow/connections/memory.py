# SPDX-License-Identifier: Apache-2.0
"""The reference implementation of the storage contract: dicts of records under one lock. Read this one first."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pluggableflow import states as flow_states
from pluggableflow.connection import (
    Changes,
    Claim,
    Connection,
    Lease,
    Renewal,
    Request,
    check_names,
    check_request_kind,
    commit_faults,
    pending_request,
    refuse_if_leased,
)
from pluggableflow.exceptions import (
    InvalidState,
    LeaseLost,
    NotFound,
    OptionError,
    StorageFailure,
    ValueTooLarge,
)
from pluggableflow.middleware import FLOW_OWNERSHIP_COLUMNS, AtomDetail, FlowDetail, LogBook, Record


def _wall_clock() -> int:
    return time.time_ns() // 1000


class _ProcessLock:
    """A lock that threads share and that does not follow into a fork, where a thread that is gone might hold it."""

    def __init__(self) -> None:
        self._lock, self._pid = threading.RLock(), os.getpid()

    def __enter__(self) -> None:
        if os.getpid() != self._pid:
            raise StorageFailure("a store in memory does not follow its process into a fork; use a file or a server")
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


class MemoryConnection(Connection):
    """A store that lives as long as this object, in the process that made it.

    :param clock: returns UTC microseconds
    """

    contract_version = 1
    durable = False
    shared = False
    largest_value_bytes = 2**30
    largest_commit_bytes = 2**30

    def __init__(self, clock: Callable[[], int] = _wall_clock) -> None:
        self._clock = clock
        self._lock = _ProcessLock()
        self._books: dict[str, Record] = {}
        self._flows: dict[str, dict[str, Any]] = {}
        self._atoms: dict[str, dict[str, Record]] = {}  # flow uuid to atom uuid to record
        self._names: dict[str, dict[str, str]] = {}  # flow uuid to atom name to atom uuid
        self._flow_of: dict[str, str] = {}  # atom uuid to flow uuid

    @classmethod
    def from_url(cls, url: str) -> MemoryConnection:
        """A new store for ``memory://``.

        :raises OptionError: it has query parameters; there are none
        """
        unknown = sorted(dict(parse_qsl(urlsplit(url).query, keep_blank_values=True)))
        if unknown:
            raise OptionError(f"memory:// takes no parameters, but {', '.join(unknown)} is given")
        return cls()

    # -- life -----------------------------------------------------------------------------------------------------

    def upgrade(self) -> None:
        pass

    def validate(self) -> None:
        pass

    def close(self) -> None:
        pass

    def clear_all(self) -> None:
        with self._lock:
            for records in (self._books, self._flows, self._atoms, self._names, self._flow_of):
                records.clear()

    # -- logbooks -------------------------------------------------------------------------------------------------

    def save_logbook(self, book: LogBook) -> None:
        record = book.to_record()
        flows = [(detail, detail.to_record(), [atom.to_record() for atom in detail]) for detail in book]
        with self._lock:
            flows = [each for each in flows if each[0].uuid not in self._flows]
            for detail, _flow, atoms in flows:
                self._check_atoms(detail.uuid, atoms)
            now = self._clock()
            stored = self._books.get(book.uuid)
            if stored is None:
                stored = self._books[book.uuid] = {**record, "created_at": now}
            stored["meta"], stored["updated_at"] = record["meta"], now
            book.created_at, book.updated_at = stored["created_at"], now  # type: ignore[assignment]
            for detail, flow, atoms in flows:
                self._flows[detail.uuid] = {**flow, "parent_uuid": book.uuid, "created_at": now, "updated_at": now}
                self._atoms[detail.uuid], self._names[detail.uuid] = {}, {}
                detail.created_at = detail.updated_at = now
                self._put_atoms(detail.uuid, atoms)

    def _check_atoms(self, flow_uuid: str, records: Collection[Record]) -> None:
        """Refuse a name that a flow would have twice, before anything is written."""
        check_names(flow_uuid, records, self._names.get(flow_uuid, {}))

    def _put_atoms(self, flow_uuid: str, records: Collection[Record]) -> None:
        atoms, names = self._atoms[flow_uuid], self._names[flow_uuid]
        for record in records:
            uuid, name = str(record["uuid"]), str(record["name"])
            before = atoms.get(uuid)
            if before is not None and names.get(str(before["name"])) == uuid:
                del names[str(before["name"])]
            names[name], self._flow_of[uuid] = uuid, flow_uuid
            atoms[uuid] = {**record, "parent_uuid": flow_uuid}

    def get_logbook(self, book_uuid: str, lazy: bool = False) -> LogBook:
        with self._lock:
            record = dict(self._book(book_uuid))
            return LogBook.from_record(record, () if lazy else self.get_flows_for_book(book_uuid))

    def _book(self, book_uuid: str) -> Record:
        try:
            return self._books[book_uuid]
        except KeyError:
            raise NotFound(f"there is no logbook {book_uuid}") from None

    def get_logbooks(self, lazy: bool = False) -> list[LogBook]:
        with self._lock:
            return [self.get_logbook(str(record["uuid"]), lazy) for record in sorted(self._books.values(), key=_age)]

    def destroy_logbook(self, book_uuid: str, force: bool = False) -> None:
        with self._lock:
            self._book(book_uuid)
            flows = [record for record in self._flows.values() if record["parent_uuid"] == book_uuid]
            if not force:
                for flow in flows:
                    self._refuse_if_leased(flow)
            for flow in flows:
                del self._flows[flow["uuid"]], self._names[flow["uuid"]]
                for uuid in self._atoms.pop(flow["uuid"]):
                    del self._flow_of[uuid]
            del self._books[book_uuid]

    # -- flows ----------------------------------------------------------------------------------------------------

    def _flow(self, flow_uuid: str) -> dict[str, Any]:
        try:
            return self._flows[flow_uuid]
        except KeyError:
            raise NotFound(f"there is no flow {flow_uuid}") from None

    def get_flow_details(self, flow_uuid: str, lazy: bool = False) -> FlowDetail:
        with self._lock:
            record = dict(self._flow(flow_uuid))
            return FlowDetail.from_record(record, () if lazy else self.get_atoms_for_flow(flow_uuid))

    def get_flows_for_book(self, book_uuid: str, lazy: bool = False) -> list[FlowDetail]:
        with self._lock:
            self._book(book_uuid)
            mine = [record for record in self._flows.values() if record["parent_uuid"] == book_uuid]
            return [self.get_flow_details(record["uuid"], lazy) for record in sorted(mine, key=_age)]

    def update_flow_details(self, detail: FlowDetail) -> None:
        record, atoms = detail.to_record(), [atom.to_record() for atom in detail]
        with self._lock:
            stored = self._flow(detail.uuid)
            self._refuse_if_leased(stored)
            self._check_atoms(detail.uuid, atoms)
            kept = {column: stored[column] for column in (*FLOW_OWNERSHIP_COLUMNS, "parent_uuid", "created_at")}
            stored.update(record)
            stored.update(kept)
            stored["revision"] += 2
            stored["updated_at"] = self._clock()
            self._put_atoms(detail.uuid, atoms)

    def find_flows(
        self,
        *,
        states: Collection[str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        created_before: int | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[FlowDetail]:
        with self._lock:
            beyond = _age(self._flow(after)) if after is not None else None
            found = [
                record
                for record in sorted(self._flows.values(), key=_age)
                if (states is None or record["state"] in states)
                and (name is None or record["name"] == name)
                and (owner is None or record["owner"] == owner)
                and (created_before is None or record["created_at"] < created_before)
                and (beyond is None or _age(record) > beyond)
            ]
            return [FlowDetail.listed(record) for record in found[:limit]]

    # -- atoms ----------------------------------------------------------------------------------------------------

    def get_atom_details(self, atom_uuid: str) -> AtomDetail:
        with self._lock:
            return AtomDetail.from_record(self._atom(atom_uuid))

    def _atom(self, atom_uuid: str) -> Record:
        try:
            return self._atoms[self._flow_of[atom_uuid]][atom_uuid]
        except KeyError:
            raise NotFound(f"there is no atom {atom_uuid}") from None

    def get_atoms_for_flow(self, flow_uuid: str) -> list[AtomDetail]:
        with self._lock:
            self._flow(flow_uuid)
            return [AtomDetail.from_record(record) for record in self._atoms[flow_uuid].values()]

    def update_atom_details(self, detail: AtomDetail) -> None:
        record = detail.to_record()
        with self._lock:
            stored = self._atom(detail.uuid)
            flow = self._flow(self._flow_of[detail.uuid])
            self._refuse_if_leased(flow)
            record |= {column: stored[column] for column in ("uuid", "parent_uuid", "kind")}
            self._check_atoms(flow["uuid"], [record])
            self._put_atoms(flow["uuid"], [record])
            flow["revision"] += 2

    # -- hot path -------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        fault = commit_faults(self, changes)
        if fault is not None:
            raise ValueTooLarge(fault)
        with self._lock:
            flow = self._flows.get(lease.flow_uuid)
            if flow is None or flow["token"] != lease.token:
                raise LeaseLost(lease.flow_uuid)
            if flow["revision"] == revision + 1:
                return revision + 1
            if flow["revision"] != revision:
                raise LeaseLost(lease.flow_uuid)
            atoms = self._atoms[lease.flow_uuid]
            for uuid in changes.changed:
                if uuid not in atoms:
                    raise NotFound(f"flow {lease.flow_uuid} has no atom {uuid}")
            for record in changes.added:
                if record["uuid"] in self._flow_of:
                    raise StorageFailure(f"there is an atom {record['uuid']} already")
            renamed = [{**atoms[uuid], **columns} for uuid, columns in changes.changed.items() if "name" in columns]
            self._check_atoms(lease.flow_uuid, [*changes.added, *renamed])
            self._put_atoms(lease.flow_uuid, [*({**record, "revision": 1} for record in changes.added), *renamed])
            for uuid, columns in changes.changed.items():
                atoms[uuid].update(columns)
                atoms[uuid]["revision"] += 1  # type: ignore[operator]
            flow.update(changes.flow)
            flow["revision"] = revision + 1
            flow["updated_at"] = self._clock()
            return revision + 1

    # -- ownership ------------------------------------------------------------------------------------------------

    def _refuse_if_leased(self, flow: dict[str, Any]) -> None:
        refuse_if_leased(flow, self._clock())

    def claim(
        self,
        *,
        token: str,
        owner: str,
        lease_seconds: float,
        flow_uuid: str | None = None,
        evict_epoch: int | None = None,
    ) -> Claim | None:
        with self._lock:
            now = self._clock()
            flow = self._next_claimable(token, now) if flow_uuid is None else self._flow(flow_uuid)
            if flow is None:
                return None
            expires_at = now + int(lease_seconds * 1e6)
            if flow["token"] != token:
                if evict_epoch is None or evict_epoch != flow["epoch"]:
                    self._refuse_if_leased(flow)
                flow["epoch"] += 1
            flow.update(token=token, owner=owner, lease_expires_at=expires_at)
            lease = Lease(flow["uuid"], token, flow["epoch"], owner, expires_at)
            return Claim(lease, flow["revision"], now, pending_request(flow))

    def _next_claimable(self, token: str, now: int) -> dict[str, Any] | None:
        mine = [flow for flow in self._flows.values() if flow["token"] == token]
        if mine:
            return mine[0]
        claimable = [
            flow
            for flow in self._flows.values()
            if flow["state"] in flow_states.RUNNABLE
            and flow["factory"] is not None
            and (flow["token"] is None or flow["lease_expires_at"] <= now)
            and (flow["wake_at"] is None or flow["wake_at"] <= now)
        ]
        return min(claimable, key=lambda flow: (-flow["priority"], *_age(flow)), default=None)

    def renew(self, lease: Lease, lease_seconds: float) -> Renewal:
        with self._lock:
            flow = self._flows.get(lease.flow_uuid)
            if flow is None or flow["token"] != lease.token:
                raise LeaseLost(lease.flow_uuid)
            now = self._clock()
            lease.expires_at = flow["lease_expires_at"] = now + int(lease_seconds * 1e6)
            return Renewal(lease.expires_at, now, pending_request(flow))

    def release(self, lease: Lease) -> None:
        with self._lock:
            flow = self._flows.get(lease.flow_uuid)
            if flow is not None and flow["token"] == lease.token:
                flow["token"] = flow["lease_expires_at"] = None

    def request(self, flow_uuid: str, kind: str, by: str) -> Request:
        check_request_kind(kind)
        with self._lock:
            flow = self._flow(flow_uuid)
            if flow["state"] not in flow_states.UNFINISHED:
                raise InvalidState(f"flow {flow_uuid} has finished: it is {flow['state']}")
            flow["request_sequence"] += 1
            flow.update(request=kind, request_by=by)
            return Request(kind, by, flow["request_sequence"])


def _age(record: Any) -> tuple[int, str]:
    return record["created_at"], record["uuid"]
