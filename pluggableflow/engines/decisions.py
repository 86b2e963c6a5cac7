# SPDX-License-Identifier: Apache-2.0
"""Asks the author's decision code: deciders of links, and retries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pluggableflow import states
from pluggableflow.engines.limits import Limits
from pluggableflow.exceptions import InvalidState
from pluggableflow.failure import Failure
from pluggableflow.flow import Depth
from pluggableflow.machine import Decide, ExecuteRetry, Machine, OnFailure, Question, RevertRetry
from pluggableflow.plan import TASK, Plan
from pluggableflow.retry import Decision, Retry
from pluggableflow.storage import Storage

_WIDEST_FIRST = (Depth.ALL, Depth.FLOW, Depth.NEIGHBORS, Depth.ATOM)


class Decisions:
    """Answers the questions of a machine.

    :ivar gate_failures: what deciders raised whose target is a flow without atoms, by node
    """

    def __init__(self, plan: Plan, storage: Storage, now: Callable[[], int], limits: Limits) -> None:
        self._plan, self._storage, self._now, self._limits = plan, storage, now, limits
        self.gate_failures: dict[int, Failure] = {}

    def answer(self, machine: Machine, question: Question) -> None:
        """Ask whom it concerns, keep what came of it, and tell the machine."""
        if isinstance(question, ExecuteRetry):
            self._execute_retry(machine, question.retry)
        elif isinstance(question, OnFailure):
            self._on_failure(machine, question)
        elif isinstance(question, Decide):
            self._decide(machine, question.target)
        elif isinstance(question, RevertRetry):
            self._revert_retry(machine, question.retry)

    def arguments(self, node: int, revert: bool) -> dict[str, Any]:
        """The arguments for a task's or retry's execute or revert.

        :raises NotFound: a required one is not there
        """
        plan, storage = self._plan, self._storage
        atom = plan.atoms[node]
        assert atom is not None
        if not revert:
            inputs = plan.execute_inputs[node]
            return storage.arguments(atom.name, inputs) if inputs else {}
        arguments = storage.arguments(atom.name, plan.revert_inputs[node])
        if "result" in atom.revert_accepts:
            detail = storage.node_detail(node)
            arguments["result"] = detail.failure if detail.failure is not None else detail.results
        if "flow_failures" in atom.revert_accepts:
            arguments["flow_failures"] = storage.get_execute_failures()
        return arguments

    def _retry(self, node: int) -> Retry:
        retry = self._plan.atoms[node]
        assert isinstance(retry, Retry)
        return retry

    def _execute_retry(self, machine: Machine, node: int) -> None:
        retry, storage = self._retry(node), self._storage
        self._limits.begin(node, self._now())
        try:
            arguments = self.arguments(node, revert=False)
            retry.pre_execute()
            value = retry.execute(history=storage.get_retry_history(retry.name), **arguments)
            retry.post_execute()
            storage.keep_result(node, value)
        except Exception as error:
            storage.keep_failure(node, Failure.from_exception(error))
            machine.failed(node)
        else:
            machine.succeeded(node)

    def _revert_retry(self, machine: Machine, node: int) -> None:
        retry, storage = self._retry(node), self._storage
        try:
            arguments = self.arguments(node, revert=True)
            arguments.pop("result", None)
            retry.pre_revert()
            value = retry.revert(**({"history": storage.get_retry_history(retry.name)} | arguments))
            retry.post_revert()
            storage.keep_revert(node, value, None)
        except Exception as error:
            storage.keep_revert(node, None, Failure.from_exception(error))
            machine.revert_failed(node)
        else:
            machine.reverted(node)

    def _on_failure(self, machine: Machine, question: OnFailure) -> None:
        node, plan, storage = question.retry, self._plan, self._storage
        retry = self._retry(node)
        failure = self.gate_failures.get(question.origin)
        if failure is None:
            failure = storage.node_detail(question.origin).failure
        assert failure is not None, "a failed atom has a failure"
        storage.keep_retry_failure(node, plan.names[question.failed], failure)
        not_before = None
        history = storage.get_retry_history(retry.name)
        try:
            arguments = storage.arguments(retry.name, plan.on_failure_inputs[node])
            decision = retry.on_failure(history=history, **arguments)
            if not isinstance(decision, Decision):
                raise InvalidState(
                    f"on_failure of {retry.name!r} must return RETRY, REVERT or REVERT_ALL, not {decision!r}"
                )
            if decision is Decision.RETRY:
                delay_seconds = retry.delay_seconds(history)
                if delay_seconds > 0:
                    not_before = self._now() + int(delay_seconds * 1_000_000)
                limit = self._limits.of(node)
                if limit is not None and limit[0] <= (not_before or self._now()):
                    decision = retry.at_time_limit()
        except Exception as error:
            storage.keep_failure(node, Failure.from_exception(error))
            decision = Decision.REVERT
        if decision is Decision.RETRY:
            storage.keep_not_before(node, not_before)
        machine.resolved(question, decision, not_before)

    def _decide(self, machine: Machine, target: int) -> None:
        plan, storage = self._plan, self._storage
        history, voters = {}, []
        for link in plan.deciders[target]:
            if machine.state[link.source] == states.IGNORE:
                continue
            voters.append(link)
            if plan.kinds[link.source] == TASK:
                history[plan.names[link.source]] = storage.node_detail(link.source).last_results
        try:
            nays = {link.depth for link in voters if not link.decider(history=history)}
        except Exception as error:
            failure = storage.masked_failure(Failure.from_exception(error))
            atom = machine.decider_failed(target)
            if atom is None:
                self.gate_failures[target] = failure
            else:
                storage.keep_failure(atom, failure)
            return
        machine.decided(target, next((depth for depth in _WIDEST_FIRST if depth in nays), None))
