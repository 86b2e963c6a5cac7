# SPDX-License-Identifier: Apache-2.0
"""What an engine does before and between runs: options, the lease, and what is stored of the flow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any

from pluggableflow import states
from pluggableflow.compiler import compile as compile_flow
from pluggableflow.connection import Claim, Connection
from pluggableflow.engine import Engine
from pluggableflow.engines.initial import compare
from pluggableflow.engines.news import News
from pluggableflow.engines.options import OptionTypes, checked
from pluggableflow.exceptions import FlowMismatch, LeaseLost, MissingDependencies, MissingSecrets
from pluggableflow.executor import Outcome
from pluggableflow.flow import Flow
from pluggableflow.lease import LeaseKeeper, claim
from pluggableflow.middleware import FlowDetail
from pluggableflow.plan import END, Plan
from pluggableflow.signatures import check, signatures
from pluggableflow.storage import INJECTOR


class PreparedEngine(Engine):
    """An engine up to its run. Options of all our engines:

    * ``defer_reverts`` (False): a REVERT decision is deferred to the outermost retry; without one all is undone
    * ``never_resolve`` (False): a failure is neither retried nor reverted, the flow ends as FAILURE
    * ``inject_transient`` (True): values that atoms inject into themselves are kept out of the store
    * ``lease_seconds`` (30): after so long without a renewal another process may take the flow over
    * ``grace_seconds`` (10): how long a task that should end may go on before it is ended, or given up
    * ``force`` (False): take the flow from a live owner
    * ``on_mismatch`` ("refuse"): "accept" runs a flow that differs from its detail in what has begun; a callable
      gets the :class:`FlowMismatch` and returns whether to accept
    * ``claim`` (None): a claim of the flow that the caller has made; the first run takes it over
    * ``leave_timers`` (False): a flow in which all waits for a delay is left to whoever claims it when that is over
    """

    contract_version = 1
    option_types: OptionTypes = {
        "defer_reverts": (False, (bool,)),
        "never_resolve": (False, (bool,)),
        "inject_transient": (True, (bool,)),
        "lease_seconds": (30, (int, float)),
        "grace_seconds": (10, (int, float)),
        "force": (False, (bool,)),
        "on_mismatch": ("refuse", (str, object)),
        "claim": (None, (Claim, type(None))),
        "leave_timers": (False, (bool,)),
    }

    def __init__(
        self, flow: Flow, flow_detail: FlowDetail, connection: Connection | None, options: Mapping[str, Any]
    ) -> None:
        super().__init__(flow, flow_detail, connection, checked(options, self.option_types, type(self).__name__))
        self._keeper: LeaseKeeper | None = None
        self._revision = flow_detail.revision
        self._prepared = False
        self._outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
        self._clock = (time.time_ns() // 1000, time.monotonic_ns())
        self._signatures: dict[int, str] = {}

    def compile(self) -> None:
        if self.plan is None:
            self.plan = compile_flow(self.flow, {**self.storage.given, **self.store})
            self.storage.scope_fetcher = self.plan.visible

    def prepare(self) -> None:
        if self._prepared:
            return
        self.compile()
        assert self.plan is not None
        self._news = News(self.plan, self.storage, self.notifier, self.atom_notifier)
        try:
            if self.connection is not None:
                self._take_lease(self.connection)
            self._read_stored(self.plan)
        except BaseException:
            self.close()
            raise
        self._prepared = True

    def _take_lease(self, connection: Connection, at_revision: int | None = None) -> None:
        options = self.options
        claimed, options["claim"] = options["claim"], None
        if claimed is None:
            claimed = claim(connection, self.storage.flow_uuid, options["lease_seconds"], options["force"])
        self._clock = (claimed.now, time.monotonic_ns())
        self._revision = claimed.revision
        self._keeper = LeaseKeeper(connection, claimed, options["lease_seconds"], self._wake)
        self.storage.lease(True)
        if at_revision is None:
            self.storage.reload(connection.get_flow_details(self.storage.flow_uuid))
        elif at_revision != claimed.revision:
            raise LeaseLost(self.storage.flow_uuid)

    def _read_stored(self, plan: Plan) -> None:
        storage = self.storage
        storage.ensure_atoms(plan.atoms)
        for atom in plan.atoms:
            if atom is not None and atom.inject:
                storage.inject_atom_args(atom.name, atom.inject, transient=self.options["inject_transient"])
        self._take_store()
        self._signatures = signatures(plan, storage.given) if self.connection is not None else {}
        if storage.get_flow_state() == states.REVERTED:  # it begins anew, so whatever has changed is welcome
            self._reset_atoms(plan)
        elif storage.get_flow_state() != states.PENDING:
            self._check_mismatch(plan)

    def _take_store(self) -> None:
        """Add the initial arguments; a value that differs from the stored one is a mismatch."""
        new, secrets, differing = compare(self.storage.given, self.store)
        if differing:
            why = [f"the stored value of {name!r}" for name in differing]
            self._mismatched(FlowMismatch(self.storage.flow_uuid, (), (), {INJECTOR: why}))
        if new:
            self.storage.inject(new)
        if secrets:
            self.storage.inject(secrets, transient=True)

    def _check_mismatch(self, plan: Plan) -> None:
        try:
            check(plan, self.storage.flow_detail, self._signatures or signatures(plan, self.storage.given))
        except FlowMismatch as mismatch:
            self._mismatched(mismatch)
        for node, signature in self._signatures.items():
            if self.storage.node_detail(node).state != states.PENDING:
                self.storage.keep_signature(node, signature)

    def _mismatched(self, mismatch: FlowMismatch) -> None:
        answer = self.options["on_mismatch"]
        if not (answer == "accept" or (callable(answer) and answer(mismatch))):
            raise mismatch

    def validate(self) -> None:
        self.compile()
        assert self.plan is not None
        missing = self.plan.missing({**self.storage.given, **self.store})
        missing = [each for each in missing if each.name not in self.storage.atom_arguments(each.atom)]
        if missing:
            raise MissingDependencies(self.flow.name, missing)
        secrets = self.storage.empty_secrets(self.store, self.plan.atoms)
        if secrets:
            raise MissingSecrets(self.flow.name, secrets)

    def reset(self) -> None:
        self.prepare()
        assert self.plan is not None
        self._reset_atoms(self.plan)
        self._commit()
        self._news.tell()
        self.close()

    def _reset_atoms(self, plan: Plan) -> None:
        listened = self._news.atoms_wanted
        for node, kind in enumerate(plan.kinds):
            if kind > END and (old := self.storage.node_detail(node).state) != states.PENDING:
                self.storage.forget(node)
                if listened:
                    self._news.atom(node, states.PENDING, old)
        self.storage.set_wake_at(None)
        self.storage.keep_cancelled(None)
        self.storage.set_deadline_at(None)
        if (old := self.storage.get_flow_state()) != states.PENDING:
            self.storage.set_flow_state(states.PENDING)
            self._news.flow(states.PENDING, old)

    def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        self.storage.lease(False)
        self._prepared = False
        if keeper is not None:
            keeper.release()

    # -- what the run uses as well --------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._outcomes.put(None)

    def _now(self) -> int:
        stored, monotonic = self._clock
        return stored + (time.monotonic_ns() - monotonic) // 1000

    def _commit(self) -> bool:
        """Write what has changed; returns whether anything was written (always, without a store)."""
        if self.connection is None:
            return True
        changes = self.storage.take_changes()
        if not changes:
            return False
        assert self._keeper is not None
        self._revision = self.connection.commit(self._keeper.lease, self._revision, changes)
        self.storage.flow_detail.revision = self._revision
        return True
