# SPDX-License-Identifier: Apache-2.0
"""What makes a run stop before its end: a suspension, a cancellation, a lost lease."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pluggableflow import states
from pluggableflow.cancellation import Cancellation
from pluggableflow.connection import CANCEL, CANCEL_AND_REVERT, SUSPEND, Connection, Request
from pluggableflow.engines.limits import Limits
from pluggableflow.engines.prepared import PreparedEngine
from pluggableflow.exceptions import Cancelled, LeaseLost, TimedOut
from pluggableflow.executor import Executor, Outcome
from pluggableflow.failure import Failure
from pluggableflow.flow import Flow
from pluggableflow.machine import Machine
from pluggableflow.middleware import FlowDetail
from pluggableflow.plan import TASK
from pluggableflow.task import Task

#: Uuids of atoms whose threads were given up in this process and have not ended, with whom to tell when they do.
_given_up: dict[str, list[Callable[[], None]]] = {}


def _has_ended(uuid: str) -> None:
    for wake in _given_up.pop(uuid, ()):
        wake()


class StoppingEngine(PreparedEngine):
    """An engine that heeds requests.

    A cancellation that reverts is acknowledged at once: from then on the flow is stored as one that is REVERTING for
    it. One that does not revert stays pending until the flow has ended, so that a resumption sees it again.
    """

    def __init__(
        self, flow: Flow, flow_detail: FlowDetail, connection: Connection | None, options: Mapping[str, Any]
    ) -> None:
        super().__init__(flow, flow_detail, connection, options)
        self._new_run()

    def _new_run(self) -> None:
        """Forget what has stopped the run before."""
        self._watchful = False  # there may be a reason to stop
        self._suspending = False
        self._leaving = False
        self._halt: Request | None = None  # to end the flow as it is
        self._why: str | None = None  # the flow is cancelled
        self._executor_at_work: Executor | None = None
        self._cancellations = [Cancellation(), Cancellation()]  # of what executes, of what reverts
        self._grace_ends: float | None = None  # by the monotonic clock, for what was told to end
        self._limits: Limits | None = None  # only if there are any
        self._deadline: int | None = None  # of the flow
        self._in_use: set[int] = set()  # tasks whose object a given up thread uses, though they may run again
        self._ending: dict[int, Exception] = {}  # work that was ended, whose outcome is still to come

    def suspend(self) -> None:
        self._suspending = self._watchful = True
        self._outcomes.put(None)

    def leave(self) -> None:
        """Stop as :meth:`suspend` does, but leave the flow to whoever claims it next. From any thread."""
        self._leaving = True
        self.suspend()

    def cancel(self, revert: bool = False) -> None:
        super().cancel(revert)
        keeper, detail = self._keeper, self.storage.flow_detail
        if keeper is not None and self.connection is not None:
            keeper.request = _pending(self.connection.get_flow_details(detail.uuid, lazy=True)) or keeper.request
        self._wake()

    def _request(self) -> Request | None:
        """The request that nobody has acknowledged yet, as far as this process knows."""
        keeper, handled = self._keeper, self.storage.flow_detail.request_handled
        if keeper is None:
            return _pending(self.storage.flow_detail) if self.connection is None else None
        request = keeper.request
        return None if request is None or request.sequence <= handled else request

    def _wake(self) -> None:
        """Something is to be looked at. The loop may be busy with a task, so that task is told from here."""
        self._watchful = True
        keeper, request = self._keeper, self._request()
        if keeper is not None and keeper.lost:
            self._tell_running(CANCEL)
        elif request is not None and request.kind != SUSPEND:
            self._tell_running(request.kind)
        super()._wake()

    def _tell_running(self, kind: str) -> None:
        """Tell running tasks to end; those that revert only if nothing is to be reverted."""
        self._cancellations[0].event.set()
        if kind == CANCEL:
            self._cancellations[1].event.set()
        executor = self._executor_at_work
        if executor is not None:
            executor.cancel()

    def _is_asked(self) -> bool:
        """Whether a request is pending; for a run that has no lease, so that no renewal tells it."""
        detail = self.storage.flow_detail
        if self.connection is not None:
            detail = self.connection.get_flow_details(detail.uuid, lazy=True)
        return _pending(detail) is not None

    def _watch(self, machine: Machine) -> None:
        """Find out whether a run needs watching: most that live in memory do not, and are spared the cost."""
        deadlines = self._limits is not None or self._deadline is not None
        asked = self._suspending or self._why is not None or self._request() is not None
        self._watchful |= deadlines or asked or bool(machine.held) or self._keeper is not None

    def _must_stop(self, machine: Machine) -> bool:
        """Whether nothing new may start; raises if the lease is lost."""
        keeper = self._keeper
        if keeper is not None:
            if keeper.lost:
                raise LeaseLost(self.storage.flow_uuid)
            if not keeper.safe:
                keeper.renew()
        request = self._request()
        if request is not None and request != self._halt:
            self._heed(machine, request)
        if self._deadline is not None and self._now() >= self._deadline:
            self._time_out(machine)
        if self._limits is not None and self._limits.late:
            self._end_late(machine, self._limits.late)
        if self._why is not None:
            self._give_up_interrupted(machine, self._why)
            self._end_overdue(machine)
        if machine.held:
            for node in [node for node in machine.held if self.storage.node_detail(node).uuid not in _given_up]:
                machine.ended(node)
        return self._suspending or self._halt is not None

    def _heed(self, machine: Machine, request: Request) -> None:
        storage = self.storage
        if request.kind == SUSPEND:
            storage.acknowledge(request.sequence)
            self._suspending = True
            return
        self._why = why = f"{request.by} asked for it"
        self._tell_running(request.kind)
        self._grace_ends = time.monotonic() + self.options["grace_seconds"]
        if request.kind == CANCEL:
            self._halt = request
        else:
            if self._halt is not None:
                self._halt, self._cancellations[1] = None, Cancellation()
            storage.acknowledge(request.sequence)
            storage.keep_cancelled(why)
            machine.cancel()

    # -- time limits ----------------------------------------------------------------------------------------------

    def _begin_limits(self) -> Limits:
        """Find out what is limited, and store the flow's own deadline if it begins now."""
        plan, storage, seconds = self.plan, self.storage, self.flow.time_limit_seconds
        assert plan is not None
        limits = Limits(plan, storage)
        self._limits = limits or None
        if seconds is not None and storage.flow_detail.deadline_at is None:
            storage.set_deadline_at(self._now() + int(seconds * 1_000_000))
        self._deadline = storage.flow_detail.deadline_at
        if self._deadline is not None:
            self._cancellations[0] = Cancellation(None, self._on_my_clock(self._deadline))
        return limits

    def _on_my_clock(self, time_at: int) -> float:
        """A time of the store's clock by the monotonic one, in seconds."""
        return time.monotonic() + (time_at - self._now()) / 1e6

    def _time_out(self, machine: Machine) -> None:
        """The flow's time is over; what is being reverted, or has come to its end, goes on."""
        self._deadline = None
        if machine.reverting_all or machine.stuck or machine.final_state == states.SUCCESS:
            return
        self._why = "its time limit has passed"
        self._tell_running(CANCEL_AND_REVERT)
        self._grace_ends = time.monotonic() + self.options["grace_seconds"]
        self.storage.keep_cancelled(self._why)
        machine.cancel()

    def _is_late(self, machine: Machine, limits: Limits, node: int, now: int) -> bool:
        """Whether the start that was just taken comes too late; then it fails. Otherwise its time begins now."""
        if machine.state[node] != states.RUNNING:
            return False
        limits.begin(node, now)
        limit = limits.of(node)
        if limit is None or now < limit[0]:
            return False
        error = TimedOut(self.storage.node_detail(node).name, limit[1])
        self.storage.keep_failure(node, Failure.from_exception(error))
        machine.late(node)
        return True

    def _limited(self, limits: Limits, node: int) -> Cancellation:
        """What tells an execution to end that is handed out."""
        shared, limit = self._cancellations[0], limits.of(node)
        if limit is None:
            return shared
        limits.late[node] = limit
        ends = self._on_my_clock(limit[0])
        if shared.deadline is not None and shared.deadline < ends:
            return shared
        return Cancellation(shared.event, ends, limit[1])

    def _end_late(self, machine: Machine, late: dict[int, tuple[int, str]]) -> None:
        """End what has gone on beyond its limit for too long."""
        latest = self._now() - int(self.options["grace_seconds"] * 1_000_000)
        for node in [node for node, limit in late.items() if limit[0] <= latest]:
            self._end(machine, node, TimedOut(self.storage.node_detail(node).name, late.pop(node)[1]))

    def _is_told(self, outcome: Outcome) -> bool:
        """Whether work that was not begun is so because it was told to end."""
        late = self._limits is not None and self._limits.late.pop(outcome.node, None) is not None
        return late or self._cancellations[outcome.revert].is_set()

    # -- ending what does not listen ------------------------------------------------------------------------------

    def _atom_cancelled(self, node: int, why: str) -> Cancelled:
        return Cancelled(f"atom {self.storage.node_detail(node).name!r}", why)

    def _give_up_interrupted(self, machine: Machine, why: str) -> None:
        """Fail what was running when an earlier process died: nobody will ever know how far it came."""
        for node in machine.interrupted:
            self.storage.keep_failure(node, Failure.from_exception(self._atom_cancelled(node, why)))
            machine.failed(node)

    def _end_overdue(self, machine: Machine) -> None:
        """End what was told to end and has not in its time."""
        if self._grace_ends is None or time.monotonic() < self._grace_ends:
            return
        self._grace_ends = None
        assert self._why is not None
        for node in list(machine.running):
            if self._cancellations[machine.state[node] == states.REVERTING].is_set():
                self._end(machine, node, self._atom_cancelled(node, self._why))

    def _end(self, machine: Machine, node: int, error: Exception) -> None:
        assert self._executor_at_work is not None and self.plan is not None
        task, uuid = self.plan.atoms[node], self.storage.node_detail(node).uuid
        assert isinstance(task, Task)
        held = not task.interruptible
        if held:
            _given_up[uuid] = [self._wake]
        if self._executor_at_work.end(node, partial(_has_ended, uuid)):
            _given_up.pop(uuid, None)
            self._ending[node] = error
            return
        if task.interruptible:
            self._in_use.add(node)
        if machine.state[node] == states.REVERTING:
            self.storage.keep_revert(node, None, Failure.from_exception(error))
            machine.revert_failed(node)
        else:
            self.storage.keep_failure(node, Failure.from_exception(error))
            machine.failed(node, held)

    def _why_ended(self, node: int, failure: Failure) -> Failure:
        """The failure of work that may have been ended from here."""
        error = self._ending.pop(node, None)
        return failure if error is None else Failure.from_exception(error)

    def _seconds_left(self, machine: Machine) -> float | None:
        """How long the loop may wait for outcomes; ``None`` for as long as it takes."""
        ends = []
        if machine.timers:
            ends.append((min(machine.timers.values()) - self._now()) / 1e6)
        if self._grace_ends is not None:
            ends.append(self._grace_ends - time.monotonic())
        if self._deadline is not None:
            ends.append((self._deadline - self._now()) / 1e6)
        if self._limits is not None and self._limits.late:
            earliest = min(deadline for deadline, _text in self._limits.late.values())
            ends.append((earliest - self._now()) / 1e6 + self.options["grace_seconds"])
        return max(0.0, min(ends)) if ends else None

    def _wake_at(self, machine: Machine) -> int:
        """When there is something to do again for a flow in which a retry waits."""
        timer = min(machine.timers.values())
        return timer if self._deadline is None else min(timer, self._deadline)

    def _hold(self, machine: Machine) -> None:
        """Take heed of what earlier runs in this process have given up, and what has not ended since."""
        if not _given_up:
            return
        for node, kind in enumerate(machine.plan.kinds):
            waiting = _given_up.get(self.storage.node_detail(node).uuid) if kind == TASK else None
            if waiting is not None:
                waiting.append(self._wake)
                machine.held.add(node)

    def _state_at_end(self, machine: Machine) -> str:
        """The state of a flow in which nothing runs and nothing may start."""
        if self._halt is not None and (machine.has_work() or machine.final_state == states.FAILURE):
            self.storage.acknowledge(self._halt.sequence)
            self.storage.keep_cancelled(self._why)
            return states.CANCELLED
        if self._leaving and machine.has_work():
            if machine.timers:
                self.storage.set_wake_at(self._wake_at(machine))
            return self.storage.get_flow_state()
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
