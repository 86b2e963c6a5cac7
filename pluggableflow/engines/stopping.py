# SPDX-License-Identifier: Apache-2.0
"""What makes a run stop before its end: a suspension, a cancellation, a lost lease."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pluggableflow import states
from pluggableflow.connection import CANCEL, SUSPEND, Connection, Request
from pluggableflow.engines.prepared import PreparedEngine
from pluggableflow.exceptions import Cancelled, LeaseLost
from pluggableflow.failure import Failure
from pluggableflow.flow import Flow
from pluggableflow.machine import Machine
from pluggableflow.middleware import FlowDetail


class StoppingEngine(PreparedEngine):
    """An engine that heeds requests.

    A cancellation that reverts is acknowledged at once: from then on the flow is stored as one that is REVERTING for
    it. One that does not revert stays pending until the flow has ended, so that a resumption sees it again.
    """

    def __init__(
        self, flow: Flow, flow_detail: FlowDetail, connection: Connection | None, options: Mapping[str, Any]
    ) -> None:
        super().__init__(flow, flow_detail, connection, options)
        self._suspending = False
        self._halt: Request | None = None  # to end the flow as it is

    def suspend(self) -> None:
        self._suspending = True
        self._outcomes.put(None)

    def cancel(self, revert: bool = False) -> None:
        super().cancel(revert)
        keeper, detail = self._keeper, self.storage.flow_detail
        if keeper is not None and self.connection is not None:
            keeper.request = _pending(self.connection.get_flow_details(detail.uuid, lazy=True)) or keeper.request
        self._wake()

    def _is_asked(self) -> bool:
        """Whether a request is pending; for a run that has no lease, so that no renewal tells it."""
        detail = self.storage.flow_detail
        if self.connection is not None:
            detail = self.connection.get_flow_details(detail.uuid, lazy=True)
        return _pending(detail) is not None

    def _must_stop(self, machine: Machine) -> bool:
        """Whether nothing new may start; raises if the lease is lost."""
        keeper = self._keeper
        if keeper is not None:
            if keeper.lost:
                raise LeaseLost(self.storage.flow_uuid)
            request = keeper.request
            if not keeper.safe:
                keeper.renew()
        else:
            request = _pending(self.storage.flow_detail)
        if request is not None and request is not self._halt:
            self._heed(machine, request)
        return self._suspending or self._halt is not None

    def _heed(self, machine: Machine, request: Request) -> None:
        storage = self.storage
        if request.sequence <= storage.flow_detail.request_handled:
            return
        if request.kind == SUSPEND:
            storage.acknowledge(request.sequence)
            self._suspending = True
            return
        why = f"{request.by} asked for it"
        self._give_up(machine, why)
        if request.kind == CANCEL:
            self._halt = request
        else:
            self._halt = None
            storage.acknowledge(request.sequence)
            storage.keep_cancelled(why)
            machine.cancel()

    def _give_up(self, machine: Machine, why: str) -> None:
        """Fail what was running when an earlier process died: nobody will ever know how far it came."""
        for node in machine.interrupted:
            name = self.storage.node_detail(node).name
            self.storage.keep_failure(node, Failure.from_exception(Cancelled(f"atom {name!r}", why)))
            machine.failed(node)

    def _state_at_end(self, machine: Machine) -> str:
        """The state of a flow in which nothing runs and nothing may start."""
        if self._halt is not None and machine.has_work():
            self.storage.acknowledge(self._halt.sequence)
            self.storage.keep_cancelled(f"{self._halt.by} asked for it")
            return states.CANCELLED
        return states.SUSPENDED if self._suspending and machine.has_work() else machine.final_state

    def _cancelled(self) -> Cancelled | None:
        """What a run of a flow raises that has been cancelled."""
        why = self.storage.cancelled
        if self.storage.get_flow_state() != states.CANCELLED or why is None:
            return None
        return Cancelled(f"flow {self.storage.flow_name!r}", why)


def _pending(detail: FlowDetail) -> Request | None:
    if detail.request is None or detail.request_sequence <= detail.request_handled:
        return None
    return Request(detail.request, detail.request_by or "", detail.request_sequence)
