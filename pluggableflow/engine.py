# SPDX-License-Identifier: Apache-2.0
"""The interface of engine types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pluggableflow import owner, states
from pluggableflow.connection import CANCEL, CANCEL_AND_REVERT, Connection
from pluggableflow.exceptions import InvalidState
from pluggableflow.flow import Flow
from pluggableflow.middleware import FlowDetail
from pluggableflow.notifier import Notifier
from pluggableflow.plan import Plan
from pluggableflow.storage import Storage

#: Version of this contract. A plugin declares the one it was written against.
CONTRACT_VERSION = 1


class Engine(ABC):
    """Runs one flow and keeps its detail.

    :param connection: where the detail is kept; ``None`` for a run that lives in memory
    :param options: what the engine type offers; an unknown one is refused with :class:`OptionError`
    :cvar contract_version: the ``CONTRACT_VERSION`` that this engine type was written against
    :ivar plan: of the flow, once it is compiled
    :ivar store: initial arguments that :meth:`prepare` injects
    :ivar notifier: tells of the flow: event = new state, details ``flow_name, flow_uuid, old_state``
    :ivar atom_notifier: tells of atoms: event = new state, details ``task_name, task_uuid`` (or ``retry_...``),
        ``flow_name, flow_uuid, old_state`` and, with an outcome, ``result``

    Both tell what has been committed, outside of every lock; a listener that raises is logged.
    """

    contract_version: ClassVar[int]
    notifier: Notifier
    atom_notifier: Notifier

    def __init__(
        self, flow: Flow, flow_detail: FlowDetail, connection: Connection | None, options: Mapping[str, Any]
    ) -> None:
        self.flow = flow
        self.connection = connection
        self.options = dict(options)
        self.notifier = Notifier()
        self.atom_notifier = Notifier()
        self.plan: Plan | None = None
        self.store: dict[str, Any] = {}
        self.storage = Storage(flow_detail, connection)

    @abstractmethod
    def compile(self) -> None:
        """Check the flow and make its plan. May be called again.

        :raises CompilationFailure: lists every fault of the definition
        """

    @abstractmethod
    def prepare(self) -> None:
        """Claim the flow, read what is stored of it, and give every atom a detail. Compiles if needed.

        A flow that was REVERTED begins anew.

        :raises FlowOwned: another process runs it
        :raises FlowMismatch: the flow differs from its detail in what has begun
        """

    @abstractmethod
    def validate(self) -> None:
        """Check that every required input has a provider.

        :raises MissingDependencies: lists every input that has none; nothing was run
        """

    @abstractmethod
    def run_iter(self) -> Any:
        """Run as :meth:`run` does, yielding the flow's state (a str) after every commit.

        Closing the generator lets running atoms finish, suspends the flow and gives up its lease.

        :returns: an iterator; an async iterator where the engine type is one for an event loop
        """

    def run(self) -> Any:
        """Run the flow until it has finished or is suspended.

        :returns: nothing, or a coroutine to be awaited where the engine type is one for an event loop
        :raises Exception: the failure of the flow, as it was raised; several together as :class:`WrappedFailure`
        :raises Cancelled: the flow was cancelled
        :raises LeaseLost: another process has taken the flow over
        :raises StorageFailure: the store failed; the next run goes on from what it has
        """
        for _state in self.run_iter():
            pass

    @abstractmethod
    def suspend(self) -> None:
        """Ask the run to stop between atoms. From any thread, listener or signal handler."""

    def cancel(self, revert: bool = False) -> None:
        """Ask for the flow to be stopped for good, whoever runs it. From any thread or listener.

        The request is stored, and outlives this process. Nothing new starts, running tasks see it in their
        ``cancelled``, and the flow ends as CANCELLED.

        :param revert: undo what has begun; otherwise all stays as it is
        :raises InvalidState: the flow has finished
        """
        kind, detail = CANCEL_AND_REVERT if revert else CANCEL, self.storage.flow_detail
        if self.connection is not None:
            self.connection.request(detail.uuid, kind, owner.identity())
            return
        if detail.state in states.FINISHED:
            raise InvalidState(f"flow {detail.uuid} has finished as {detail.state}")
        detail.request, detail.request_by = kind, owner.identity()
        detail.request_sequence += 1

    @abstractmethod
    def reset(self) -> None:
        """Put every atom and the flow back to PENDING, whatever state they are in.

        :raises FlowOwned: another process runs the flow
        """

    @abstractmethod
    def close(self) -> None:
        """Give up the lease that :meth:`prepare` took, if no run has."""
