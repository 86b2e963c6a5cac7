# SPDX-License-Identifier: Apache-2.0
"""Taking up a flow again, whatever state its last process died in."""

from __future__ import annotations

from pluggableflow import states
from pluggableflow.flow import Depth
from pluggableflow.machine.forward import DONE
from pluggableflow.machine.questions import Restored
from pluggableflow.machine.undoing import EVERYTHING, Undoing
from pluggableflow.plan import END, RETRY, START, TASK, Plan
from pluggableflow.retry import Decision


class Resuming(Undoing):
    """Works out from the stored states what waits for what, and what is to be undone."""

    def __init__(self, plan: Plan, never_resolve: bool) -> None:
        super().__init__(plan, never_resolve)
        self._resumed: set[int] = set()  # were RUNNING when their process died, so they may have had an effect

    def begin(self, restored: dict[int, Restored] | None = None, reverting_all: bool = False, now: int = 0) -> None:
        """Take up the flow from what is stored of its atoms, whatever state its last process died in.

        :param restored: node to what is stored of it; absent ones are PENDING
        :param reverting_all: the flow was stored as REVERTING
        """
        if not restored:
            if reverting_all:
                self._undo(EVERYTHING, Decision.REVERT_ALL)
            elif self._reach(0):
                self._spread(0)
            return
        for node, stored in restored.items():
            self.state[node] = stored.state
            self.attempt[node] = stored.attempt
            if stored.state == states.RUNNING:
                if self.plan.kinds[node] == TASK:
                    self._resumed.add(node)
                else:  # the execute of a retry leaves no trace until it has returned
                    self.state[node] = states.PENDING
                    self.attempt[node] -= 1
            if stored.intention != states.EXECUTE:
                self.intention[node] = stored.intention
            if stored.depth is not None:
                self.depth[node] = stored.depth
            if stored.state == states.FAILURE and not stored.started:
                self._unstarted.add(node)
            if stored.state == states.REVERT_FAILURE:
                self.stuck = True
        reached = self._restore_counts()
        undecided = self._restore_undoing(restored, reverting_all)
        for node in reached:
            if self.state[node] == states.RUNNING and self.plan.kinds[node] == TASK:
                self._push(node)
            elif self._reach(node):
                self._spread(self._passed(node))
        for node in undecided:
            self._resolve(node)
        self.wake(now)

    def _restore_counts(self) -> list[int]:
        """Count what every node waits for; returns the nodes that wait for nothing and are not done."""
        kinds, state, waiting = self.plan.kinds, self.state, self._waiting
        begun, ignored = [0], [0]  # running totals over the nodes before an index
        for node, kind in enumerate(kinds):
            is_atom = kind in (TASK, RETRY)
            begun.append(begun[-1] + (is_atom and state[node] != states.PENDING))
            ignored.append(ignored[-1] + (is_atom and state[node] == states.IGNORE))
        reached = []
        for node, kind in enumerate(kinds):
            # What has begun waits for nothing, also where a gate before it (of a flow without atoms, whose decider
            # must be asked again) has left no trace: counted down once more, it must not be reached again.
            waiting[node] = 0
            if kind == START and begun[self.plan.end_of[node]] > begun[node]:
                end = self.plan.end_of[node]
                first = next(each for each in range(node, end) if kinds[each] > END)
                # Its first atom can be ignored alone only by a decider behind a flow without atoms.
                alone = any(each in self.plan.deciders for each in range(node + 1, first + 1))
                if (
                    begun[end] - begun[node] == ignored[end] - ignored[node]
                    and state[first] == states.IGNORE
                    and not alone
                ):
                    state[node] = state[end] = states.IGNORE
                    self.depth[end] = self.depth.get(first, Depth.ATOM)
                else:
                    state[node] = states.SUCCESS
                continue
            if state[node] == states.RUNNING:
                reached.append(node)
            if state[node] != states.PENDING:
                continue
            waiting[node] = sum(state[each] not in DONE for each in self._predecessors[node])
            if waiting[node]:
                continue
            if kind == END or (kind == START and node not in self.plan.deciders and not self._inherited(node)):
                state[node] = states.SUCCESS
                if any(self.depth.get(each) is Depth.ALL for each in self._predecessors[node]):
                    self.depth[node] = Depth.ALL
            else:
                reached.append(node)
        return reached

    def _restore_undoing(self, restored: dict[int, Restored], reverting_all: bool) -> list[int]:
        """Take up the decisions that were stored; returns the failures that nobody has decided about."""
        kinds = self.plan.kinds
        decisions: dict[int, Decision] = {}
        for node in sorted(restored):
            intention = self.intention.get(node)
            if kinds[node] == RETRY and not self._covered(node, decisions):
                if intention == states.REVERT:
                    decisions[node] = Decision.REVERT
                elif self.state[node] == states.RETRYING or intention == states.RETRY:
                    decisions[node] = Decision.RETRY
                    not_before = restored[node].not_before
                    if not_before is not None:
                        self.timers[node] = not_before
        undecided = []
        for node in sorted(restored):
            if node in decisions or self._covered(node, decisions):
                continue
            if self.intention.get(node) == states.REVERT:
                reverting_all = True
            elif self.state[node] == states.FAILURE:
                undecided.append(node)
        if reverting_all:
            self.timers.clear()
            self._undo(EVERYTHING, Decision.REVERT_ALL)
            return []
        for retry, decision in decisions.items():
            self._undo(retry, decision)
        return undecided

    def _covered(self, node: int, decisions: dict[int, Decision]) -> bool:
        scope = self.plan.retry_of[node]
        while scope != EVERYTHING:
            if scope in decisions:
                return True
            scope = self.plan.retry_of[scope]
        return False
