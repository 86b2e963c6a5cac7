# SPDX-License-Identifier: Apache-2.0
"""Undoing: what a failure leads to, and in which order the atoms of a scope are reverted."""

from __future__ import annotations

from collections import deque

from pluggableflow import states
from pluggableflow.machine.forward import Forward
from pluggableflow.machine.questions import ExecuteRetry, OnFailure, Question
from pluggableflow.plan import END, RETRY, Plan
from pluggableflow.retry import Decision

#: The scope that is the whole flow.
EVERYTHING = -1

_NO_EFFECT = (states.PENDING, states.IGNORE, states.REVERTED)


class Undoing(Forward):
    """Undoes scopes: a scope is the flow of a retry, or everything.

    :ivar timers: retry to the time before which its next attempt must not start
    :ivar held: have failed, but what they do still goes on: they are neither reverted nor run again before it ends
    :ivar cancelled: everything is undone because somebody asked for it
    :ivar stuck: a revert failed, or failures are not to be resolved: nothing new is executed
    """

    def __init__(self, plan: Plan, never_resolve: bool) -> None:
        super().__init__(plan)
        self.timers: dict[int, int] = {}
        self.stuck = False
        self.held: set[int] = set()
        self.cancelled = False
        self._never_resolve = never_resolve
        self._failures: deque[Question] = deque()  # answered first: nothing starts before it is known what they lead to
        self._undoing: dict[int, Decision] = {}
        self._holding: list[int] = []
        self._clear = bytearray()
        self._unstarted: set[int] = set()  # FAILUREs of a decider: the atom has not run
        self._restartable: dict[int, None] = {}
        self._reverts: deque[int] = deque()

    def wake(self, now: int) -> None:
        """Time has passed: start again the scopes whose delay is over."""
        for retry in [retry for retry, due in self.timers.items() if due <= now]:
            del self.timers[retry]
            if retry in self._restartable:
                self._questions.append(ExecuteRetry(retry))

    # -- failures -------------------------------------------------------------------------------------------------

    def _resolve(self, node: int, origin: int | None = None) -> None:
        """Find out what a failure of ``node`` leads to; ``origin`` is the atom that keeps it."""
        origin = node if origin is None else origin
        if self._never_resolve and not self.cancelled:
            self.stuck = True
            return
        retry = self.plan.retry_of[node]
        scope = self._undone_scope(node)
        if scope is not None and not (scope == retry and self._undoing[scope] is Decision.RETRY):
            self._maybe_revert(origin)
        elif retry == EVERYTHING:
            self._undo(EVERYTHING, Decision.REVERT_ALL, origin)
        else:
            self._failures.append(OnFailure(retry, node, retry, origin))

    def _matters(self, question: OnFailure) -> bool:
        """Whether a decision about that failure can still change anything."""
        scope = self._undone_scope(question.retry, itself=True)
        if scope is None or (scope == question.retry and self._undoing[scope] is Decision.RETRY):
            return True
        self._maybe_revert(question.origin)
        return False

    def _undone_scope(self, node: int, itself: bool = False) -> int | None:
        """The scope being undone in which a node lies, or ``None``; a retry lies in its own scope too."""
        if not self._undoing:
            return None
        if EVERYTHING in self._undoing:
            return EVERYTHING
        scope = node if itself or self.plan.kinds[node] == RETRY else self.plan.retry_of[node]
        while scope != EVERYTHING:
            if scope in self._undoing:
                return scope
            scope = self.plan.retry_of[scope]
        return None

    def _may_begin(self, node: int) -> bool:
        return self.state[node] == states.PENDING and self._waiting[node] <= 0 and not self._blocked(node)

    def _blocked(self, node: int) -> bool:
        return self._undone_scope(node) is not None

    # -- undoing --------------------------------------------------------------------------------------------------

    def _range(self, scope: int) -> tuple[int, int]:
        if scope == EVERYTHING:
            return 0, len(self.state) - 1
        start = self.plan.start_of_retry[scope]
        return start, self.plan.end_of[start]

    def _undo(self, scope: int, decision: Decision, origin: int | None = None) -> None:
        """Begin to undo a scope, or undo it with a stronger decision."""
        low, high = self._range(scope)
        for inner in [each for each in self._undoing if low <= each <= high]:
            del self._undoing[inner]
        for inner in [each for each in self.timers if low <= each <= high]:
            if inner != scope or decision is not Decision.RETRY:
                del self.timers[inner]
        for inner in [each for each in self._restartable if low <= each <= high]:
            del self._restartable[inner]
        self._undoing[scope] = decision
        if scope != EVERYTHING:
            self.intention[scope] = states.RETRY if decision is Decision.RETRY else states.REVERT
            self.changes.append((scope, self.state[scope]))
        elif origin is not None and self.plan.kinds[origin] > END:
            self.intention[origin] = states.REVERT
            self.changes.append((origin, self.state[origin]))
        if not self._holding:
            self._holding = [0] * len(self.state)
            self._clear = bytearray(len(self.state))
        clear, holding = self._clear, self._holding
        for node in range(high, low - 1, -1):
            holding[node] = sum(not clear[each] for each in self._successors[node] if each <= high)
            clear[node] = 0
            if not holding[node]:
                if self._has_no_effect(node) and not (node == scope and decision is Decision.RETRY):
                    clear[node] = 1
                else:
                    self._maybe_revert(node)

    def _has_no_effect(self, node: int) -> bool:
        return self.plan.kinds[node] <= END or self.state[node] in _NO_EFFECT or node in self._unstarted

    def _revertable(self, node: int) -> bool:
        state = self.state[node]
        if state in _NO_EFFECT or state == states.REVERT_FAILURE or node in self.running or node in self.held:
            return False
        return self._undone_scope(node) is not None and not self._holding[node]

    def _maybe_revert(self, node: int) -> None:
        """Revert a node whose successors have no effect any more, if it is not busy."""
        scope = self._undone_scope(node)
        if scope is None or self._holding[node] or node in self.running or self._has_no_effect(node):
            return
        if node in self.held:
            return
        if node == scope and self._undoing[scope] is Decision.RETRY:
            self._restartable[node] = None
            if self.state[node] != states.RETRYING:
                self._set(node, states.RETRYING)
            if node not in self.timers:
                self._questions.append(ExecuteRetry(node))
        elif self.state[node] in (states.SUCCESS, states.FAILURE, states.RETRYING, states.REVERTING, states.RUNNING):
            # RUNNING here: it was running when its process died, and what it did may have to be undone. It runs
            # again first, so that its revert gets its result.
            if self.state[node] == states.RUNNING:
                self._push(node)
            else:
                self._reverts.append(node)

    def _cleared(self, node: int) -> None:
        """A node has no effect any more: count it down in its predecessors."""
        scope = self._undone_scope(node)
        if scope is None:
            return
        low, _high = self._range(scope)
        retrying = self._undoing[scope] is Decision.RETRY
        stack = [node]
        while stack:
            cleared = stack.pop()
            self._clear[cleared] = 1
            for each in self._predecessors[cleared]:
                if each < low:
                    continue
                self._holding[each] -= 1
                if not self._holding[each]:
                    if self._has_no_effect(each) and not (each == scope and retrying):
                        stack.append(each)
                    else:
                        self._maybe_revert(each)

    def _restart(self, retry: int) -> None:
        """The next attempt of a retry begins, whose scope has been undone and whose delay is over.

        Only now, when the retry is asked: a failure that is answered before may undo what is around it.
        """
        del self._restartable[retry]
        del self._undoing[retry]
        self.intention.pop(retry, None)
        low, high = self._range(retry)
        for node in range(low + 1, high + 1):
            self._waiting[node] = len(self._predecessors[node])
            self.depth.pop(node, None)
            self._unstarted.discard(node)
            self.intention.pop(node, None)
            if self.plan.kinds[node] <= END:
                self.state[node] = states.PENDING
            elif node != retry and self.state[node] != states.PENDING:
                self._set(node, states.PENDING)
        self._waiting[retry] = 0
