# SPDX-License-Identifier: Apache-2.0
"""The storage contract on a folder of readable JSON files, for processes of one host."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote

from pluggableflow import states as flow_states
from pluggableflow.connection import (
    Changes,
    Claim,
    Connection,
    Lease,
    Renewal,
    Request,
    check_request_kind,
    commit_faults,
    pending_request,
    refuse_if_leased,
)
from pluggableflow.connections import folders
from pluggableflow.connections.folders import Busy, Writer, to_json
from pluggableflow.connections.journal import FlowGone, StoredFlow, read_flow
from pluggableflow.connections.open_flows import OpenFlows
from pluggableflow.connections.store_folder import Seen, StoreFolder
from pluggableflow.exceptions import (
    DamagedRecord,
    InvalidState,
    LeaseLost,
    NotFound,
    OptionError,
    StorageFailure,
    ValueTooLarge,
)
from pluggableflow.middleware import FLOW_OWNERSHIP_COLUMNS, AtomDetail, FlowDetail, LogBook, Record

#: How long a search for work waits for the lock of one flow before it looks at the next.
_PATIENCE_SECONDS = 0.2
#: Atoms of which is remembered where they are.
_KNOWN_ATOMS = 10_000
_PARAMETERS = {"synchronous": ("full", "normal")}
_NEVER_UPDATED = (*FLOW_OWNERSHIP_COLUMNS, "uuid", "parent_uuid", "created_at")


class DirectoryConnection(Connection):
    """Logbooks and flows as folders, atoms as lines of a file; :mod:`store_folder` and :mod:`journal` tell how.

    For thousands of flows, not for millions: a search looks at the files of every flow, and reads those that changed.
    Its clock is the host's; the folder must not be on a network. A process that is stopped in the middle of a write
    holds up the writers of that flow only. There are no transient errors to retry: what the system refuses stays so.

    :param path: the folder; :meth:`upgrade` makes it, but not the one that it is in
    :param synchronous: "full", or "normal", which survives the death of any process, but not the loss of power
    :cvar fold_bytes: size from which a journal is folded into new files, once it is longer than these
    """

    contract_version = 1
    durable = True
    shared = True
    largest_value_bytes = 2**26
    largest_commit_bytes = 2**28
    fold_bytes: ClassVar[int] = 2**20

    def __init__(self, path: str, *, synchronous: str = "full") -> None:
        if synchronous not in _PARAMETERS["synchronous"]:
            raise OptionError(f"synchronous must be full or normal, not {synchronous!r}")
        self.path = os.path.abspath(path)
        self._writer = Writer(synchronous)
        self._store = StoreFolder(self.path, self._writer)
        self._open = OpenFlows(self._store, self._writer, self.fold_bytes)
        self._flow_of: dict[str, str] = {}  # atom uuid to flow uuid, as far as it was asked for

    @classmethod
    def from_url(cls, url: str) -> DirectoryConnection:
        """The store that ``dir:///absolute/folder`` or ``dir://relative/folder?synchronous=normal`` names.

        ``file://`` is the same. What has a meaning in a URL (``%``, ``?``) is written as ``%25``, ``%3f`` in a path.

        :raises OptionError: a parameter is unknown or has an impossible value
        """
        scheme, _, rest = url.partition("://")
        path, _, query = rest.partition("?")
        options: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in _PARAMETERS:
                raise OptionError(f"{scheme} has no parameter {name!r}; it has {', '.join(sorted(_PARAMETERS))}")
            if value.lower() not in _PARAMETERS[name] or name in options:
                raise OptionError(f"{name} must be {' or '.join(_PARAMETERS[name])}, not {value!r}")
            options[name] = value.lower()
        path = unquote(path)
        if not path or "\0" in path:
            raise OptionError(f"{url!r} names no folder; write {scheme}:///absolute/folder or {scheme}://folder")
        return cls(path, **options)

    # -- life -----------------------------------------------------------------------------------------------------

    def upgrade(self) -> None:
        with self._store.errors():
            self._store.upgrade()

    def validate(self) -> None:
        with self._store.errors():
            self._store.validate()

    def close(self) -> None:
        self._open.clear()

    def clear_all(self) -> None:
        with self._store.errors():
            with folders.locked(self.path):
                hidden = [folders.trash(path, self.path) for path in self._store.book_paths()]
            self._writer.sync_folder(self.path)
            folders.delete(hidden)

    # -- logbooks -------------------------------------------------------------------------------------------------

    def save_logbook(self, book: LogBook) -> None:
        record = book.to_record()
        flows = {detail.uuid: (detail.to_record(), [atom.to_record() for atom in detail]) for detail in book}
        with self._store.errors():
            stored, created = self._store.save(record, flows, _now())
        book.created_at, book.updated_at = stored["created_at"], stored["updated_at"]  # type: ignore[assignment]
        for detail in book:
            if detail.uuid in created:
                detail.created_at = detail.updated_at = book.updated_at

    def get_logbook(self, book_uuid: str, lazy: bool = False) -> LogBook:
        with self._store.errors():
            if lazy:
                return LogBook.from_record(self._store.found_book(book_uuid)[0])
            return LogBook.from_record(*self._whole(book_uuid, lazy=False))

    def get_logbooks(self, lazy: bool = False) -> list[LogBook]:
        with self._store.errors():
            found = []
            for path in self._store.book_paths():
                with contextlib.suppress(FileNotFoundError, NotFound):  # destroyed meanwhile
                    record, _flows = self._store.read_book(path)
                    found.append(self.get_logbook(str(record["uuid"]), lazy))
            return sorted(found, key=lambda book: (book.created_at or 0, book.uuid))

    def destroy_logbook(self, book_uuid: str, force: bool = False) -> None:
        path = self._store.book_path(book_uuid)
        with self._store.errors():
            while True:
                try:
                    # Excludes claims and renewals, so that a lease that is not there now will not be there.
                    with folders.locked(path):
                        if not force:
                            self._refuse_if_any_is_leased(path)
                        hidden = self._store.remove(path)
                        break
                except FileNotFoundError:
                    self._store.found_book(book_uuid)  # it may have been destroyed, and saved again
            self._writer.sync_folder(os.path.dirname(path))
            folders.delete([hidden])
            folders.sweep(self.path)

    def _refuse_if_any_is_leased(self, book_path: str) -> None:
        for uuid in self._store.flows_of(book_path):
            with contextlib.suppress(FlowGone):  # somebody took its folder away
                refuse_if_leased(read_flow(self._store.flow_path(book_path, uuid), uuid, False).flow, _now())

    # -- flows ----------------------------------------------------------------------------------------------------

    def _whole(self, book_uuid: str, lazy: bool) -> tuple[Record, list[FlowDetail]]:
        """A book and its flows, of a moment between two saves or destructions of it."""
        seen = self._store.found_book(book_uuid)
        while True:
            flows = self._flows(self._store.book_path(book_uuid), seen[1], lazy)
            again = self._store.found_book(book_uuid)
            if again == seen:
                return seen[0], flows
            seen = again

    def _flows(self, book_path: str, uuids: list[str], lazy: bool) -> list[FlowDetail]:
        found: list[StoredFlow] = []
        for uuid in uuids:
            with contextlib.suppress(FlowGone):  # the book was destroyed meanwhile, or somebody took its folder away
                found.append(read_flow(self._store.flow_path(book_path, uuid), uuid, not lazy))
        found.sort(key=lambda each: _age(each.flow))
        return [_detail(each) for each in found]

    def _read(self, flow_uuid: str, with_atoms: bool) -> StoredFlow:
        try:
            return read_flow(self._store.found_flow(flow_uuid), flow_uuid, with_atoms)
        except FlowGone:
            raise NotFound(f"there is no flow {flow_uuid}") from None

    def get_flow_details(self, flow_uuid: str, lazy: bool = False) -> FlowDetail:
        with self._store.errors():
            return _detail(self._read(flow_uuid, not lazy))

    def get_flows_for_book(self, book_uuid: str, lazy: bool = False) -> list[FlowDetail]:
        with self._store.errors():
            return self._whole(book_uuid, lazy)[1]

    def update_flow_details(self, detail: FlowDetail) -> None:
        columns = {column: value for column, value in detail.to_record().items() if column not in _NEVER_UPDATED}
        atoms: list[Record] = [{**atom.to_record(), "parent_uuid": detail.uuid} for atom in detail]
        encoded = to_json(atoms)
        with self._open.writing(detail.uuid, with_atoms=True) as folder:
            refuse_if_leased(folder.flow, _now())
            folder.check_names(atoms)
            columns |= {"revision": folder.flow["revision"] + 2, "updated_at": _now()}
            folder.append({"flow": columns, "put": atoms}, b'{"flow":%s,"put":%s}' % (to_json(columns), encoded))

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
        with self._store.errors():
            seen = sorted(self._store.scan(), key=_age_of_seen)
            beyond = None
            if after is not None:
                last = next((each for each in seen if each.uuid == after), None)
                if last is None:
                    raise NotFound(f"there is no flow {after}")
                beyond = _age_of_seen(last)
        conditions = [condition for condition in (states, name, owner, created_before) if condition is not None]
        found = [
            each
            for each in seen
            if (beyond is None or _age_of_seen(each) > beyond)
            and (
                not conditions
                if each.record is None
                else (states is None or each.record["state"] in states)
                and (name is None or each.record["name"] == name)
                and (owner is None or each.record["owner"] == owner)
                and (created_before is None or each.record["created_at"] < created_before)
            )
        ]
        return [_listed(each) for each in found[:limit]]

    # -- atoms ----------------------------------------------------------------------------------------------------

    def get_atom_details(self, atom_uuid: str) -> AtomDetail:
        with self._store.errors():
            return AtomDetail.from_record(self._atom(atom_uuid)[0].atoms[atom_uuid])

    def _atom(self, atom_uuid: str) -> tuple[StoredFlow, str]:
        """The flow that an atom belongs to, with its atoms, and the flow's uuid.

        :raises NotFound: there is no such atom
        :raises DamagedRecord: it stands in files that cannot be read
        """
        known = self._flow_of.get(atom_uuid)
        if known is not None:
            with contextlib.suppress(NotFound):
                stored = self._read(known, with_atoms=True)
                if atom_uuid in stored.atoms:
                    return stored, known
        damage = None
        for flow_uuid, path in self._store.flows_that_mention(atom_uuid):
            try:
                stored = read_flow(path, flow_uuid, with_atoms=True)
            except FlowGone:
                continue
            except DamagedRecord as error:
                damage = error
            else:
                if atom_uuid in stored.atoms:
                    if len(self._flow_of) >= _KNOWN_ATOMS:
                        self._flow_of.clear()
                    self._flow_of[atom_uuid] = flow_uuid
                    return stored, flow_uuid
        raise damage or NotFound(f"there is no atom {atom_uuid}")

    def get_atoms_for_flow(self, flow_uuid: str) -> list[AtomDetail]:
        with self._store.errors():
            return [AtomDetail.from_record(record) for record in self._read(flow_uuid, True).atoms.values()]

    def update_atom_details(self, detail: AtomDetail) -> None:
        record = detail.to_record()
        columns = {column: record[column] for column in record if column not in ("uuid", "parent_uuid", "kind")}
        with self._store.errors():
            _stored, flow_uuid = self._atom(detail.uuid)
        with self._open.writing(flow_uuid, with_atoms=True) as folder:
            if detail.uuid not in (folder.atom_names or ()):
                raise NotFound(f"there is no atom {detail.uuid}")
            refuse_if_leased(folder.flow, _now())
            folder.check_names([record])
            change = {"flow": {"revision": folder.flow["revision"] + 2}, "changed": {detail.uuid: columns}}
            folder.append(change, to_json(change))

    # -- hot path -------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        fault = commit_faults(self, changes)
        if fault is not None:
            raise ValueTooLarge(fault)
        # All is made ready before the lock is taken, so that it is held for one write.
        change = {
            "flow": {**changes.flow, "revision": revision + 1, "updated_at": _now()},
            "put": [{**record, "parent_uuid": lease.flow_uuid, "revision": 1} for record in changes.added],
            "changed": changes.changed,
        }
        body = to_json(change)
        entered = False
        try:
            with self._open.writing(lease.flow_uuid, with_atoms=True) as folder:
                entered = True
                flow, known = folder.flow, folder.atom_names
                if flow["token"] != lease.token or flow["revision"] not in (revision, revision + 1):
                    raise LeaseLost(lease.flow_uuid)
                if flow["revision"] == revision:
                    for uuid in changes.changed:
                        if known is None or uuid not in known:
                            raise NotFound(f"flow {lease.flow_uuid} has no atom {uuid}")
                    for record in changes.added:
                        if known is not None and record["uuid"] in known:
                            raise StorageFailure(f"flow {lease.flow_uuid} has an atom {record['uuid']} already")
                    folder.check_names(changes.added)
                    folder.append(change, body)
        except NotFound:
            if entered:
                raise
            raise LeaseLost(lease.flow_uuid) from None
        return revision + 1

    # -- ownership ------------------------------------------------------------------------------------------------

    def claim(
        self,
        *,
        token: str,
        owner: str,
        lease_seconds: float,
        flow_uuid: str | None = None,
        evict_epoch: int | None = None,
    ) -> Claim | None:
        if flow_uuid is not None:
            return self._claim(flow_uuid, token, owner, lease_seconds, evict_epoch)
        with self._store.errors():
            seen = [each for each in self._store.scan() if each.record is not None]
        for each in seen:
            if each.record is not None and each.record["token"] == token:
                return self._claim(each.uuid, token, owner, lease_seconds, None)
        now = _now()
        candidates = [(_urgency(each.record), each.uuid) for each in seen if _is_claimable(each.record, now)]
        for _urgency_of_it, uuid in sorted(candidates):
            # Others may have claimed it since, or be stopped while they hold its lock.
            with contextlib.suppress(Busy, NotFound, DamagedRecord):
                claim = self._claim(uuid, token, owner, lease_seconds, None, by_scan=True)
                if claim is not None:
                    return claim
        return None

    def _claim(
        self,
        flow_uuid: str,
        token: str,
        owner: str,
        lease_seconds: float,
        evict_epoch: int | None,
        by_scan: bool = False,
    ) -> Claim | None:
        patience = _PATIENCE_SECONDS if by_scan else None
        with (
            self._open.book_of(flow_uuid, patience),
            self._open.writing(flow_uuid, patience_seconds=patience) as folder,
        ):
            flow, now = folder.flow, _now()
            if by_scan and not _is_claimable(flow, now):
                return None
            epoch = flow["epoch"]
            if flow["token"] != token:
                if evict_epoch is None or evict_epoch != epoch:
                    refuse_if_leased(flow, _now())
                epoch += 1
            expires_at = now + int(lease_seconds * 1e6)
            change = {"flow": {"token": token, "owner": owner, "epoch": epoch, "lease_expires_at": expires_at}}
            folder.append(change, to_json(change))
            lease = Lease(flow_uuid, token, epoch, owner, expires_at)
            return Claim(lease, flow["revision"], now, pending_request(flow))

    def renew(self, lease: Lease, lease_seconds: float) -> Renewal:
        try:
            with self._open.book_of(lease.flow_uuid), self._open.writing(lease.flow_uuid, renewing=True) as folder:
                if folder.flow["token"] != lease.token:
                    raise LeaseLost(lease.flow_uuid)
                now = _now()
                change = {"flow": {"lease_expires_at": now + int(lease_seconds * 1e6)}}
                folder.append(change, to_json(change))
                lease.expires_at = change["flow"]["lease_expires_at"]
                return Renewal(lease.expires_at, now, pending_request(folder.flow))
        except NotFound:
            raise LeaseLost(lease.flow_uuid) from None

    def release(self, lease: Lease) -> None:
        with contextlib.suppress(NotFound), self._open.writing(lease.flow_uuid) as folder:
            if folder.flow["token"] == lease.token:
                change = {"flow": {"token": None, "lease_expires_at": None}}
                folder.append(change, to_json(change))
        self._open.forget(lease.flow_uuid)

    def request(self, flow_uuid: str, kind: str, by: str) -> Request:
        check_request_kind(kind)
        with self._open.writing(flow_uuid) as folder:
            flow = folder.flow
            if flow["state"] not in flow_states.UNFINISHED:
                raise InvalidState(f"flow {flow_uuid} has finished: it is {flow['state']}")
            sequence = flow["request_sequence"] + 1
            change = {"flow": {"request": kind, "request_by": by, "request_sequence": sequence}}
            folder.append(change, to_json(change))
        return Request(kind, by, sequence)


def _now() -> int:
    return time.time_ns() // 1000


def _age(record: Any) -> tuple[int, str]:
    return record["created_at"], record["uuid"]


def _age_of_seen(seen: Seen) -> tuple[int, str]:
    return (0, seen.uuid) if seen.record is None else _age(seen.record)


def _urgency(record: Any) -> tuple[int, int, str]:
    return (-record["priority"], *_age(record))


def _is_claimable(record: Any, now: int) -> bool:
    return (
        record["state"] in flow_states.RUNNABLE
        and record["factory"] is not None
        and (record["token"] is None or (record["lease_expires_at"] or 0) <= now)
        and (record["wake_at"] is None or record["wake_at"] <= now)
    )


def _detail(stored: StoredFlow) -> FlowDetail:
    return FlowDetail.from_record(stored.flow, [AtomDetail.from_record(record) for record in stored.atoms.values()])


def _listed(seen: Seen) -> FlowDetail:
    if seen.record is not None:
        return FlowDetail.listed(seen.record)
    detail = FlowDetail("", seen.uuid)
    detail.damage = seen.damage
    return detail
