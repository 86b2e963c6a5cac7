# SPDX-License-Identifier: Apache-2.0
"""The storage contract on Redis. The head of the package tells the protocol, all keys and all fields."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import redis

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
)
from pluggableflow.exceptions import (
    DamagedRecord,
    InvalidState,
    LeaseLost,
    NotFound,
    OptionError,
    StorageFailure,
    ValueTooLarge,
)
from pluggableflow.middleware import FLOW_OWNERSHIP_COLUMNS, AtomDetail, FlowDetail, LogBook
from pluggableflow_redis import flow_scripts, lease_scripts
from pluggableflow_redis.books import Books, owned
from pluggableflow_redis.client import Client, Script, client_from_url, packed, place_of
from pluggableflow_redis.index import Index
from pluggableflow_redis.keys import Keys, age, of_age, of_hint
from pluggableflow_redis.records import (
    atom_fields,
    atom_names,
    atom_record,
    atoms_of,
    book_record,
    flow_fields,
    flow_record,
    listed,
    pairs,
)
from pluggableflow_redis.server import check_version, set_version, survey

LOG = logging.getLogger(__name__)

#: Columns that decide whether, when and before which others a scan takes a flow.
_SCANNED = frozenset({"state", "factory", "wake_at", "priority", "token", "lease_expires_at"})
_NEVER_UPDATED = frozenset({*FLOW_OWNERSHIP_COLUMNS, "uuid", "parent_uuid", "created_at", "updated_at"})


class RedisConnection(Connection):
    """Logbooks, flows and atoms in a Redis server of version 6.2 or later, behind sentinels, or in a cluster.

    ``durable`` is true once :meth:`upgrade` or :meth:`validate` has seen that the server keeps an append-only file.
    Even so a failover can lose what a server had acknowledged and not yet sent to its replica.

    :param client: used as it is, and left open by :meth:`close`; may decode responses or not
    :param prefix: of all keys
    """

    contract_version = 1
    config_module = "pluggableflow_redis.config"
    durable = False
    shared = True
    largest_value_bytes = 2**26
    largest_commit_bytes = 2**27

    def __init__(self, client: Any, *, prefix: str = "pluggableflow_") -> None:
        if not isinstance(prefix, str) or len(prefix) > 60 or not all(_is_plain(each) for each in prefix):
            raise OptionError(f"prefix must be at most 60 letters, digits and any of _-.: but not {prefix!r}")
        self._client = client if isinstance(client, Client) else Client(client, place_of(client))
        self._keys = Keys(prefix)
        self._index = Index(self._client, self._keys)
        self._books = Books(self._client, self._keys, self._index)
        self._surveyed = False

    @classmethod
    def from_url(cls, url: str) -> RedisConnection:
        """The store that a URL names.

        ``redis://user:password@host:port/0``, ``redis+sentinel://host:port,host:port/SERVICE/0``,
        ``redis+cluster://host:port,host:port``; each with ``rediss`` for TLS. Parameters: ``prefix``, and those of
        the driver that an error lists.

        :raises OptionError: a part is unknown or has an impossible value
        """
        client, options = client_from_url(url)
        return cls(client, **options)

    @classmethod
    def from_client(cls, client: Any) -> RedisConnection | None:
        """A connection over an embedder's client; ``None`` for anything else.

        Where its pool is bounded, a renewal waits for, or fails for want of, a free place in it like any other call.
        """
        return cls(client) if isinstance(client, (redis.Redis, redis.RedisCluster)) else None

    # -- life -----------------------------------------------------------------------------------------------------

    def upgrade(self) -> None:
        set_version(self._client, self._keys)
        self._survey()
        self._books.sweep()
        self._index.sweep()

    def validate(self) -> None:
        check_version(self._client, self._keys)
        self._survey()

    def _survey(self) -> None:
        if not self._surveyed:
            self.durable, faults = survey(self._client)
            for fault in faults:
                LOG.warning("%s: %s", self._client.place, fault)
            self._surveyed = True

    def close(self) -> None:
        self._client.close()

    def clear_all(self) -> None:
        self._books.clear()

    # -- scripts --------------------------------------------------------------------------------------------------

    def _ask(
        self,
        script: Script,
        flow_uuid: str,
        arguments: list[Any],
        hint_at: int | None = None,
        stop: bool = False,
        pack: bool = False,
    ) -> Sequence[Any]:
        """Run a script on a flow until it no longer asks for an entry in the index, or for the book's word.

        :param hint_at: where the entry's number and time go in ``arguments``
        :param stop: also stop an operation that is about to destroy the book
        :param pack: the script takes its arguments packed
        """
        keys = self._keys.flow(flow_uuid)
        while True:
            sent = (packed(arguments),) if pack else arguments
            answer: Sequence[Any] = self._client.run(script, keys, sent)
            if not isinstance(answer, list):  # a status, which costs the driver less to read
                answer = [answer]
            if answer[0] == b"hint":
                assert hint_at is not None
                arguments[hint_at : hint_at + 2] = self._index.add_hint(flow_uuid, answer)
            elif answer[0] == b"marked":
                if not self._books.resolve(flow_uuid, answer[1], answer[2].decode("utf-8"), stop=stop):
                    return [b"none"]
                arguments[0] = answer[1]
            else:
                return answer

    def _read(self, flow_uuids: Sequence[str], atoms: bool) -> Iterator[tuple[str, Any]]:
        """The fields of flows and of their atoms, sent for together; flows that do not exist are left out."""
        arguments = [b"", int(atoms)]
        answers = self._client.run_many((flow_scripts.READ, self._keys.flow(uuid), arguments) for uuid in flow_uuids)
        for uuid, answer in zip(flow_uuids, answers, strict=True):
            if isinstance(answer, Exception) or answer[0] == b"marked":
                answer = self._ask(flow_scripts.READ, uuid, list(arguments))
            if answer[0] == b"ok":
                yield uuid, answer

    # -- logbooks -------------------------------------------------------------------------------------------------

    def save_logbook(self, book: LogBook) -> None:
        self._books.save(book)

    def get_logbook(self, book_uuid: str, lazy: bool = False) -> LogBook:
        while True:
            _, fields, flows = self._books.read(book_uuid)
            if not fields:
                raise NotFound(f"there is no logbook {book_uuid}")
            found = [] if lazy else self._flows_of(book_uuid, flows, False)
            if found is not None:
                return LogBook.from_record(book_record(book_uuid, fields), found)

    def _flows_of(self, book_uuid: str, flows: Mapping[bytes, bytes], lazy: bool) -> list[FlowDetail] | None:
        """The flows of a book as it was just read; ``None``: it is another one by now."""
        found = []
        for uuid, answer in self._read([uuid.decode("utf-8") for uuid in flows], not lazy):
            detail = FlowDetail.from_record(flow_record(uuid, pairs(answer[1])), atoms_of(answer[2]))
            if detail.parent_uuid == book_uuid and b"%d" % (detail.created_at or 0) == flows[uuid.encode()]:
                found.append(detail)
        if len(found) < len(flows):
            _, _, again = self._books.read(book_uuid)
            if again != flows:
                return None
        return sorted(found, key=_age)

    def get_logbooks(self, lazy: bool = False) -> list[LogBook]:
        found = []
        for page in self._index.books():
            for created_at, uuid in map(of_age, page):
                try:
                    book = self.get_logbook(uuid, lazy)
                except NotFound:
                    continue
                if book.created_at == created_at:
                    found.append(book)
        return found

    def destroy_logbook(self, book_uuid: str, force: bool = False) -> None:
        self._books.destroy(book_uuid, force)

    # -- flows ----------------------------------------------------------------------------------------------------

    def get_flow_details(self, flow_uuid: str, lazy: bool = False) -> FlowDetail:
        answer = self._flow(flow_uuid, not lazy)
        return FlowDetail.from_record(flow_record(flow_uuid, pairs(answer[1])), atoms_of(answer[2]))

    def _flow(self, flow_uuid: str, atoms: bool) -> Sequence[Any]:
        for _, answer in self._read([flow_uuid], atoms):
            found: Sequence[Any] = answer
            return found
        raise _no_flow(flow_uuid)

    def get_flows_for_book(self, book_uuid: str, lazy: bool = False) -> list[FlowDetail]:
        while True:
            _, fields, flows = self._books.read(book_uuid)
            if not fields:
                raise NotFound(f"there is no logbook {book_uuid}")
            found = self._flows_of(book_uuid, flows, lazy)
            if found is not None:
                return found

    def update_flow_details(self, detail: FlowDetail) -> None:
        put, drop = flow_fields(detail.to_record(), _NEVER_UPDATED)
        atoms = [{**atom.to_record(), "parent_uuid": detail.uuid} for atom in detail]
        check_names(detail.uuid, atoms, {})
        arguments = [b"", b"", b"", 0, len(put), len(drop)]
        arguments += _updates(atoms, [*put, *drop])
        created_at = self._client.command("HGET", self._keys.flow(detail.uuid)[0], "created_at")
        if created_at is None:
            raise _no_flow(detail.uuid)
        if not created_at.isdigit():
            raise DamagedRecord("flow", detail.uuid, f"its created_at is no number: {created_at!r}")
        self._index.add_atoms(detail.uuid, int(created_at), (atom.uuid for atom in detail))
        answer = self._ask(flow_scripts.UPDATE, detail.uuid, arguments, 1, pack=True)
        if answer[0] == b"none":
            raise _no_flow(detail.uuid)
        self._refuse(detail.uuid, answer)

    def _refuse(self, flow_uuid: str, answer: Sequence[Any]) -> None:
        """Raise what an answer other than ``ok`` stands for."""
        what = answer[0]
        if what == b"owned":
            raise owned(flow_uuid, answer)
        if what == b"lost":
            raise LeaseLost(flow_uuid)
        if what == b"missing":
            raise NotFound(f"flow {flow_uuid} has no atom {answer[1].decode('utf-8')}")
        if what == b"double":
            raise StorageFailure(f"flow {flow_uuid} has an atom {answer[1].decode('utf-8')!r} already")
        if what == b"damaged":
            raise DamagedRecord("atom", answer[1].decode("utf-8"), "its revision is no number")
        if what not in (b"ok", b"none"):
            raise StorageFailure(f"{self._client.place} gave an answer to another question: {answer!r}")

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
        first, last = b"-", b"+"
        if after is not None:
            read = flow_record(after, pairs(self._flow(after, False)[1]))
            first = b"(" + age(int(read["created_at"] or 0), after)
        if created_before is not None:
            last = b"(%016x" % max(created_before, 0)
        found: list[FlowDetail] = []
        for page in self._index.flows(first, last, limit) if states is None or states else ():
            members = [of_age(member) for member in page]
            details = {
                uuid: listed(uuid, pairs(answer[1]))
                for uuid, answer in self._read(list(dict.fromkeys(uuid for _, uuid in members)), False)
            }
            for created_at, uuid in members:
                detail = details.get(uuid)
                if (
                    detail is not None
                    and detail.created_at == created_at
                    and (states is None or detail.state in states)
                    and (name is None or detail.name == name)
                    and (owner is None or detail.owner == owner)
                ):
                    found.append(detail)
                    if len(found) == limit:
                        return found
        return found

    # -- atoms ----------------------------------------------------------------------------------------------------

    def _candidates(self, atom_uuid: str) -> Iterator[str]:
        """The flow that may have an atom, then others that may."""
        known = self._index.flow_of_atom(atom_uuid)
        if known is not None:
            yield known
        yield from self._index.recent()

    def get_atom_details(self, atom_uuid: str) -> AtomDetail:
        arguments = [b"", atom_uuid.encode(), *atom_names(atom_uuid)]
        for flow_uuid in self._candidates(atom_uuid):
            answer = self._ask(flow_scripts.READ_ATOM, flow_uuid, list(arguments))
            if answer[0] == b"ok":
                return AtomDetail.from_record(atom_record(atom_uuid, answer[1]))
        raise _no_atom(atom_uuid)

    def get_atoms_for_flow(self, flow_uuid: str) -> list[AtomDetail]:
        return atoms_of(self._flow(flow_uuid, True)[2])

    def update_atom_details(self, detail: AtomDetail) -> None:
        record = {
            column: value
            for column, value in detail.to_record().items()
            if column not in ("uuid", "parent_uuid", "kind")
        }
        rest = _updates([{"uuid": detail.uuid, **record}], [])
        for flow_uuid in self._candidates(detail.uuid):
            answer = self._ask(flow_scripts.UPDATE, flow_uuid, [b"", b"", b"", 1, 0, 0, *rest], 1, pack=True)
            if answer[0] not in (b"none", b"missing"):
                self._refuse(flow_uuid, answer)
                return
        raise _no_atom(detail.uuid)

    # -- hot path -------------------------------------------------------------------------------------------------

    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        fault = commit_faults(self, changes)
        if fault is not None:
            raise ValueTooLarge(fault)
        put, drop = flow_fields(changes.flow)
        put += ("revision", revision + 1)
        atom_put: list[Any] = []
        atom_drop: list[str] = []
        fields: list[str] = []
        names: list[Any] = []
        for uuid, columns in changes.changed.items():
            fields.append(uuid + ":revision")
            atom_fields(uuid, columns, atom_put, atom_drop)
        for record in changes.added:
            uuid = str(record["uuid"])
            fields.append(uuid + ":position")
            names += (record["name"], uuid)
            atom_fields(uuid, {**record, "parent_uuid": lease.flow_uuid, "revision": 1}, atom_put)
        arguments = [lease.token, revision, "", "", len(put), len(drop), len(changes.changed), len(changes.added)]
        arguments += (len(atom_drop), *put, *drop, *fields, *names, *atom_drop, *atom_put)
        script = flow_scripts.COMMIT if _SCANNED.isdisjoint(changes.flow) else flow_scripts.COMMIT_SCANNED
        self._refuse(lease.flow_uuid, self._ask(script, lease.flow_uuid, arguments, 2, pack=True))
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
        evict = b"" if evict_epoch is None else b"%d" % evict_epoch
        rest = [token.encode(), owner.encode(), int(lease_seconds * 1e6), evict]
        if flow_uuid is None:
            return self._scan(token, owner, rest)
        self._index.claiming(flow_uuid, token)
        answer = self._ask(lease_scripts.CLAIM, flow_uuid, [b"", b"", b"", *rest, b""], 1, stop=True)
        if answer[0] == b"ok":
            return _claim(flow_uuid, token, owner, answer)
        self._index.released(flow_uuid, token)
        self._refuse(flow_uuid, answer)
        raise _no_flow(flow_uuid)

    def _scan(self, token: str, owner: str, rest: list[Any]) -> Claim | None:
        """Try what the index lists as ready, one by one, until a flow is taken."""
        after = tried = gone = later = b""
        until, earlier = 0, True
        while True:
            picked = self._index.pick(token, after, tried, gone, later, until, earlier)
            earlier, gone, later = False, b"", b""
            if picked[0] == b"none":
                return None
            if picked[0] == b"mine":
                flow_uuid, number = picked[1].decode("utf-8"), b""
                if not self._client.run(lease_scripts.HOLDS, self._keys.flow(flow_uuid), (rest[0],)):
                    continue
            else:
                after = picked[1]
                flow_uuid, place = of_hint(after)
                number = b"%d" % place
            tried = flow_uuid.encode()
            try:
                answer = self._ask(lease_scripts.CLAIM, flow_uuid, [b"", b"", b"", *rest, number], 1, stop=True)
            except StorageFailure as failure:
                if not isinstance(failure.__cause__, redis.exceptions.ResponseError):
                    raise
                LOG.warning("flow %s is damaged and passed over by claims: %s", flow_uuid, failure)
                continue
            if answer[0] == b"ok":
                if number:
                    self._index.put_off(after, int(answer[5]))
                return _claim(flow_uuid, token, owner, answer)
            if answer[0] == b"later":
                later, until = after, int(answer[1])
            elif answer[0] == b"stale" or (answer[0] == b"none" and not self._exists(flow_uuid)):
                gone = after

    def _exists(self, flow_uuid: str) -> bool:
        """Whether there is anything of a flow, also what nobody sees yet."""
        return bool(self._client.command("EXISTS", self._keys.flow(flow_uuid)[0]))

    def renew(self, lease: Lease, lease_seconds: float) -> Renewal:
        arguments = [lease.token.encode(), b"", b"", int(lease_seconds * 1e6)]
        answer = self._ask(lease_scripts.RENEW, lease.flow_uuid, arguments, 1)
        self._refuse(lease.flow_uuid, answer)
        lease.expires_at = int(answer[1])
        return Renewal(lease.expires_at, int(answer[2]), _request(answer[3:]))

    def release(self, lease: Lease) -> None:
        answer = self._ask(lease_scripts.RELEASE, lease.flow_uuid, [lease.token.encode(), b"", b""], 1)
        if answer[0] != b"ok":
            return
        if answer[1]:
            number, priority, created_at = (int(part) for part in answer[1:4])
            self._index.remove_hint(lease.flow_uuid, number, priority, created_at)
        if answer[4]:
            self._index.index_atoms(lease.flow_uuid)
        self._index.released(lease.flow_uuid, lease.token)

    def request(self, flow_uuid: str, kind: str, by: str) -> Request:
        check_request_kind(kind)
        answer = self._ask(flow_scripts.REQUEST, flow_uuid, [b"", kind.encode(), by.encode()])
        if answer[0] == b"none":
            raise _no_flow(flow_uuid)
        if answer[0] == b"finished":
            raise InvalidState(f"flow {flow_uuid} has finished: it is {(answer[1] or b'?').decode('utf-8')}")
        return Request(kind, by, int(answer[1]))


def _is_plain(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character in "_-.:")


def _age(detail: FlowDetail) -> tuple[int, str]:
    return detail.created_at or 0, detail.uuid


def _no_flow(uuid: str) -> NotFound:
    return NotFound(f"there is no flow {uuid}")


def _no_atom(uuid: str) -> NotFound:
    return NotFound(f"there is no atom {uuid}")


def _updates(atoms: Sequence[Any], flow: list[Any]) -> list[Any]:
    """The rest of the arguments of ``UPDATE``."""
    put: list[Any] = []
    drop: list[str] = []
    names: list[str] = []
    for atom in atoms:
        atom_fields(atom["uuid"], atom, put, drop)
        names += (atom["uuid"], atom["name"])
    return [len(put), len(drop), len(names) // 2, *flow, *put, *drop, *names]


def _request(values: Sequence[Any]) -> Request | None:
    kind, by, sequence, handled = values
    if kind is None or int(sequence) <= int(handled):
        return None
    return Request(kind.decode("utf-8"), by.decode("utf-8"), int(sequence))


def _claim(flow_uuid: str, token: str, owner: str, answer: Sequence[Any]) -> Claim:
    lease = Lease(flow_uuid, token, int(answer[1]), owner, int(answer[2]))
    return Claim(lease, int(answer[3]), int(answer[4]), _request(answer[6:10]))
