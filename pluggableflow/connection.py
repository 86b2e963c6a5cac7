# SPDX-License-Identifier: Apache-2.0
"""The shared storage interface that every backend implements, and the data that crosses it.

A backend holds three kinds of records (:mod:`pluggableflow.middleware` lists their columns): logbooks, flows that
belong to a logbook, atoms that belong to a flow. It has no rule of its own about flows: it stores what it is told,
atomically, and answers who may write. Everything an author of a backend must know stands in this module;
:class:`pluggableflow.testing.ConnectionTests` checks it.

Rules that hold for every method:

* A connection may be used from several threads at once. After a fork the child gets its own resources or a clear
  :class:`StorageFailure`; it never shares a socket with its parent.
* Driver exceptions become :class:`StorageFailure` or a child of it, with the driver's exception as the cause.
* Names and ids are compared by code point: ``'a'``, ``'A'`` and ``'a '`` are three names.
* Times are UTC microseconds by the store's clock, taken inside the statement that uses them.
* A list is ordered oldest first: by creation, ties by uuid; atoms by the order in which they were first written.
* An unknown uuid raises :class:`NotFound` naming it, unless the method says otherwise.
* A record that cannot be read raises :class:`DamagedRecord` naming it, and hinders no call about other records.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pluggableflow.exceptions import FlowOwned, OptionError, StorageFailure
from pluggableflow.middleware import AtomDetail, FlowDetail, LogBook, Record

#: Version of this contract. A plugin declares the one it was written against.
CONTRACT_VERSION = 1

SUSPEND = "SUSPEND"
CANCEL = "CANCEL"
CANCEL_AND_REVERT = "CANCEL_AND_REVERT"
#: What a number counts in the size of a commit.
_NUMBER_BYTES = 16

REQUEST_KINDS = (SUSPEND, CANCEL, CANCEL_AND_REVERT)


@dataclass(slots=True)
class Lease:
    """The right to commit to one flow until a time.

    :ivar token: random value that proves it
    :ivar epoch: number that orders the holders of a flow, from 1
    :ivar expires_at: after this time another owner may take the flow; until somebody does, it still commits
    """

    flow_uuid: str
    token: str
    epoch: int
    owner: str
    expires_at: int


@dataclass(slots=True, frozen=True)
class Request:
    """A durable wish that somebody wrote to a flow.

    :ivar kind: one of ``REQUEST_KINDS``
    :ivar sequence: counts the requests of a flow, from 1
    """

    kind: str
    by: str
    sequence: int


@dataclass(slots=True, frozen=True)
class Claim:
    """The answer to a successful claim.

    :ivar revision: of the flow when it was claimed; the first commit names it
    :ivar now: the store's time
    :ivar request: the request that nobody has acknowledged yet, or ``None``
    """

    lease: Lease
    revision: int
    now: int
    request: Request | None


@dataclass(slots=True, frozen=True)
class Renewal:
    """The answer to a renewal: new expiry, the store's time, and the pending request or ``None``."""

    expires_at: int
    now: int
    request: Request | None


@dataclass(slots=True)
class Changes:
    """What one commit writes.

    :ivar flow: changed columns of the flow
    :ivar added: complete records of atoms that the flow does not have yet
    :ivar changed: atom uuid to its changed columns
    """

    flow: Record = field(default_factory=dict)
    added: list[Record] = field(default_factory=list)
    changed: dict[str, Record] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.flow or self.added or self.changed)


