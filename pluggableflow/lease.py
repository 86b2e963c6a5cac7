# SPDX-License-Identifier: Apache-2.0
"""Holding the lease of one flow: claiming it, renewing it from a thread, giving it up."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from pluggableflow import owner
from pluggableflow.connection import Claim, Connection, Lease, Request
from pluggableflow.exceptions import FlowOwned, LeaseLost, StorageFailure
from pluggableflow.middleware import new_uuid

#: Part of a lease at whose end nothing new is started any more if it could not be renewed.
SAFETY = 1 / 6
#: Flow and epoch of the leases that this process renews.
_held: set[tuple[str, int]] = set()
#: Flows whose lease this process may have, and does not use: the store did not answer when it claimed it or gave it up.
_left: set[str] = set()


def claim(connection: Connection, flow_uuid: str, lease_seconds: float, force: bool = False) -> Claim:
    """Take the lease of a flow; at once if its holder is a process of this machine that has ended, or a run of this
    process that the store has failed.

    :param force: take it from a live holder too, whose next commit is then refused
    :raises FlowOwned: another owner holds it
    :raises NotFound: there is no such flow
    """
    token, me, evict = new_uuid(), owner.identity(), None
    while True:
        try:
            claimed = connection.claim(
                token=token, owner=me, lease_seconds=lease_seconds, flow_uuid=flow_uuid, evict_epoch=evict
            )
        except FlowOwned as owned:
            unused = owned.owner == me and flow_uuid in _left and (flow_uuid, owned.epoch) not in _held
            if evict == owned.epoch or not (force or unused or owner.is_gone(owned.owner)):
                raise
            evict = owned.epoch
        except StorageFailure:
            _left.add(flow_uuid)
            raise
        else:
            _left.discard(flow_uuid)
            assert claimed is not None, "a claim by uuid answers or raises"
            return claimed


class LeaseKeeper:
    """Renews a lease from a thread of its own, at a third of its time, until it is stopped.

    :param wake: called, from the thread, when there is something to look at: a request, or the lease in danger
    :ivar lost: another owner holds the flow
    :ivar request: the pending request that was seen last, or ``None``
    """

    def __init__(self, connection: Connection, claimed: Claim, lease_seconds: float, wake: Callable[[], None]) -> None:
        self.lease: Lease = claimed.lease
        self.lost = False
        self.request: Request | None = claimed.request
        self._connection = connection
        self._lease_seconds = lease_seconds
        self._wake = weakref.WeakMethod(wake)
        self._renewed = time.monotonic()
        self._stop = threading.Event()
        _held.add((self.lease.flow_uuid, self.lease.epoch))
        self._thread = threading.Thread(target=self._renew, name="pluggableflow-lease", daemon=True)
        self._thread.start()

    @property
    def safe(self) -> bool:
        """Whether new work may be started: the lease is mine and does not run out at any moment."""
        return not self.lost and time.monotonic() - self._renewed < self._lease_seconds * (1 - SAFETY)

    def _renew(self) -> None:
        pause = self._lease_seconds / 3
        while not self._stop.wait(pause):
            wake = self._wake()
            if wake is None:  # the engine was forgotten: let the lease run out
                return
            before = self.request
            try:
                self.renew()
            except LeaseLost:
                wake()
                return
            except StorageFailure:
                pause = min(1.0, self._lease_seconds / 30)
                if not self.safe:
                    wake()
            else:
                pause = self._lease_seconds / 3
                if self.request != before:
                    wake()
            del wake

    def renew(self) -> None:
        """Renew the lease now, from any thread: a busy process may have kept this one's from it.

        :raises LeaseLost: another owner holds the flow
        :raises StorageFailure: the store did not answer
        """
        asked = time.monotonic()
        try:
            renewal = self._connection.renew(self.lease, self._lease_seconds)
        except LeaseLost:
            self.lost = True
            raise
        self._renewed = asked
        if renewal.request is not None:
            self.request = renewal.request

    def stop(self) -> None:
        """End the renewal; the lease stays as it is."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        _held.discard((self.lease.flow_uuid, self.lease.epoch))

    def release(self) -> None:
        """Give the lease up; if the store does not answer, it runs out by itself."""
        self.stop()
        if not self.lost:
            try:
                self._connection.release(self.lease)
            except StorageFailure:
                _left.add(self.lease.flow_uuid)
