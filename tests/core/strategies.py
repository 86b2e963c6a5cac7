# SPDX-License-Identifier: Apache-2.0
"""Random flows for the reference, and the same flows made of the package's own tasks, which log what happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import reference_flow as ref
from hypothesis import strategies as st

from pluggableflow import retry, task
from pluggableflow.failure import Failure
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow, unordered_flow

PATTERNS = {"linear": linear_flow.Flow, "unordered": unordered_flow.Flow, "graph": graph_flow.Flow}
KINDS = {
    kind.__name__: kind
    for kind in (retry.Times, retry.ForEach, retry.ParameterizedForEach, retry.AlwaysRevert, retry.AlwaysRevertAll)
}
MOST_ATOMS = 12


@st.composite
def flows(draw: Callable[..., Any]) -> ref.Flow:
    """A nested flow of at most ``MOST_ATOMS`` tasks, with retries, links, deciders and scripted failures."""
    counter = iter(range(10_000))
    troubled = draw(st.booleans())  # many tasks that fail at the same time, and many retries to think about it
    left = draw(st.integers(6 if troubled else 1, MOST_ATOMS))
    with_deciders = draw(st.booleans())
    rarely = st.sampled_from([False, False, False, False, True])
    failing = st.booleans() if troubled else rarely

    def a_script(longest: int = 3) -> tuple[bool, ...]:
        return tuple(draw(st.lists(failing, min_size=1, max_size=longest)))

    def a_task(seen: list[str]) -> ref.Task:
        nonlocal left
        left -= 1
        known = draw(st.lists(st.sampled_from(seen), max_size=2, unique=True)) if seen else []
        needs, wants = ((), tuple(known)) if with_deciders else (tuple(known), ())
        fails = a_script() if draw(failing) else (False,)
        revert_fails = a_script(1) if draw(st.integers(0, 5)) == 0 else (False,)
        return ref.Task(f"t{next(counter)}", fails, revert_fails, needs, wants)

    def a_retry(seen: list[str]) -> ref.Retry | None:
        if not draw(st.sampled_from([True, True, False]) if troubled else rarely):
            return None
        name, kind = f"r{next(counter)}", draw(st.sampled_from(["script"] * 4 + sorted(KINDS)))
        if kind == "script":
            return a_scripted_retry(name)
        # A task that a decider may keep from running cannot be what the values come from.
        tasks = [each for each in seen if each.startswith("t") and not with_deciders]
        needs = (draw(st.sampled_from(tasks)),) if kind == "ParameterizedForEach" and tasks else ()
        values = tuple(draw(st.lists(st.integers(1, 2), min_size=2 * troubled, max_size=3)))
        revert_all = kind not in ("AlwaysRevert", "AlwaysRevertAll") and draw(rarely)
        return ref.Retry(name, kind, draw(st.integers(1, 3)), values, needs, revert_all)

    def a_scripted_retry(name: str) -> ref.Retry:
        answers = st.sampled_from(["RETRY", "RETRY", "REVERT", "REVERT_ALL", "raise", "nonsense"])
        decisions = draw(st.lists(st.lists(answers, min_size=1, max_size=2), min_size=troubled, max_size=3))
        fails = tuple(draw(st.lists(rarely, max_size=3)))
        revert_fails = draw(st.integers(0, 9)) == 0
        return ref.Retry(name, fails=fails, revert_fails=revert_fails, decisions=tuple(map(tuple, decisions)))

    def a_link(source: str, target: ref.Flow | ref.Task) -> ref.Link:
        # A decision about a flow without atoms leaves no trace in the store, so a crash makes it be asked again.
        leaves_trace = isinstance(target, ref.Task) or ref.Tree(target).inside(target)
        if not with_deciders or not leaves_trace or draw(st.booleans()):
            return ref.Link(source, target.name)
        answers = draw(st.lists(st.sampled_from([True, True, False, False, "raise"]), min_size=1, max_size=3))
        return ref.Link(source, target.name, tuple(answers), draw(st.sampled_from([None, *ref.DEPTHS])))

    def a_flow(depth: int, seen: list[str]) -> ref.Flow:
        pattern = draw(st.sampled_from(sorted(PATTERNS)))
        name, controlled = f"f{next(counter)}", a_retry(seen)
        seen = [*seen, controlled.name] if controlled else list(seen)
        items: list[ref.Flow | ref.Task] = []
        for _ in range(draw(st.integers(2 if troubled else 0 if depth else 1, 5))):
            if left <= 0:
                break
            # In a graph flow what is needed is linked, so that it may come from any earlier item.
            visible = seen if pattern == "unordered" else [*seen, *_names(items)]
            nested = depth < 3 and draw(st.integers(0, 2)) == 0
            items.append(a_flow(depth + 1, visible) if nested else a_task(visible))
        links = []
        if pattern == "graph" and len(items) > 1:
            for at, target in enumerate(items[1:], 1):
                for source in items[:at]:
                    if draw(st.integers(0, 2)) == 0:
                        links.append(a_link(source.name, target))
        return ref.Flow(name, pattern, tuple(items), controlled, tuple(links))

    made: ref.Flow = a_flow(0, [])
    return made


def _names(items: list[ref.Flow | ref.Task]) -> list[str]:
    found: list[str] = []
    for item in items:
        if isinstance(item, ref.Task):
            found.append(item.name)
        else:
            found += _names(list(item.items))
    return found


Log = Callable[..., None]


class ScriptedTask(task.Task):
    """Does what its script says for the attempt in its idempotency key."""

    def __init__(self, script: ref.Task, log: Log) -> None:
        super().__init__(name=script.name, provides=script.name)
        self.script, self.log = script, log
        needs = tuple((name, name, False) for name in script.needs)
        self.execute_inputs = needs + tuple((name, name, True) for name in script.wants)

    def _attempt(self) -> int:
        return int(self.idempotency_key.split("/")[2])

    def execute(self, **arguments: Any) -> str:
        attempt = self._attempt()
        self.log("finish", self.name, arguments=arguments)
        if ref.scripted(self.script.fails, attempt):
            raise ValueError(f"{ref.value_of(self.name, attempt)} failed")
        return ref.value_of(self.name, attempt)

    def revert(self, **_arguments: Any) -> None:
        self.log("finish_revert", self.name)
        if ref.scripted(self.script.revert_fails, self._attempt()):
            raise ValueError(f"{self.name} cannot be undone")


class ScriptedRetry(retry.Retry):
    """Decides what its script says for its history."""

    def __init__(self, script: ref.Retry) -> None:
        super().__init__(name=script.name, provides=script.name)
        self.script = script

    def execute(self, history: retry.History, **_: Any) -> str:
        if len(history) < len(self.script.fails) and self.script.fails[len(history)]:
            raise ValueError(f"{self.name} cannot execute")
        return ref.value_of(self.name, len(history) + 1)

    def revert(self, history: retry.History, **_: Any) -> None:
        if self.script.revert_fails:
            raise ValueError(f"{self.name} cannot be undone")

    def on_failure(self, history: retry.History, **_: Any) -> Any:
        answer = ref.scripted_answer(self.script, [(value, texts(failures)) for value, failures in history])
        if answer == "raise":
            raise ValueError(f"{self.name} cannot decide")
        return retry.Decision[answer] if answer in retry.Decision.__members__ else answer


def text_of(failure: Failure) -> str:
    """A failure as the reference writes it."""
    return f"{failure.exc_type_names[0]}: {failure.exception_str}"


def texts(failures: dict[str, Failure]) -> dict[str, str]:
    """The failures of an attempt as the reference writes them."""
    return {name: text_of(failure) for name, failure in failures.items()}


def _made(script: ref.Retry, log: Log) -> retry.Retry:
    """The retry, with methods that log that they are called."""
    made: retry.Retry
    named = {"name": script.name, "provides": script.name}
    if script.kind == "script":
        made = ScriptedRetry(script)
    elif script.kind == "Times":
        made = retry.Times(script.attempts, revert_all=script.revert_all, **named)
    elif script.kind == "ForEach":
        made = retry.ForEach(list(script.values), revert_all=script.revert_all, **named)
    elif script.kind == "ParameterizedForEach":
        values = script.needs[0] if script.needs else f"values of {script.name}"
        made = retry.ParameterizedForEach(rebind={"values": values}, revert_all=script.revert_all, **named)
    else:
        made = KINDS[script.kind](**named)
    execute, revert, on_failure = made.execute, made.revert, made.on_failure

    def logged_execute(**arguments: Any) -> Any:
        log("execute", made.name)
        return execute(**arguments)

    def logged_revert(**arguments: Any) -> Any:
        log("revert", made.name)
        return revert(**arguments)

    def logged_on_failure(history: retry.History, **arguments: Any) -> Any:
        log("on_failure", made.name, failures=texts(history[-1][1]))
        return on_failure(history=history, **arguments)

    made.execute, made.revert, made.on_failure = logged_execute, logged_revert, logged_on_failure  # type: ignore
    return made


def store_of(script: ref.Flow) -> dict[str, list[Any]]:
    """The values that retries of the flow take from the store."""
    retries = [each for each in ref.Tree(script).atoms.values() if isinstance(each, ref.Retry)]
    return {f"values of {each.name}": list(each.values) for each in retries if each.kind == "ParameterizedForEach"}


def build(script: ref.Flow, log: Log) -> Flow:
    """The same flow of the package's own parts."""
    controlled = _made(script.retry, log) if script.retry else None
    flow = PATTERNS[script.pattern](script.name, controlled)
    made = {
        item.name: build(item, log) if isinstance(item, ref.Flow) else ScriptedTask(item, log) for item in script.items
    }
    flow.add(*made.values())
    for link in script.links:
        assert isinstance(flow, graph_flow.Flow)
        if link.answers:
            flow.link(made[link.source], made[link.target], _decider(link, log), link.depth)
        else:
            flow.link(made[link.source], made[link.target])
    return flow


def _decider(link: ref.Link, log: Log) -> Callable[..., bool]:
    def decide(history: dict[str, Any]) -> bool:
        log("decide", link.source, link.target)
        attempt = int(history[link.source].split("#")[1]) if link.source in history else 1
        answer = link.answers[min(attempt, len(link.answers)) - 1]
        if answer == "raise":
            raise LookupError(f"{link.source}->{link.target} cannot decide")
        return bool(answer)

    return decide