class Connection(ABC):
    """A store of logbooks, flows and atoms.

    :cvar contract_version: the ``CONTRACT_VERSION`` that this backend was written against
    :cvar config_module: name of the module that publishes options for ini files, see :mod:`pluggableflow.config`
    :cvar durable: what was committed survives the death of every process that uses the store
    :cvar shared: several processes may use the store at once
    :cvar largest_value_bytes: longest text of one column
    :cvar largest_commit_bytes: most text in one commit, numbers counted as 16 bytes each
    """

    contract_version: ClassVar[int]
    config_module: ClassVar[str | None] = None
    durable: bool
    shared: bool
    largest_value_bytes: int
    largest_commit_bytes: int

    # -- life ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def upgrade(self) -> None:
        """Create what the store needs, or migrate it from an earlier release.

        May be called again, and by several processes at once; data is kept.

        :raises ForeignStore: the place holds another program's data, or that of a newer release; nothing was changed
        """

    @abstractmethod
    def validate(self) -> None:
        """Check that the store answers and has the structure of this release.

        :raises StorageFailure: it does not answer, or :meth:`upgrade` was never called
        :raises ForeignStore: as in :meth:`upgrade`
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what this connection opened; what was passed in stays open. May be called again."""

    @abstractmethod
    def clear_all(self) -> None:
        """Delete every logbook with all below it, leased or not."""

    # -- logbooks -----------------------------------------------------------------------------------------------

    @abstractmethod
    def save_logbook(self, book: LogBook) -> None:
        """Create or update a logbook, in one atomic step.

        An existing book gets the new ``meta``. Flows (and their atoms) of ``book`` that the store does not have are
        created, with ``created_at`` set; flows that it has are left as they are. The timestamps of ``book`` and of
        the flows that were created are set to the stored ones.
        """

    @abstractmethod
    def get_logbook(self, book_uuid: str, lazy: bool = False) -> LogBook:
        """Read a book with its flows and atoms, whole as between two saves of it; with ``lazy``, the book alone."""

    @abstractmethod
    def get_logbooks(self, lazy: bool = False) -> list[LogBook]:
        """Read all books; with ``lazy``, without flows."""

    @abstractmethod
    def destroy_logbook(self, book_uuid: str, force: bool = False) -> None:
        """Delete a book with its flows and atoms, in one atomic step.

        :param force: also when flows of it are leased; their holders lose the lease
        :raises FlowOwned: a live lease exists; nothing was deleted
        """

    # -- flows --------------------------------------------------------------------------------------------------

    @abstractmethod
    def get_flow_details(self, flow_uuid: str, lazy: bool = False) -> FlowDetail:
        """Read a flow with its atoms, from one snapshot; with ``lazy``, without the atoms."""

    @abstractmethod
    def get_flows_for_book(self, book_uuid: str, lazy: bool = False) -> list[FlowDetail]:
        """Read the flows of a book; with ``lazy``, without their atoms."""

    @abstractmethod
    def update_flow_details(self, detail: FlowDetail) -> None:
        """Write a flow that nobody runs: name, state, meta, factory, wake_at, deadline_at, priority, and its atoms.

        One atomic step. Atoms that the store does not have are created, atoms that ``detail`` does not have stay.
        Ownership columns (``FLOW_OWNERSHIP_COLUMNS``) are never touched, except that ``revision`` is raised by two,
        so that a holder whose lease had run out cannot commit over this write: it gets :class:`LeaseLost`. (Raised by
        one, the write would look to that holder like its own commit that it is sending again.)

        :raises FlowOwned: a live lease exists; nothing was written
        """

    @abstractmethod
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
        """Search flows, without their atoms. All given conditions must hold.

        A flow whose record is damaged is listed as far as it can be read (:meth:`FlowDetail.listed`).

        :param owner: exact owner identity
        :param created_before: UTC microseconds
        :param limit: at most so many; > 0
        :param after: uuid of the last flow of the previous page
        """

    # -- atoms --------------------------------------------------------------------------------------------------

    @abstractmethod
    def get_atom_details(self, atom_uuid: str) -> AtomDetail:
        """Read one atom."""

    @abstractmethod
    def get_atoms_for_flow(self, flow_uuid: str) -> list[AtomDetail]:
        """Read the atoms of a flow."""

    @abstractmethod
    def update_atom_details(self, detail: AtomDetail) -> None:
        """Write one existing atom of a flow that nobody runs, all columns but ``uuid``, ``parent_uuid`` and ``kind``.

        Raises the flow's ``revision`` as :meth:`update_flow_details` does.

        :raises FlowOwned: a live lease exists; nothing was written
        """

    # -- hot path -----------------------------------------------------------------------------------------------

    @abstractmethod
    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        """Write a set of changes to one flow, all or nothing, if the lease is still the flow's.

        Applied only if the flow's stored token equals ``lease.token`` *and* its revision equals ``revision``; the
        revision becomes ``revision + 1``. If the token is mine and the revision already is ``revision + 1``, this
        very commit has been applied before: success, nothing is written. So after a cut connection the same call is
        simply sent again, even while the first may still be running. A lease that ran out but that nobody took still
        commits. The check writes or locks the flow's record; an unlocked read would let a paused owner write.
        Only the given columns are written; nothing is read first.

        :returns: the new revision
        :raises LeaseLost: token or revision differ, or the flow is gone; nothing was changed
        :raises NotFound: the flow has no atom that ``changes.changed`` names; nothing was changed
        :raises StorageFailure: the flow has an atom of a name or uuid in ``changes.added`` already; nothing was changed
        :raises ValueTooLarge: over ``largest_value_bytes`` or ``largest_commit_bytes``; nothing was changed
        :raises StorageFailure: the store did not answer; the commit may or may not have been applied
        """

    # -- ownership ----------------------------------------------------------------------------------------------

    @abstractmethod
    def claim(
        self,
        *,
        token: str,
        owner: str,
        lease_seconds: float,
        flow_uuid: str | None = None,
        evict_epoch: int | None = None,
    ) -> Claim | None:
        """Take the lease of one flow, by compare-and-set. Raises its epoch by one.

        With ``flow_uuid``: any flow, finished or not. Without: the runnable flow (``states.RUNNABLE``) with the
        highest priority, oldest first, that has a stored factory, no live lease, and no ``wake_at`` in the future;
        ``None`` if there is none. Whether the flow's values can be read does not matter. A claim whose token already
        holds the flow succeeds again and only extends the lease, so an unanswered claim is simply sent again.

        :param token: made by the caller, random, at most 64 characters
        :param lease_seconds: > 0
        :param evict_epoch: take the flow even from a live lease if this is that lease's epoch
        :raises FlowOwned: ``flow_uuid`` has a live lease; nothing was changed
        :raises NotFound: there is no flow ``flow_uuid``
        """

    @abstractmethod
    def renew(self, lease: Lease, lease_seconds: float) -> Renewal:
        """Extend a lease, and learn what others asked of its flow. Sets ``lease.expires_at``.

        Extends only if ``lease.token`` is still the flow's. May be called from any thread, at any time, also after
        the lease has run out as long as nobody has taken the flow. Never waits for another call of this connection.

        :param lease_seconds: time from now until another owner may take the flow; > 0
        :raises LeaseLost: another owner holds the flow, or it is gone; nothing was changed
        :raises StorageFailure: the store did not answer; the lease may or may not have been extended
        """

    @abstractmethod
    def release(self, lease: Lease) -> None:
        """Give a lease up: token and expiry become ``None``; owner and epoch stay as a trace.

        Does nothing if the lease is not the flow's any more. May be called again.
        """

    @abstractmethod
    def request(self, flow_uuid: str, kind: str, by: str) -> Request:
        """Write a wish to an unfinished flow, without a lease, in one atomic step.

        It stays pending until a commit sets ``request_handled`` to its sequence. A later request replaces it.

        :param kind: one of ``REQUEST_KINDS``
        :param by: who asks, for people
        :raises InvalidState: the flow has finished; nothing was changed
        """


