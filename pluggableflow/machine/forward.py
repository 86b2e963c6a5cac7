# SPDX-License-Identifier: Apache-2.0
"""Going forward: which atoms may begin, which are ignored, which decisions must be asked for."""

from __future__ import annotations

import heapq
from collections import deque

from pluggableflow import states
from pluggableflow.exceptions import InvalidState
from pluggableflow.flow import Depth
from pluggableflow.machine.questions import Decide, ExecuteRetry, Question
from pluggableflow.plan import END, RETRY, START, TASK, Plan

#: States in which an atom holds up its successors no longer.
DONE = (states.SUCCESS, states.IGNORE)


class Forward:
    """Counts atoms down to the moment when all that they wait for is done.

    :ivar state: state of each node; gates are PENDING, SUCCESS, IGNORE or FAILURE
    :ivar attempt: of each node, as in :class:`~pluggableflow.middleware.AtomDetail`
    :ivar intention: of nodes whose intention is not EXECUTE
    :ivar depth: how far the IGNORE of a node spreads to its successors
    :ivar changes: every transition of an atom in its order, as ``(node, new state)``; the caller empties it
    :ivar running: nodes that were started and whose outcome is not known yet
    """

    def __init__(self, plan: Plan) -> None:
        count = len(plan.kinds)
        self.plan = plan
        self.state = [states.PENDING] * count
        self.attempt = [0] * count
        self.intention: dict[int, str] = {}
        self.depth: dict[int, Depth] = {}
        self.changes: list[tuple[int, str]] = []
        self.running: set[int] = set()
        self._questions: deque[Question] = deque()
        self._successors, self._predecessors = plan.successors, plan.predecessors
        self._waiting = [len(each) for each in plan.predecessors]
        self._priorities = [atom.priority if atom else 0 for atom in plan.atoms]
        self._ready: deque[int] = deque()
        self._heap: list[tuple[int, int, int]] | None = [] if any(self._priorities) else None
        self._pushed = 0

    def _push(self, node: int, first: bool = False) -> None:
        if self._heap is not None:
            self._pushed += 1
            order = -self._pushed if first else self._pushed
            heapq.heappush(self._heap, (-self._priorities[node], order, node))
        elif first:
            self._ready.appendleft(node)
        else:
            self._ready.append(node)

    def _spread(self, node: int) -> None:
        """Count a done node down in its successors, and go on through those that are done at once."""
        waiting, successors = self._waiting, self._successors
        for successor in successors[node]:
            waiting[successor] -= 1
            if not waiting[successor] and self._reach(successor):
                break
        else:
            return
        # A gate was passed or an atom ignored: go on with an explicit stack, whatever the depth of nesting.
        at = successors[node].index(successor) + 1
        stack = [self._passed(successor)]
        for later in successors[node][at:]:
            waiting[later] -= 1
            if not waiting[later] and self._reach(later):
                stack.append(self._passed(later))
        stack.reverse()
        while stack:
            passed = []
            for successor in successors[stack.pop()]:
                waiting[successor] -= 1
                if not waiting[successor] and self._reach(successor):
                    passed.append(self._passed(successor))
            stack.extend(reversed(passed))

    def _passed(self, node: int) -> int:
        """The node whose successors come next after ``node`` is done: of an ignored flow, its END."""
        return self.plan.end_of[node] if self.state[node] == states.IGNORE and node in self.plan.end_of else node

    def _reach(self, node: int) -> bool:
        """All predecessors are done; returns whether ``node`` is done with that."""
        if self.depth:
            depth = self._inherited(node)
            if depth is not None:
                if self.plan.kinds[node] == END:
                    self.depth[node] = depth
                else:
                    self._ignore(node, depth)
                    return True
        if node in self.plan.deciders:
            self._questions.append(Decide(node))
            return False
        return self._enter(node)

    def _enter(self, node: int) -> bool:
        kind = self.plan.kinds[node]
        if kind == TASK:
            if self._heap is None:
                self._ready.append(node)
            else:
                self._push(node)
            return False
        if kind == RETRY:
            self._questions.append(ExecuteRetry(node))
            return False
        self.state[node] = states.SUCCESS
        return True

    def _inherited(self, node: int) -> Depth | None:
        """The depth with which ignored predecessors make this node ignored, or ``None``."""
        found: Depth | None = None
        kind = self.plan.kinds[node]
        for each in self._predecessors[node]:
            depth = self.depth.get(each)
            if depth is Depth.ALL:
                return depth
            if kind == TASK and depth is Depth.FLOW:
                found = Depth.FLOW
            elif kind == TASK and depth is Depth.NEIGHBORS and found is None:
                found = Depth.ATOM
        return found

    def _ignore(self, node: int, depth: Depth) -> None:
        """Skip an atom, or a flow with all that is in it."""
        if self.plan.kinds[node] != START:
            self.depth[node] = depth
            self._set(node, states.IGNORE)
            return
        end = self.plan.end_of[node]
        for each in range(node, end + 1):
            self._waiting[each] = 0
            if self.plan.kinds[each] > END:
                self.depth[each] = depth
                self._set(each, states.IGNORE)
            else:
                self.state[each] = states.IGNORE
        self.depth[end] = depth

    # -- transitions ----------------------------------------------------------------------------------------------

    def _set(self, node: int, new_state: str) -> None:
        old_state = self.state[node]
        is_retry = self.plan.kinds[node] == RETRY
        if old_state != new_state:
            if (old_state, new_state) not in (states.RETRY_TRANSITIONS if is_retry else states.TASK_TRANSITIONS):
                raise InvalidState(
                    f"{self.plan.names[node]!r} cannot go from {old_state} to {new_state}"
                    f" (attempt {self.attempt[node]})"
                )
            self.state[node] = new_state
        self.changes.append((node, new_state))
