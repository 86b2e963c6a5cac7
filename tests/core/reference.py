# SPDX-License-Identifier: Apache-2.0
"""A slow, obvious interpreter of flows: the yardstick for the machine and the engines.

It works on its own descriptions of flows, those of ``reference_flow``. There is no plan and there are no counters:
every question is answered by walking the tree again. It does not choose an order. :meth:`Reference.enabled` lists the
events that may happen next, and :meth:`Reference.do` lets one happen, so a run of an engine is right if its events can
be followed to the end, where nothing is enabled.

Events are tuples: ``("start", task)``, ``("finish", task)``, ``("start_revert", task)``, ``("finish_revert", task)``,
``("execute", retry)``, ``("revert", retry)``, ``("on_failure", retry, failed, failure)``,
``("decide", source, target)``, ``("cancel", why)``, ``("withdraw", task)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from reference_flow import (
    DEPTHS,
    EVERYTHING,
    RETRY,
    REVERT,
    REVERT_ALL,
    Flow,
    History,
    Item,
    Link,
    Retry,
    Task,
    Tree,
    attempt_of,
    decision_of,
    scripted,
    value_of,
)

PENDING, RUNNING, SUCCESS, FAILURE, IGNORE = "PENDING", "RUNNING", "SUCCESS", "FAILURE", "IGNORE"
REVERTING, REVERTED, REVERT_FAILURE, RETRYING = "REVERTING", "REVERTED", "REVERT_FAILURE", "RETRYING"
CANCELLED = "CANCELLED"
NO_EFFECT = (PENDING, IGNORE, REVERTED)

Event = tuple[str, ...]


@dataclass
class Question:
    """A retry has to decide about a failure; ``scope`` is the one that was asked first."""

    retry: str
    failed: str
    failure: str
    scope: str


@dataclass
class Reference:
    """One run of a flow.

    :ivar undoing: scope (name of its retry, or ``EVERYTHING``) to the decision that it is being undone with
    :ivar stuck: a revert failed, or failures are not to be resolved: nothing new is executed
    :ivar ignored: task, or flow as a whole, to the depth with which it is ignored
    """

    flow: Flow
    defer_reverts: bool = False
    never_resolve: bool = False
    tree: Tree = field(init=False)
    state: dict[str, str] = field(init=False)
    attempt: dict[str, int] = field(init=False)
    result: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, str] = field(default_factory=dict)
    revert_failure: dict[str, str] = field(default_factory=dict)
    history: dict[str, History] = field(init=False)
    undoing: dict[str | None, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    votes: dict[tuple[str, str], bool] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    not_run: set[str] = field(default_factory=set)  # atoms and flows that failed because a decider raised
    interrupted: set[str] = field(default_factory=set)  # running when their process died
    stuck: bool = False
    asked: str = ""  # why the flow is to be reverted and cancelled, from when that was asked for
    cancelled: bool = False
    resumed: set[str] = field(default_factory=set)  # run again after their process died

    def __post_init__(self) -> None:
        self.tree = Tree(self.flow)
        self.state = dict.fromkeys(self.tree.atoms, PENDING)
        self.attempt = dict.fromkeys(self.tree.atoms, 0)
        self.history = {name: [] for name, atom in self.tree.atoms.items() if isinstance(atom, Retry)}
        self._settle()

    # -- what holds -----------------------------------------------------------------------------------------------

    def done(self, item: Item) -> bool:
        """Whether what comes after an item need not wait for it."""
        if isinstance(item, Task):
            return self.state[item.name] in (SUCCESS, IGNORE)
        if item.name in self.ignored:
            return True
        if not self.entered(item) or (item.retry and self.state[item.retry.name] != SUCCESS):
            return False
        return all(self.done(each) for each in item.items)

    def reached(self, item: Item) -> bool:
        """Whether everything before an item is done."""
        if item is self.flow:
            return True
        flow = self.tree.around[item.name]
        if not self.entered(flow) or (flow.retry and self.state[flow.retry.name] != SUCCESS):
            return False
        return all(self.done(each) for each in self.tree.predecessors(item))

    def entered(self, item: Item) -> bool:
        """Whether an item is reached and nothing keeps it from being run."""
        if item.name in self.ignored or item.name in self.not_run or not self.reached(item):
            return False
        return all((link.source, link.target) in self.votes for link in self._voters(item))

    def undone_by(self, name: str) -> list[str | None]:
        """The scopes being undone that hold an atom or item, from the inside out."""
        around: list[str | None] = [*self.tree.retries_around(name), EVERYTHING]
        if name in self.history:
            around.insert(0, name)
        return [scope for scope in around if scope in self.undoing]

    def has_effect(self, name: str) -> bool:
        return self.state[name] not in NO_EFFECT and name not in self.not_run

    def _links(self, item: Item) -> list[Link]:
        flow = self.tree.around.get(item.name)
        return [each for each in flow.links if each.target == item.name and each.answers] if flow else []

    def _voters(self, item: Item) -> list[Link]:
        return [each for each in self._links(item) if each.source not in self.ignored]

    def _carries_all(self, item: Item) -> bool:
        """Whether everything after an item is to be ignored."""
        if item.name in self.ignored:
            return self.ignored[item.name] == "ALL"
        return isinstance(item, Flow) and any(self._carries_all(each) for each in item.items)

    def _inherited(self, item: Item) -> str | None:
        """The depth with which an item is ignored because of what comes before it."""
        before = self.tree.predecessors(item)
        if any(self._carries_all(each) for each in before):
            return "ALL"
        depths = {self.ignored.get(each.name) for each in before}
        if isinstance(item, Task) and "FLOW" in depths:
            return "FLOW"
        return "ATOM" if isinstance(item, Task) and "NEIGHBORS" in depths else None

    def _untouched(self, item: Item) -> bool:
        return item.name not in self.not_run and all(self.state[each] == PENDING for each in self.tree.inside(item))

    def _undecided(self, item: Item) -> bool:
        """Whether an item waits for its deciders only."""
        return (
            self.reached(item)
            and item.name not in self.ignored
            and self._untouched(item)
            and not self.undone_by(item.name)
        )

    @property
    def final_state(self) -> str:
        """The state of the flow, once nothing is enabled."""
        if self.cancelled and REVERT_FAILURE not in self.state.values():
            return CANCELLED
        if self.stuck:
            return FAILURE
        return SUCCESS if self.done(self.flow) and not self.undoing else REVERTED

    def raised(self) -> list[str]:
        """The failures that the run raises, once nothing is enabled."""
        if self.final_state == SUCCESS:
            return []
        if self.final_state == CANCELLED:
            return [f"pluggableflow.exceptions.Cancelled: flow {self.flow.name!r} was cancelled: {self.asked}"]
        return sorted([*self.failure.values(), *self.revert_failure.values()])

    # -- what may happen next -------------------------------------------------------------------------------------

    def enabled(self) -> list[Event]:
        """All events that may happen next."""
        return list(self._enabled())

    def _enabled(self) -> Iterator[Event]:
        if self.asked:
            for name, state in self.state.items():
                if state == RUNNING and name not in self.interrupted:
                    yield ("withdraw", name)
            if not self.cancelled:
                yield ("cancel", self.asked)
        for question in self.questions:
            yield ("on_failure", question.retry, question.failed, question.failure)
        for name in self.tree.atoms:
            if self.state[name] in (RUNNING, REVERTING) and name not in self.interrupted:
                yield ("finish" if self.state[name] == RUNNING else "finish_revert", name)
        if self.questions:
            return  # nothing starts before it is known what the failures lead to
        for name, atom in self.tree.atoms.items():
            if isinstance(atom, Task):
                if self._may_start(atom):
                    yield ("start", name)
            elif self._may_execute(name):
                yield ("execute", name)
            if self._may_revert(name):
                yield ("start_revert" if isinstance(atom, Task) else "revert", name)
        if self.stuck:
            return
        for item in self.tree.items.values():
            for link in self._voters(item):
                if (link.source, link.target) not in self.votes and self._undecided(item):
                    yield ("decide", link.source, link.target)

    def _may_start(self, task: Task) -> bool:
        if self.stuck:
            return False
        if self.state[task.name] == RUNNING:
            return task.name in self.interrupted
        return self.state[task.name] == PENDING and self.entered(task) and not self.undone_by(task.name)

    def _may_execute(self, retry: str) -> bool:
        if self.stuck:
            return False
        if self.undoing.get(retry) == RETRY:
            return not self._holds(retry)
        flow = self.tree.around[retry]
        return self.state[retry] == PENDING and self.entered(flow) and not self.undone_by(retry)

    def _holds(self, retry: str) -> bool:
        """Whether something in the scope of a retry still has an effect."""
        return any(self.has_effect(each) for each in self.tree.scope(retry) if each != retry)

    def _may_revert(self, name: str) -> bool:
        if self.state[name] == REVERTING:
            return name in self.interrupted
        scopes = self.undone_by(name)
        if self.state[name] not in (SUCCESS, FAILURE, RETRYING) or name in self.not_run or not scopes:
            return False
        if scopes[0] == name and self.undoing[name] == RETRY:
            return False
        inside = self.tree.scope(scopes[0])
        return not any(self.has_effect(each) for each in self.tree.after[name] if each in inside)

    # -- letting it happen ----------------------------------------------------------------------------------------

    def do(self, event: Event) -> None:
        """Let an enabled event happen."""
        kind, name = event[0], event[1]
        getattr(self, f"_do_{kind}")(name, *event[2:])
        self._settle()

    def _do_start(self, name: str) -> None:
        if name in self.interrupted:
            self.interrupted.discard(name)
            self.resumed.add(name)
            return
        self.attempt[name] += 1
        self.state[name] = RUNNING

    def _do_cancel(self, why: str) -> None:
        self.cancelled = True
        self._undo(EVERYTHING, REVERT_ALL)
        self._give_up_interrupted()

    def _do_withdraw(self, name: str) -> None:
        """It waited for a worker when the flow was cancelled, and was not begun."""
        if name in self.resumed:
            self.interrupted.add(name)
            if self.cancelled:
                self._give_up_interrupted()
        else:
            self.attempt[name] -= 1
            self.state[name] = PENDING

    def _give_up_interrupted(self) -> None:
        """What was running when its process died is not run again for a cancellation."""
        for name in [name for name in self.interrupted if self.state[name] == RUNNING]:
            self.interrupted.discard(name)
            self.state[name] = FAILURE
            self.failure[name] = f"pluggableflow.exceptions.Cancelled: atom {name!r} was cancelled: {self.asked}"

    def _do_finish(self, name: str) -> None:
        task = self.tree.atoms[name]
        assert isinstance(task, Task)
        self.failure.pop(name, None)
        self.result.pop(name, None)
        if scripted(task.fails, self.attempt[name]):
            self._fail(name, name, f"ValueError: {value_of(name, self.attempt[name])} failed")
        else:
            self.state[name] = SUCCESS
            self.result[name] = value_of(name, self.attempt[name])

    def _do_start_revert(self, name: str) -> None:
        self.interrupted.discard(name)
        self.state[name] = REVERTING

    def _do_finish_revert(self, name: str) -> None:
        task = self.tree.atoms[name]
        assert isinstance(task, Task)
        self._reverted(name, scripted(task.revert_fails, self.attempt[name]))

    def _do_execute(self, name: str) -> None:
        if self.undoing.pop(name, None):
            self._forget(name)
        self.attempt[name] += 1
        self.failure.pop(name, None)
        retry, history = self.tree.atoms[name], self.history[name]
        assert isinstance(retry, Retry)
        value, failure = attempt_of(retry, len(history) + 1, self._values(retry))
        if failure:
            self._fail(name, name, failure)
        else:
            self.state[name] = SUCCESS
            self.result[name] = value
            history.append((value, {}))

    def _do_revert(self, name: str) -> None:
        retry = self.tree.atoms[name]
        assert isinstance(retry, Retry)
        self._reverted(name, retry.revert_fails)

    def _do_on_failure(self, name: str, failed: str, failure: str) -> None:
        asked = (name, failed, failure)
        question = next(each for each in self.questions if (each.retry, each.failed, each.failure) == asked)
        self.questions.remove(question)
        retry, history = self.tree.atoms[name], self.history[name]
        assert isinstance(retry, Retry)
        history[-1][1][failed] = failure
        decision = decision_of(retry, history, self._values(retry))
        if decision == "raise":
            self.failure[name] = f"ValueError: {name} cannot decide"
        elif decision == "nonsense":
            why = f"on_failure of {name!r} must return RETRY, REVERT or REVERT_ALL, not 'nonsense'"
            self.failure[name] = f"pluggableflow.exceptions.InvalidState: {why}"
        parents = self.tree.retries_around(name)
        if decision == RETRY:
            if self.undoing.get(name) != RETRY:
                self._undo(name, RETRY)
        elif decision == REVERT_ALL or (not parents and self.defer_reverts):
            self._undo(EVERYTHING, REVERT_ALL)
        elif parents:
            self.questions.append(Question(parents[0], name, failure, question.scope))
        else:
            self._undo(question.scope, REVERT)

    def _do_decide(self, source: str, target: str) -> None:
        item = self.tree.items[target]
        link = next(each for each in self._links(item) if each.source == source)
        attempt = self.attempt.get(source, 1)
        answer = link.answers[min(attempt, len(link.answers)) - 1]
        if answer == "raise":
            inside = self.tree.inside(item)
            self.not_run |= {target, *inside[:1]}
            self._fail(target, inside[0] if inside else None, f"LookupError: {source}->{target} cannot decide")
            return
        self.votes[source, target] = bool(answer)
        if all((each.source, target) in self.votes for each in self._voters(item)):
            nays = [each.depth or "ALL" for each in self._voters(item) if not self.votes[each.source, target]]
            if nays:
                self._ignore(item, max(nays, key=DEPTHS.index))

    def _reverted(self, name: str, fails: bool) -> None:
        self.state[name] = REVERT_FAILURE if fails else REVERTED
        if fails:
            self.revert_failure[name] = f"ValueError: {name} cannot be undone"
            self.stuck = True

    def _fail(self, failed: str, atom: str | None, failure: str) -> None:
        if atom is not None:
            self.state[atom] = FAILURE
            self.failure[atom] = failure
        if self.never_resolve and not self.cancelled:
            self.stuck = True
            return
        retries, scopes = self.tree.retries_around(failed), self.undone_by(failed)
        if scopes and not (scopes[0] in retries[:1] and self.undoing[scopes[0]] == RETRY):
            return
        if retries:
            self.questions.append(Question(retries[0], failed, failure, retries[0]))
        else:
            self._undo(EVERYTHING, REVERT_ALL)

    def _undo(self, scope: str | None, decision: str) -> None:
        inside = self.tree.scope(scope)
        self.undoing = {each: how for each, how in self.undoing.items() if each not in inside}
        self.undoing[scope] = decision
        self.questions = [
            each for each in self.questions
            if each.retry not in inside or (each.retry == scope and decision == RETRY)
        ]  # fmt: skip

    def _forget(self, retry: str) -> None:
        """Put the scope of a retry back to its beginning."""
        flow = self.tree.around[retry]
        inside = {name for name in self.tree.items if flow in self.tree.path(name)} | set(self.tree.scope(retry))
        for name in inside - {retry}:
            if name in self.state:
                self.state[name] = PENDING
                self.failure.pop(name, None)
                self.result.pop(name, None)
            if name in self.history:
                self.history[name] = []
            self.ignored.pop(name, None)
            self.not_run.discard(name)
        self.votes = {link: vote for link, vote in self.votes.items() if link[1] not in inside}

    def _ignore(self, item: Item, depth: str) -> None:
        self.ignored[item.name] = depth
        for name in self.tree.inside(item):
            self.state[name] = IGNORE

    def _settle(self) -> None:
        """Ignore what is to be ignored because of what comes before it; say which retries are about to try again."""
        for scope, decision in self.undoing.items():
            if scope is not None and decision == RETRY and not self._holds(scope):
                self.state[scope] = RETRYING
        changed = True
        while changed:
            changed = False
            for item in self.tree.items.values():
                depth = self._inherited(item)
                if depth and self._undecided(item):
                    self._ignore(item, depth)
                    changed = True

    # -- death of the process -------------------------------------------------------------------------------------

    def crash(self) -> None:
        """The process dies right after a commit, and another one takes the flow up."""
        self.interrupted = {name for name, state in self.state.items() if state in (RUNNING, REVERTING)}
        self.resumed.clear()
        if self.cancelled:
            self._give_up_interrupted()
        self.votes = {
            (source, target): vote for (source, target), vote in self.votes.items()
            if not self._untouched(self.tree.items[target])
        }  # fmt: skip

    # -- what an atom sees ----------------------------------------------------------------------------------------

    def arguments(self, name: str) -> dict[str, Any]:
        """What a task is called with, by the atom that it comes from."""
        task = self.tree.atoms[name]
        assert isinstance(task, Task)
        return {each: self._visible(each, name) for each in (*task.needs, *task.wants)}

    def _values(self, retry: Retry) -> tuple[Any, ...]:
        """The values of a ForEach or ParameterizedForEach; those from a task are the letters of its result."""
        return tuple(self._visible(retry.needs[0], retry.name)) if retry.needs else retry.values

    def _visible(self, provider: str, name: str) -> Any:
        if name in self.tree.after[provider] and self.state[provider] in (SUCCESS, RETRYING):
            return self.result[provider]
        return None