# -- rules that backends share; each is asked where the backend cannot leave it to its product ---------------------


def pending_request(record: Any) -> Request | None:
    """The request of a flow record (any mapping of its columns) that nobody has acknowledged yet."""
    if record["request"] is None or record["request_sequence"] <= record["request_handled"]:
        return None
    return Request(record["request"], record["request_by"], record["request_sequence"])


def commit_faults(connection: Connection, changes: Changes) -> str | None:
    """Why a connection could not take these changes for their size, or ``None``. Backends ask it in ``commit``."""
    records = (changes.flow, *changes.added, *changes.changed.values())
    size = sum([len(value) if type(value) is str else _NUMBER_BYTES for record in records for value in record.values()])
    largest = connection.largest_value_bytes
    if size > largest:  # else no text can be larger
        for record in records:
            for column, value in record.items():
                if type(value) is str and len(value) > largest:
                    return f"{column} has {len(value)} bytes, at most {largest} can be stored"
    if size > connection.largest_commit_bytes:
        return f"a commit of {size} bytes is larger than the store's {connection.largest_commit_bytes}"
    return None


def check_names(flow_uuid: str, records: Collection[Record], stored: Mapping[str, str]) -> None:
    """Refuse a name that a flow would have twice, before anything is written.

    :param records: atoms that are to be written at once; they may exchange names
    :param stored: name to uuid of the atoms that the flow has
    :raises StorageFailure: names it
    """
    written, seen = {record["uuid"] for record in records}, set()
    for record in records:
        name, uuid = str(record["name"]), record["uuid"]
        owner = stored.get(name, uuid)
        if name in seen or (owner != uuid and owner not in written):
            raise StorageFailure(f"flow {flow_uuid} has an atom {name!r} already")
        seen.add(name)


def refuse_if_leased(record: Mapping[str, Any], now: int) -> None:
    """:raises FlowOwned: a flow (any mapping of its columns) has a live lease at the time ``now``"""
    left = (record["lease_expires_at"] or 0) - now
    if record["token"] is not None and left > 0:
        raise FlowOwned(record["uuid"], record["owner"], record["epoch"], left / 1e6)


def check_request_kind(kind: str) -> None:
    """:raises OptionError: ``kind`` is none of ``REQUEST_KINDS``"""
    if kind not in REQUEST_KINDS:
        raise OptionError(f"a request is one of {', '.join(REQUEST_KINDS)}, not {kind!r}")


def read_attempts(text: str) -> int:
    """How often a call is made that meets errors which pass, from the parameter ``attempts`` of a URL.

    :raises OptionError: it is no number above 0
    """
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(f"attempts must be a number above 0, not {text!r}")
    return int(text)


def check_prefix(prefix: str) -> None:
    """:raises OptionError: the prefix of names in a database could be too long for it, or would have to be quoted"""
    if not re.fullmatch("[A-Za-z0-9_]{0,30}", prefix):
        raise OptionError(f"prefix must be at most 30 letters, digits and underscores, not {prefix!r}")
