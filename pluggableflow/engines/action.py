# SPDX-License-Identifier: Apache-2.0
"""The loop that carries out a plan: outcomes in, machine, one commit, notifications, starts out."""

from __future__ import annotations

import contextlib
import time
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from pluggableflow import states
from pluggableflow.connection import Connection
from pluggableflow.engines.decisions import Decisions
from pluggableflow.engines.initial import restore
from pluggableflow.engines.stopping import StoppingEngine
from pluggableflow.exceptions import EncodingError, LeaseLost, NotFound, StorageFailure, ValueTooLarge
from pluggableflow.executor import Executor, Outcome, Work
from pluggableflow.failure import Failure
from pluggableflow.flow import Flow
from pluggableflow.machine import Machine
from pluggableflow.middleware import FlowDetail
from pluggableflow.task import Task

#: Progress is stored at most so often by commits of its own.
PROGRESS_SECONDS = 1.0
_RESUMABLE = (states.RUNNING, states.REVERTING, states.SUSPENDING, states.SUSPENDED, states.RESUMING)


class ActionEngine(StoppingEngine):
    """What our engines share: the run. For the options of all see
    :class:`~pluggableflow.engines.prepared.PreparedEngine`."""

    def __init__(
        self, flow: Flow, flow_detail: FlowDetail, connection: Connection | None, options: Mapping[str, Any]
    ) -> None:
        super().__init__(flow, flow_detail, connection, options)
        self._machine: Machine | None = None
        self._resuming = False
        self._reports: dict[int, tuple[float, Mapping[str, Any] | None]] = {}
        self._reported_at = 0.0
        self._starts: list[int] = []  # not handed out yet
        self._leftover: list[Outcome] = []  # for the next commit

    @abstractmethod
    def _make_executor(self) -> Executor:
        """The executor of one run; it is started and stopped with it."""

    def _prefetch(self) -> int:
        return 0

    # -- the run --------------------------------------------------------------------------------------------------

    def _states(self) -> Generator[str, None, None]:
        """The run itself: what ``run_iter`` is to do."""
        self.prepare()
        executor: Executor | None = None
        try:
            if (cancelled := self._cancelled()) is not None:
                raise cancelled
            self.validate()
            machine = self._begin()
            executor = self._make_executor()
            executor.start(self._outcomes.put)
            self._executor_at_work = executor
            yield from self._loop(machine, executor)
        except (LeaseLost, StorageFailure):
            self._await_running()
            raise
        except GeneratorExit:
            self._drain_after_close()
            raise
        finally:
            if executor is not None:
                executor.stop()
            self._machine = None
            self._new_run()
            self._outcomes = SimpleQueue()
            self.close()
        if (cancelled := self._cancelled()) is not None:
            raise cancelled
        if self.storage.get_flow_state() in (states.FAILURE, states.REVERTED):
            Failure.reraise_if_any(self._failures())

    def _failures(self) -> list[Failure]:
        """What a run that has failed raises."""
        failures = [*self.storage.get_execute_failures().values(), *self._decisions.gate_failures.values()]
        return [*failures, *self.storage.get_revert_failures().values()]

    def _begin(self) -> Machine:
        """Make the machine from what is stored, and say that the flow runs."""
        plan, storage, options = self.plan, self.storage, self.options
        assert plan is not None
        machine = Machine(plan, defer_reverts=options["defer_reverts"], never_resolve=options["never_resolve"])
        self._machine, self._decisions = machine, Decisions(plan, storage, self._now, self._begin_limits())
        self._starts, self._leftover = [], []
        flow_state = storage.get_flow_state()
        if flow_state in _RESUMABLE:
            self._news.tell_flow(states.RESUMING, flow_state)
            self._resuming = True
        restored = {} if flow_state == states.PENDING and self.connection is None else restore(machine, storage)
        self._hold(machine)
        self._why = storage.cancelled
        machine.begin(restored, flow_state == states.REVERTING or self._why is not None, self._now())
        if self._why is not None:
            machine.cancel()
        self._watch(machine)
        storage.set_wake_at(None)
        self._set_flow_state(states.REVERTING if machine.reverting_all else states.RUNNING)
        return machine

    def _loop(self, machine: Machine, executor: Executor) -> Iterator[str]:
        storage, outcomes = self.storage, self._outcomes
        capacity = executor.max_workers + self._prefetch()
        batch: list[Outcome] = []
        while True:
            now = self._now()
            batch = self._leftover = self._take(machine, batch, now)
            if machine.timers:
                machine.wake(now)
            stopping = self._watchful and self._must_stop(machine)
            self._drain(machine, now)
            starts = self._starts = []
            while not stopping:
                question = machine.next_question()
                if question is not None:
                    self._drain(machine, now)
                    self._decisions.answer(machine, question)
                    self._drain(machine, now)
                    continue
                if len(machine.running) >= capacity:
                    break
                node = machine.next_start()
                if node is not None:
                    if self._limits is not None:
                        if self._limits.is_limited(node) and len(machine.running) > executor.max_workers:
                            machine.put_back(node)  # its time must not pass while it waits for a worker
                            break
                        if self._is_late(machine, self._limits, node, now):
                            continue
                    starts.append(node)
                elif not machine.has_questions:
                    break
            self._drain(machine, now)
            self._keep_reports()
            if machine.reverting_all and storage.get_flow_state() == states.RUNNING:
                self._set_flow_state(states.REVERTING)
            idle = not machine.running and not batch and outcomes.empty() and (stopping or not machine.is_held_up)
            sleeping = idle and not stopping and bool(machine.timers) and not machine.stuck
            if idle and not sleeping:
                self._set_flow_state(self._state_at_end(machine))
                self._commit()
                self._news.tell()
                if self._news.heard:
                    self._commit()
                yield storage.get_flow_state()
                return
            wake_at = self._wake_at(machine) if sleeping else None
            if wake_at is not None:
                storage.set_wake_at(wake_at)
            if self._commit():
                yield storage.get_flow_state()
            self._news.tell(starts)
            self._hand_out(machine, executor, starts)
            self._starts = []
            if sleeping and self.options["leave_timers"]:
                return
            if wake_at is not None:
                self._sleep(wake_at)
            elif not batch:
                batch = self._wait(machine)

    def _take(self, machine: Machine, batch: list[Outcome], now: int) -> list[Outcome]:
        """Take outcomes, at most as many as fit into one commit; returns the others."""
        storage = self.storage
        limit = self.connection.largest_commit_bytes // 2 if self.connection is not None else 0
        for at, outcome in enumerate(batch):
            if limit and storage.pending_bytes > limit:
                return batch[at:]
            node, failure = outcome.node, outcome.failure
            if self._watchful:
                if not outcome.begun and self._is_told(outcome):
                    machine.withdrawn(node)
                    continue
                if self._limits is not None:
                    self._limits.late.pop(node, None)
                if self._ending and failure is not None:
                    failure = self._why_ended(node, failure)
            try:
                if outcome.revert:
                    storage.keep_revert(node, outcome.value, failure)
                elif failure is None:
                    storage.keep_result(node, outcome.value)
            except (EncodingError, ValueTooLarge) as error:
                failure = Failure.from_exception(error)
                if outcome.revert:
                    storage.keep_revert(node, None, failure)
            if outcome.revert:
                machine.reverted(node) if failure is None else machine.revert_failed(node)
            elif failure is None:
                machine.succeeded(node)
            else:
                storage.keep_failure(node, failure)
                machine.failed(node)
            if len(machine.changes) > 1:
                self._drain(machine, now)
        return []

    def _report(self, node: int, progress: float, details: Mapping[str, Any]) -> None:
        """A running task, in whatever thread, says how far it has come; the loop stores it with its next commit."""
        said = {"at_progress": progress, "details": details} if details else self._reports.get(node, (0, None))[1]
        self._reports[node] = progress, said
        if time.monotonic() - self._reported_at > PROGRESS_SECONDS:
            self._reported_at = time.monotonic()
            self._wake()

    def _keep_reports(self) -> None:
        while self._reports:
            node, report = self._reports.popitem()
            self.storage.keep_progress(node, *report)

    def _drain(self, machine: Machine, now: int) -> None:
        """Carry the machine's transitions over into the storage."""
        if not machine.changes:
            return
        storage, attempt, intention, depth = self.storage, machine.attempt, machine.intention, machine.depth
        news, signed = self._news, self._signatures
        listened = news.atoms_wanted
        for node, state in machine.changes:
            intended = intention.get(node, states.EXECUTE)
            old = storage.apply(node, state, attempt[node], intended, depth.get(node), now, signed.get(node))
            if listened:
                news.atom(node, state, old)
        machine.changes.clear()

    def _hand_out(self, machine: Machine, executor: Executor, starts: list[int]) -> None:
        plan, storage, news = self.plan, self.storage, self._news
        assert plan is not None
        for at, node in enumerate(starts):
            if self._suspending or (self._keeper is not None and not self._keeper.safe):
                for withdrawn in reversed(starts[at:]):
                    machine.withdrawn(withdrawn)
                self._outcomes.put(None)
                return
            task = plan.atoms[node]
            detail = storage.node_detail(node)
            revert = machine.state[node] == states.REVERTING
            news.tell_start(node)
            try:
                arguments = self._decisions.arguments(node, revert)
            except NotFound as error:
                self._outcomes.put(Outcome(node, revert, None, Failure.from_exception(error)))
                continue
            key = f"{storage.flow_uuid}/{detail.uuid}/{machine.attempt[node]}/{'revert' if revert else 'execute'}"
            if self._in_use and node in self._in_use:
                assert isinstance(task, Task)
                task = task.copy()
            cancelled = self._cancellations[revert]
            if self._limits is not None and not revert:
                cancelled = self._limited(self._limits, node)
            executor.submit(Work(node, task, revert, arguments, key, self._report, cancelled))  # type: ignore[arg-type]

    def _wait(self, machine: Machine) -> list[Outcome]:
        """Every outcome that is there, waiting for the first one if anything runs."""
        outcomes = self._outcomes
        batch: list[Outcome] = []
        if outcomes.empty() and (machine.running or machine.held):
            with contextlib.suppress(Empty):
                timed = self._watchful or bool(machine.timers)
                first = outcomes.get(timeout=self._seconds_left(machine) if timed else None)
                if first is not None:
                    batch.append(first)
        while not outcomes.empty():
            more = outcomes.get_nowait()
            if more is not None:
                batch.append(more)
        return batch

    def _sleep(self, until: int) -> None:
        """Wait for a timer without the lease, then take it again; anybody may run the flow in between."""
        assert self._keeper is not None or self.connection is None
        if self._keeper is not None:
            self._keeper.release()
            self._keeper = None
        renewal = self.options["lease_seconds"] / 3
        while (seconds := (until - self._now()) / 1e6) > 0 and not (self._suspending or self._is_asked()):
            with contextlib.suppress(Empty):
                self._outcomes.get(timeout=min(seconds, renewal))
        if self.connection is not None:
            self._take_lease(self.connection, at_revision=self._revision)
        self.storage.set_wake_at(None)

    # -- ending badly ---------------------------------------------------------------------------------------------

    def _await_running(self) -> None:
        """The machine is void: let what runs end, and forget its outcome."""
        machine = self._machine
        if machine is None:
            return
        machine.running.difference_update(self._starts, (outcome.node for outcome in self._leftover))
        while machine.running:
            outcome = self._outcomes.get()
            if outcome is not None:
                machine.running.discard(outcome.node)

    def _drain_after_close(self) -> None:
        """The generator was closed: take what still runs, and store the flow as suspended."""
        machine = self._machine
        if machine is None:
            return
        batch = self._leftover
        self._suspending = True
        for start in reversed(self._starts):
            machine.withdrawn(start)
        while machine.running or batch:
            batch = self._take(machine, batch or self._wait(machine), self._now())
            self._drain(machine, self._now())
            self._keep_reports()
            self._commit()
        self._drain(machine, self._now())
        self._set_flow_state(self._state_at_end(machine))
        self._commit()
        self._news.tell()
        if self._news.heard:
            self._commit()

    def _set_flow_state(self, state: str) -> None:
        old = self.storage.get_flow_state()
        if old == state:
            return
        if state in (states.RUNNING, states.REVERTING) and old in _RESUMABLE and self._resuming:
            old = states.RESUMING
        self._resuming = False
        states.check_flow_transition(old, state)
        self.storage.set_flow_state(state)
        self._news.flow(state, old)
