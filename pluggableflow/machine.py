# SPDX-License-Identifier: Apache-2.0
"""The pure state machine of one flow: events in; state changes, startable atoms and questions out.

It does no I/O and knows no clock, lock or log. Events are method calls: :meth:`Machine.begin`, ``succeeded``,
``failed``, ``reverted``, ``revert_failed``, ``withdrawn``, ``wake`` and the answers to questions. Each appends to

* ``changes``: every transition of an atom in its order, as ``(node, new state)``; the caller empties it,
* the starts, taken one by one with :meth:`Machine.next_start`,
* the questions, decisions that only the author's code can make, taken with :meth:`Machine.next_question`.

Readiness is counted. In the forward direction ``_waiting[node]`` counts predecessors that are not done; finishing
an atom costs its direct successors. When a scope (the flow of a retry, or everything) is undone, ``_holding[node]``
counts successors inside the scope that may still have an effect; it is computed once per decision, over the scope.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from pluggableflow import states
from pluggableflow.exceptions import InvalidState
from pluggableflow.flow import Depth
from pluggableflow.plan import END, RETRY, START, TASK, Plan
from pluggableflow.retry import Decision

PENDING, RUNNING, SUCCESS, FAILURE = states.PENDING, states.RUNNING, states.SUCCESS, states.FAILURE
REVERTING, REVERTED, IGNORE, RETRYING = states.REVERTING, states.REVERTED, states.IGNORE, states.RETRYING
REVERT_FAILURE = states.REVERT_FAILURE

#: The scope that is the whole flow.
EVERYTHING = -1

_DONE = (SUCCESS, IGNORE)
_NO_EFFECT = (PENDING, IGNORE, REVERTED)
_WIDTH = {Depth.ATOM: 0, Depth.NEIGHBORS: 1, Depth.FLOW: 2, Depth.ALL: 3}


@dataclass(slots=True, frozen=True)
class Decide:
    """Do the deciders of the links to ``target`` let it run? Answer with :meth:`Machine.decided`."""

    target: int


@dataclass(slots=True, frozen=True)
class ExecuteRetry:
    """What does ``retry`` provide for its next attempt? Answer with ``succeeded`` or ``failed``."""

    retry: int


@dataclass(slots=True, frozen=True)
class RevertRetry:
    """Undo ``retry``, its scope has been undone. Answer with ``reverted`` or ``revert_failed``."""

    retry: int


@dataclass(slots=True, frozen=True)
class OnFailure:
    """What does ``retry`` decide about the failure of ``failed`` (an atom, or the retry of a flow inside)?

    Answer with :meth:`Machine.resolved`. ``scope`` is the innermost scope, which asked first.
    """

    retry: int
    failed: int
    scope: int
    origin: int


Question = Decide | ExecuteRetry | RevertRetry | OnFailure


@dataclass(slots=True, frozen=True)
class Restored:
    """What is stored of an atom that is not PENDING, as :meth:`Machine.begin` needs it."""

    state: str
    intention: str
    attempt: int
    started: bool
    not_before: int | None = None
    depth: Depth | None = None


class Machine:
    """All transitions of one run of a plan.

    :ivar state: state of each node; gates are PENDING, SUCCESS, IGNORE or FAILURE
    :ivar attempt: of each node, as in :class:`~pluggableflow.middleware.AtomDetail`
    :ivar intention: of nodes whose intention is not EXECUTE
    :ivar depth: how far the IGNORE of a node spreads to its successors
    :ivar timers: retry to the time before which its next attempt must not start
    :ivar stuck: a revert failed, or failures are not to be resolved: nothing new is executed
    """

    def __init__(self, plan: Plan, *, defer_reverts: bool = False, never_resolve: bool = False) -> None:
        count = len(plan.kinds)
        self.plan = plan
        self.state = [PENDING] * count
        self.attempt = [0] * count
        self.intention: dict[int, str] = {}
        self.depth: dict[int, Depth] = {}
        self.timers: dict[int, int] = {}
        self.changes: list[tuple[int, str]] = []
        self._questions: deque[Question] = deque()
        self._failures: deque[Question] = deque()  # answered first: nothing starts before it is known what they lead to
        self.running: set[int] = set()
        self.stuck = False
        self._defer_reverts, self._never_resolve = defer_reverts, never_resolve
        self._successors, self._predecessors = plan.successors, plan.predecessors
        self._waiting = [len(each) for each in plan.predecessors]
        self._holding: list[int] = []
        self._clear = bytearray()
        self._undoing: dict[int, Decision] = {}
        self._unstarted: set[int] = set()  # FAILUREs of a decider: the atom has not run
        self._resumed: set[int] = set()  # were RUNNING when their process died, so they may have had an effect
        self._restartable: dict[int, None] = {}
        self._reverts: deque[int] = deque()
        self._priorities = [atom.priority if atom else 0 for atom in plan.atoms]
        self._ready: deque[int] = deque()
        self._heap: list[tuple[int, int, int]] | None = [] if any(self._priorities) else None
        self._pushed = 0

    # -- what the caller asks -----------------------------------------------------------------------------------

    @property
    def reverting_all(self) -> bool:
        """Whether the whole flow is being undone."""
        return EVERYTHING in self._undoing

    @property
    def final_state(self) -> str:
        """The state of the flow, once nothing is left to do."""
        if self.state[-1] in _DONE and not self._undoing:
            return SUCCESS
        return FAILURE if self.stuck else REVERTED

    @property
    def has_questions(self) -> bool:
        """Whether :meth:`next_question` may have one."""
        return bool(self._failures or self._questions)

    def has_work(self) -> bool:
        """Whether anything could still be started, asked or waited for, besides what is running."""
        if any(self._revertable(node) for node in self._reverts) or self.has_questions:
            return True
        ready = self._ready if self._heap is None else [entry[2] for entry in self._heap]
        return not self.stuck and bool(
            self.timers or any(self.state[node] == RUNNING or self._may_begin(node) for node in ready)
        )

    def next_start(self) -> int | None:
        """Take the next atom to hand to the executor; it becomes RUNNING, or REVERTING."""
        while self._reverts:
            node = self._reverts.popleft()
            if not self._revertable(node):
                continue
            self.intention[node] = states.REVERT
            self._set(node, REVERTING)
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
            if state == PENDING:
                # An entry from before the scope was tried again waits for its predecessors anew.
                if self._waiting[node] > 0 or (self._undoing and self._blocked(node)):
                    continue
                self.attempt[node] += 1
                self.state[node] = RUNNING
                self.changes.append((node, RUNNING))
            elif state != RUNNING or node in self.running:
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
                restarted = self.state[question.retry] == RUNNING and not self._blocked(question.retry)
                if restarted or self._may_begin(question.retry):
                    if self.stuck:
                        continue
                    if self.state[question.retry] == PENDING:
                        self.attempt[question.retry] += 1
                        self._set(question.retry, RUNNING)
                    return question
            elif isinstance(question, RevertRetry) or self._matters(question):
                return question
        return None

    # -- events: beginning ----------------------------------------------------------------------------------------

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
            if stored.state == RUNNING:
                if self.plan.kinds[node] == TASK:
                    self._resumed.add(node)
                else:  # the execute of a retry leaves no trace until it has returned
                    self.state[node] = PENDING
                    self.attempt[node] -= 1
            if stored.intention != states.EXECUTE:
                self.intention[node] = stored.intention
            if stored.depth is not None:
                self.depth[node] = stored.depth
            if stored.state == FAILURE and not stored.started:
                self._unstarted.add(node)
            if stored.state == REVERT_FAILURE:
                self.stuck = True
        reached = self._restore_counts()
        undecided = self._restore_undoing(restored, reverting_all)
        for node in reached:
            if self.state[node] == RUNNING and self.plan.kinds[node] == TASK:
                self._push(node)
            elif self._reach(node):
                self._spread(node)
        for node in undecided:
            self._resolve(node)
        self.wake(now)

    def _restore_counts(self) -> list[int]:
        """Count what every node waits for; returns the nodes that wait for nothing and are not done."""
        kinds, state, waiting = self.plan.kinds, self.state, self._waiting
        begun, ignored = [0], [0]  # running totals over the nodes before an index
        for node, kind in enumerate(kinds):
            is_atom = kind in (TASK, RETRY)
            begun.append(begun[-1] + (is_atom and state[node] != PENDING))
            ignored.append(ignored[-1] + (is_atom and state[node] == IGNORE))
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
                if begun[end] - begun[node] == ignored[end] - ignored[node] and state[first] == IGNORE and not alone:
                    state[node] = state[end] = IGNORE
                    self.depth[end] = self.depth.get(first, Depth.ATOM)
                else:
                    state[node] = SUCCESS
                continue
            if state[node] == RUNNING:
                reached.append(node)
            if state[node] != PENDING:
                continue
            waiting[node] = sum(state[each] not in _DONE for each in self._predecessors[node])
            if waiting[node]:
                continue
            if kind == END or (kind == START and node not in self.plan.deciders and not self._inherited(node)):
                state[node] = SUCCESS
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
                if self.state[node] == RETRYING or intention == states.RETRY:
                    decisions[node] = Decision.RETRY
                    not_before = restored[node].not_before
                    if not_before is not None:
                        self.timers[node] = not_before
                elif intention == states.REVERT:
                    decisions[node] = Decision.REVERT
        undecided = []
        for node in sorted(restored):
            if node in decisions or self._covered(node, decisions):
                continue
            if self.intention.get(node) == states.REVERT:
                reverting_all = True
            elif self.state[node] == FAILURE:
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

    # -- events: outcomes -----------------------------------------------------------------------------------------

    def succeeded(self, node: int) -> None:
        """A task, or the execute of a retry, has returned."""
        self.running.discard(node)
        self.state[node] = SUCCESS
        self.changes.append((node, SUCCESS))
        if self._undoing and self._undone_scope(node) is not None:
            self._maybe_revert(node)
        else:
            self._spread(node)

    def failed(self, node: int) -> None:
        """A task, or the execute of a retry, has raised."""
        self.running.discard(node)
        self._set(node, FAILURE)
        self._resolve(node)

    def reverted(self, node: int) -> None:
        """A revert has returned."""
        self.running.discard(node)
        self._set(node, REVERTED)
        self._cleared(node)

    def revert_failed(self, node: int) -> None:
        """A revert has raised: what the atom depended on keeps its effect, and nothing new is executed."""
        self.running.discard(node)
        self._set(node, REVERT_FAILURE)
        self.stuck = True

    def withdrawn(self, node: int) -> None:
        """A start was not handed out after all."""
        self.running.discard(node)
        if self.state[node] == REVERTING:
            self._reverts.appendleft(node)
        elif node in self._resumed:
            self._push(node, first=True)
        else:
            self.attempt[node] -= 1
            self._set(node, PENDING)
            self._push(node, first=True)

    def wake(self, now: int) -> None:
        """Time has passed: start again the scopes whose delay is over."""
        for retry in [retry for retry, due in self.timers.items() if due <= now]:
            del self.timers[retry]
            if retry in self._restartable:
                self._restart(retry)

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
            self.state[target] = FAILURE
            inside = range(target, self.plan.end_of[target])
            atom = next((each for each in inside if self.plan.kinds[each] > END), None)
        if atom is not None:
            self._unstarted.add(atom)
            self._set(atom, FAILURE)
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

    # -- forward --------------------------------------------------------------------------------------------------

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
        return self.plan.end_of[node] if self.state[node] == IGNORE and node in self.plan.end_of else node

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
        self.state[node] = SUCCESS
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
            self._set(node, IGNORE)
            return
        end = self.plan.end_of[node]
        for each in range(node, end + 1):
            self._waiting[each] = 0
            if self.plan.kinds[each] > END:
                self.depth[each] = depth
                self._set(each, IGNORE)
            else:
                self.state[each] = IGNORE
        self.depth[end] = depth

    # -- failures -------------------------------------------------------------------------------------------------

    def _resolve(self, node: int, origin: int | None = None) -> None:
        """Find out what a failure of ``node`` leads to; ``origin`` is the atom that keeps it."""
        origin = node if origin is None else origin
        if self._never_resolve:
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
        return self.state[node] == PENDING and self._waiting[node] <= 0 and not self._blocked(node)

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
            if decision is Decision.RETRY and self.state[scope] != RETRYING:
                self._set(scope, RETRYING)
            else:
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
        if state in _NO_EFFECT or state == REVERT_FAILURE or node in self.running:
            return False
        return self._undone_scope(node) is not None and not self._holding[node]

    def _maybe_revert(self, node: int) -> None:
        """Revert a node whose successors have no effect any more, if it is not busy."""
        scope = self._undone_scope(node)
        if scope is None or self._holding[node] or node in self.running or self._has_no_effect(node):
            return
        if node == scope and self._undoing[scope] is Decision.RETRY:
            self._restartable[node] = None
            if node not in self.timers:
                self._restart(node)
        elif self.state[node] in (SUCCESS, FAILURE, RETRYING, REVERTING, RUNNING):
            # RUNNING here: it was running when its process died, and what it did may have to be undone. It runs
            # again first, so that its revert gets its result.
            if self.state[node] == RUNNING:
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
        """The scope of a retry has been undone and its delay is over: begin its next attempt."""
        if self.stuck:
            return
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
                self.state[node] = PENDING
            elif node != retry and self.state[node] != PENDING:
                self._set(node, PENDING)
        self._waiting[retry] = 0
        self.attempt[retry] += 1
        self._set(retry, RUNNING)
        self._questions.append(ExecuteRetry(retry))

    # -- transitions ----------------------------------------------------------------------------------------------

    def _set(self, node: int, new_state: str) -> None:
        old_state = self.state[node]
        is_retry = self.plan.kinds[node] == RETRY
        if old_state != new_state:
            if (old_state, new_state) not in (states.RETRY_TRANSITIONS if is_retry else states.TASK_TRANSITIONS):
                raise InvalidState(
                    f"{self.plan.names[node]!r} cannot go from {old_state} to {new_state}"
                    f" (attempt {self.attempt[node]}, undoing {self._undoing})"
                )
            self.state[node] = new_state
        self.changes.append((node, new_state))
