# SPDX-License-Identifier: Apache-2.0
"""The pure state machine of one flow: events in; state changes, startable atoms and questions out."""

from __future__ import annotations

import heapq

from pluggableflow import states
from pluggableflow.flow import Depth
from pluggableflow.machine.forward import DONE
from pluggableflow.machine.questions import Decide, ExecuteRetry, OnFailure, Question, RevertRetry
from pluggableflow.machine.resuming import Resuming
from pluggableflow.machine.undoing import EVERYTHING
from pluggableflow.plan import END, RETRY, START, Plan
from pluggableflow.retry import Decision


class Machine(Resuming):
    """All transitions of one run of a plan. It does no I/O and knows no clock, lock or log.

    Events are method calls: ``begin``, ``succeeded``, ``failed``, ``reverted``, ``revert_failed``, ``withdrawn``,
    ``put_back``, ``late``, ``ended``, ``cancel``, ``wake`` and the answers to questions. Each appends to

    * ``changes``: every transition of an atom in its order, as ``(node, new state)``; the caller empties it,
    * the starts, taken one by one with :meth:`next_start`,
    * the questions, decisions that only the author's code can make, taken with :meth:`next_question`.

    Readiness is counted. In the forward direction ``_waiting[node]`` counts predecessors that are not done; finishing
    an atom costs its direct successors. When a scope is undone, ``_holding[node]`` counts successors inside the scope
    that may still have an effect; it is computed once per decision, over the scope.
    """

    def __init__(self, plan: Plan, *, defer_reverts: bool = False, never_resolve: bool = False) -> None:
        super().__init__(plan, never_resolve)
        self._defer_reverts = defer_reverts

    # -- what the caller asks -----------------------------------------------------------------------------------

    @property
    def reverting_all(self) -> bool:
        """Whether the whole flow is being undone."""
        return EVERYTHING in self._undoing

    @property
    def final_state(self) -> str:
        """The state of the flow, once nothing is left to do."""
        if self.cancelled:
            return states.FAILURE if states.REVERT_FAILURE in self.state else states.CANCELLED
        if self.state[-1] in DONE and not self._undoing:
            return states.SUCCESS
        return states.FAILURE if self.stuck else states.REVERTED

    @property
    def has_questions(self) -> bool:
        """Whether :meth:`next_question` may have one."""
        return bool(self._failures or self._questions)

    def has_work(self) -> bool:
        """Whether anything could still be started, asked or waited for, besides what is running."""
        if any(self._revertable(node) for node in self._reverts) or self.has_questions or self.is_held_up:
            return True
        ready = self._ready if self._heap is None else [entry[2] for entry in self._heap]
        return not self.stuck and bool(
            self.timers or any(self.state[node] == states.RUNNING or self._may_begin(node) for node in ready)
        )

    @property
    def is_held_up(self) -> bool:
        """Whether anything could be started if nothing were held."""
        return bool(self.held) and any(
            self._undone_scope(node) is not None and not self._holding[node] and not self._has_no_effect(node)
            if self.state[node] not in (states.PENDING, states.RUNNING)
            else not self.stuck and (self.state[node] == states.RUNNING or self._may_begin(node))
            for node in self.held
        )

    def next_start(self) -> int | None:
        """Take the next atom to hand to the executor; it becomes RUNNING, or REVERTING."""
        while self._reverts:
            node = self._reverts.popleft()
            if not self._revertable(node):
                continue
            self.intention[node] = states.REVERT
            self._set(node, states.REVERTING)
            self.running.add(node)
            if self.plan.kinds[node] != RETRY:
                return node
            self._questions.append(RevertRetry(node))
        if self.stuck or self.has_questions:  # the answer to a question may forbid what is ready
            return None
        while True:
            if self._heap is None:
                if not self._ready:
                    return None
                node = self._ready.popleft()
            else:
                if not self._heap:
                    return None
                node = heapq.heappop(self._heap)[2]
            state = self.state[node]
            if self.held and node in self.held:
                continue
            if state == states.PENDING:
                # An entry from before the scope was tried again waits for its predecessors anew.
                if self._waiting[node] > 0 or (self._undoing and self._blocked(node)):
                    continue
                self.attempt[node] += 1
                self.state[node] = states.RUNNING
                self.changes.append((node, states.RUNNING))
            elif state != states.RUNNING or node in self.running:
                continue
            self.running.add(node)
            return node

    def next_question(self) -> Question | None:
        """Take the next question that still matters."""
        while self._failures or self._questions:
            question = (self._failures or self._questions).popleft()
            if isinstance(question, Decide):
                if self._may_begin(question.target) and not self.stuck:
                    return question
            elif isinstance(question, ExecuteRetry):
                retry = question.retry
                if self.stuck:
                    continue
                if retry in self._restartable and retry not in self.timers:
                    self._restart(retry)
                elif not self._may_begin(retry):
                    continue
                self.attempt[retry] += 1
                self._set(retry, states.RUNNING)
                return question
            elif isinstance(question, RevertRetry) or self._matters(question):
                return question
        return None

    # -- events: outcomes -----------------------------------------------------------------------------------------

    def succeeded(self, node: int) -> None:
        """A task, or the execute of a retry, has returned."""
        self.running.discard(node)
        self.state[node] = states.SUCCESS
        self.changes.append((node, states.SUCCESS))
        if self._undoing and self._undone_scope(node) is not None:
            self._maybe_revert(node)
        else:
            self._spread(node)

    def failed(self, node: int, held: bool = False) -> None:
        """A task, or the execute of a retry, has raised.

        :param held: what it does goes on all the same, until :meth:`ended`
        """
        self.running.discard(node)
        if held:
            self.held.add(node)
        self._set(node, states.FAILURE)
        self._resolve(node)

    def reverted(self, node: int) -> None:
        """A revert has returned."""
        self.running.discard(node)
        self._set(node, states.REVERTED)
        self._cleared(node)

    def revert_failed(self, node: int) -> None:
        """A revert has raised: what the atom depended on keeps its effect, and nothing new is executed."""
        self.running.discard(node)
        self._set(node, states.REVERT_FAILURE)
        self.stuck = True

    def withdrawn(self, node: int) -> None:
        """A start was not handed out after all."""
        self.running.discard(node)
        if self.state[node] == states.REVERTING:
            self._reverts.appendleft(node)
        elif node in self._resumed:
            self._push(node, first=True)
        else:
            self.attempt[node] -= 1
            self._set(node, states.PENDING)
            self._push(node, first=True)
            if self._undoing and self._undone_scope(node) is not None and not self._holding[node]:
                self._cleared(node)

    def put_back(self, node: int) -> None:
        """The start that was just taken must wait."""
        self._untake(node)
        self._push(node, first=True)

    def late(self, node: int) -> None:
        """The time of the start that was just taken is over: it fails, without having run if it never has."""
        self._untake(node)
        if self.state[node] == states.PENDING:
            self._unstarted.add(node)
        self._set(node, states.FAILURE)
        self._resolve(node)

    def _untake(self, node: int) -> None:
        self.running.discard(node)
        if self.changes and self.changes[-1] == (node, states.RUNNING):
            self.changes.pop()
            self.state[node] = states.PENDING
            self.attempt[node] -= 1

    def ended(self, node: int) -> None:
        """What a held atom did has ended."""
        self.held.discard(node)
        if self.state[node] in (states.PENDING, states.RUNNING):
            self._push(node, first=True)
        else:
            self._maybe_revert(node)

    # -- events: from outside -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Undo everything, whatever retries would say, and nothing more is executed."""
        self.cancelled = True
        if not self.reverting_all:
            self._undo(EVERYTHING, Decision.REVERT_ALL)

    @property
    def interrupted(self) -> list[int]:
        """Tasks that were running when their process died, and were not started again."""
        return [node for node in self._resumed if self.state[node] == states.RUNNING and node not in self.running]

    # -- events: answers ------------------------------------------------------------------------------------------

    def decided(self, target: int, nay: Depth | None) -> None:
        """The deciders have voted.

        :param nay: the widest depth of those that said no, or ``None``
        """
        if nay is not None:
            self._ignore(target, nay)
        elif not self._enter(target):
            return
        self._spread(target if self.plan.kinds[target] != START or nay is None else self.plan.end_of[target])

    def decider_failed(self, target: int) -> int | None:
        """A decider has raised: its target fails without having run.

        :returns: the atom on which to keep the failure, or ``None`` if the target is an empty flow
        """
        atom: int | None = target
        if self.plan.kinds[target] == START:
            self.state[target] = states.FAILURE
            inside = range(target, self.plan.end_of[target])
            atom = next((each for each in inside if self.plan.kinds[each] > END), None)
        if atom is not None:
            self._unstarted.add(atom)
            self._set(atom, states.FAILURE)
        self._resolve(target, atom)
        return atom

    def resolved(self, question: OnFailure, decision: Decision, not_before: int | None = None) -> None:
        """A retry has decided.

        :param not_before: with RETRY, the time before which the next attempt must not start
        """
        retry = question.retry
        parent = self.plan.retry_of[retry]
        if decision is Decision.RETRY:
            if self._undoing.get(retry) is not Decision.RETRY:
                if not_before is not None:
                    self.timers[retry] = not_before
                self._undo(retry, decision)
        elif decision is Decision.REVERT_ALL or (parent == EVERYTHING and self._defer_reverts):
            self._undo(EVERYTHING, Decision.REVERT_ALL, question.origin)
        elif parent == EVERYTHING:
            self._undo(question.scope, Decision.REVERT)
        else:
            self._failures.appendleft(OnFailure(parent, retry, question.scope, question.origin))
            return
        self._maybe_revert(question.origin)
