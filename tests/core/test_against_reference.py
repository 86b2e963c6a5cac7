# SPDX-License-Identifier: Apache-2.0
"""Random flows, run by the engines and followed event by event in a slow reference, also over crashes.

An engine's loop tells what happens in its order by what it commits, by asking decision code and by handing tasks out,
whatever its executor does meanwhile. So what the parallel engine does is followed like what the serial one does: as
every event must be one that the reference allows next, and nothing may be left in the end, order of execution, order
of undoing and outcome are right for the schedule that happened to come about.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import reference as ref
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from reference_flow import Flow, Link, Retry, Task
from strategies import build, flows, store_of, text_of, texts

from pluggableflow import api, owner, states
from pluggableflow.connection import Changes, Lease
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.exceptions import InvalidState, WrappedFailure
from pluggableflow.executor import Executor, Outcome, Work, carry_out
from pluggableflow.executors.threads import ThreadsExecutor
from pluggableflow.failure import Failure

CASES = 10_000 if os.environ.get("PLUGGABLEFLOW_LONG") else 200
PROFILE = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
FINISHED = tuple(states.FINISHED)


class Crash(BaseException):
    """The process dies."""


class Followed(MemoryConnection):
    """A store that lets the reference follow what each commit holds, and dies around a commit of a given number.

    :ivar asked: what decision code was asked since the last commit, in the engine's thread
    :ivar carried_out: tasks that ran, in whatever thread, and whose end was not committed yet
    :ivar expected: the arguments of tasks that were handed out
    :ivar faults: what was wrong where nothing could be raised
    """

    def __init__(self, reference: ref.Reference) -> None:
        super().__init__()
        self.reference = reference
        self.number, self.crash_at, self.before = 0, 0, False
        self.committed: Callable[[], None] = lambda: None
        self.cancel_at, self.cancel = 0, lambda: None
        self.faults: list[str] = []
        self.forget()

    def forget(self) -> None:
        """What a process does not leave to the next one."""
        self.asked: list[tuple[ref.Event, dict[str, str] | None]] = []
        self.carried_out: list[ref.Event] = []
        self.expected: dict[str, dict[str, Any]] = {}

    def log(self, *happened: str, arguments: dict[str, Any] | None = None, failures: Any = None) -> None:
        """Atoms and deciders say here that they are called."""
        if happened[0] not in ("finish", "finish_revert"):
            self.asked.append((happened, failures))
            return
        self.carried_out.append(happened)
        if arguments is not None:
            expected = self.expected[happened[1]]
            if {name: arguments.get(name) for name in expected} != expected:
                self.faults.append(f"{happened} with {arguments} instead of {expected}")

    def handed_out(self, state: str, details: dict[str, Any]) -> None:
        """The engine says that it is about to hand out a task.

        Of the start of an interrupted one no commit tells; nor need there be a commit after a decider has said yes.
        """
        name = details.get("task_name")
        if name is None:
            return
        finish = "finish" if state == states.RUNNING else "finish_revert"
        if self.reference.state[name] != state or (finish, name) in self.carried_out:
            self.faults.append(f"{name} is handed out, but it is {self.reference.state[name]}")
        try:
            self._follow_asked()
            if name in self.reference.interrupted:
                self.let(("start" if state == states.RUNNING else "start_revert", name))
        except AssertionError as error:  # the notifier would keep it for itself
            self.faults.append(str(error))
        self.expected[name] = self.reference.arguments(name)

    def commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        self.number += 1
        if self.number == self.crash_at and self.before:
            raise Crash
        revision = super().commit(lease, revision, changes)
        changed = [*(str(record["uuid"]) for record in changes.added), *changes.changed]
        self.follow(changed, "request_handled" in changes.flow)
        if self.number == self.cancel_at:
            self._ask()
        if self.number == self.crash_at:
            raise Crash
        self.committed()
        return revision

    def _ask(self) -> None:
        """Somebody has the flow reverted and cancelled, if it has not ended."""
        with contextlib.suppress(InvalidState):
            self.cancel()
            self.reference.asked = f"{owner.identity()} asked for it"

    def follow(self, changed: list[str], cancelled: bool) -> None:
        """Let happen what led to a commit: the ends of tasks, then the answers to questions, then starts."""
        tree, known = self.reference.tree, self.reference.state
        stored = {detail.name: detail.state for detail in map(self.get_atom_details, changed)}
        tasks = {name: state for name, state in stored.items() if isinstance(tree.atoms.get(name), Task)}
        for name, state in tasks.items():
            if name in self.reference.interrupted:
                continue
            if known[name] in (states.RUNNING, states.REVERTING) and known[name] != state:
                finish = ("finish" if known[name] == states.RUNNING else "finish_revert", name)
                if self.reference.asked and finish not in self.carried_out:
                    self.let(("withdraw", name))
                    continue
                assert self.carried_out.count(finish) == 1, f"{finish} {self.carried_out.count(finish)} times"
                self.carried_out.remove(finish)
                self.let(finish)
        if cancelled:
            self.let(("cancel", self.reference.asked))
        self._follow_asked()
        for name, state in tasks.items():
            if state in (states.RUNNING, states.REVERTING) and known[name] != state:
                self.let(("start" if state == states.RUNNING else "start_revert", name))
        assert not self.faults, self.faults

    def _follow_asked(self) -> None:
        for happened, failures in self.asked:
            self.let(happened if failures is None else self._question(happened[1], failures))
        self.asked.clear()

    def _question(self, retry: str, failures: dict[str, str]) -> ref.Event:
        """The question that made these the failures of the latest attempt."""
        before = self.reference.history[retry][-1][1]
        for happened in self.reference.enabled():
            if happened[:2] == ("on_failure", retry) and {**before, happened[2]: happened[3]} == failures:
                return happened
        raise AssertionError(f"{retry} was asked about {failures}, but only {self.reference.enabled()} could happen")

    def let(self, happened: ref.Event) -> None:
        enabled = self.reference.enabled()
        assert happened in enabled, f"{happened} happened, but only {enabled} could; {self.reference.state}"
        self.reference.do(happened)


class Shuffling(Executor):
    """Carries out what it was given in a random order, at least one piece of work between any two commits.

    It has no thread: work is done when the next piece comes, or with a commit.
    """

    def __init__(self, max_workers: int, order: random.Random) -> None:
        self.max_workers, self._order = max_workers, order

    def start(self, done: Callable[[Outcome], None]) -> None:
        self._done, self._must = done, True
        self._waiting: list[Work] = []

    def submit(self, work: Work) -> None:
        self._waiting.append(work)
        self._work()

    def committed(self) -> None:
        self._must = True
        self._work()

    def _work(self) -> None:
        while self._waiting and (self._must or self._order.random() < 0.25):
            self._must = False
            self._done(carry_out(self._waiting.pop(self._order.randrange(len(self._waiting)))))

    def stop(self) -> None:
        self._waiting.clear()


def run(
    script: Flow, options: dict[str, Any], crashes: Sequence[tuple[int, bool]] = (), cancel_at: int = 0, **engine: Any
) -> None:
    """Run a flow to its end, over crashes, each so many commits after the one before.

    :param cancel_at: number of the commit after which it is cancelled; 0 for none
    """
    connection = Followed(ref.Reference(script, **options))
    connection.cancel_at = cancel_at
    if isinstance(engine.get("executor"), Shuffling):
        connection.committed = engine["executor"].committed
    detail = api.create_flow_detail(build(script, connection.log), connection=connection)
    for distance, before in [*crashes, (0, False)]:
        connection.crash_at, connection.before = connection.number + distance if distance else 0, before
        stored = connection.get_flow_details(detail.uuid)
        if stored.state in FINISHED:
            break
        if run_once(connection, detail.uuid, script, options, engine):
            break
    check(connection, detail.uuid)


def run_once(
    connection: Followed, flow_uuid: str, script: Flow, options: dict[str, Any], engine: dict[str, Any]
) -> bool:
    """What one process does; returns whether it came to the end."""
    stored = connection.get_flow_details(flow_uuid)
    loaded = api.load(
        connection, build(script, connection.log), stored, store=store_of(script), **{**options, **engine}
    )
    connection.cancel = lambda: loaded.cancel(revert=True)
    loaded.atom_notifier.register(states.RUNNING, connection.handed_out)
    loaded.atom_notifier.register(states.REVERTING, connection.handed_out)
    raised: Exception | None = None
    try:
        loaded.run()
    except Crash:
        event("crashed")
        connection.reference.crash()
        connection.forget()
        return False
    except AssertionError:
        raise
    except Exception as error:
        raised = error
    failures = failures_in(raised)
    assert failures == connection.reference.raised(), repr(raised)
    if stored.state == states.PENDING and len(failures) == 1:
        assert not isinstance(raised, WrappedFailure), "the one exception is there, it need not be wrapped"
    return True


def failures_in(raised: Exception | None) -> list[str]:
    """Types and texts of what a run raised, as the reference writes them."""
    if raised is None:
        return []
    failures = raised if isinstance(raised, WrappedFailure) else [Failure.from_exception(raised)]
    return sorted(map(text_of, failures))


def check(connection: Followed, flow_uuid: str) -> None:
    """Compare what is stored with where the reference has come to."""
    reference = connection.reference
    assert not connection.faults, connection.faults
    assert not reference.enabled(), f"nothing more happened, but {reference.enabled()} could"
    stored = connection.get_flow_details(flow_uuid)
    assert stored.state == reference.final_state
    event(stored.state)
    atoms = {atom.name: atom for atom in stored}
    for name, state in reference.state.items():
        atom = atoms.get(name)
        assert (atom.state if atom else states.PENDING) == state, name
        if atom is None:
            continue
        assert atom.attempt == reference.attempt[name], name
        if name in reference.history:
            history = [(value, texts(failures)) for value, failures in atom.results]
            assert history == reference.history[name], name
        elif state == states.SUCCESS:
            assert atom.results == reference.result[name]
        for failure, expected in (
            (atom.failure, reference.failure),
            (atom.revert_failure, reference.revert_failure),
        ):
            assert (text_of(failure) if failure else None) == expected.get(name), name


options_ = st.fixed_dictionaries(
    {"defer_reverts": st.booleans(), "never_resolve": st.sampled_from([False] * 5 + [True])}
)
crashes_ = st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=4)
workers_, prefetch_ = st.integers(2, 4), st.integers(0, 4)


@pytest.mark.timeout(3600)
@PROFILE
@given(flows(), options_)
def test_every_event_of_the_engine_is_one_that_the_reference_allows(script: Flow, options: dict[str, bool]) -> None:
    run(script, options)


@pytest.mark.timeout(3600)
@PROFILE
@given(flows(), options_, crashes_)
def test_the_same_holds_over_crashes_and_resumptions(
    script: Flow, options: dict[str, bool], crashes: list[tuple[int, bool]]
) -> None:
    run(script, options, crashes)


@pytest.mark.timeout(3600)
@PROFILE
@given(flows(), options_, crashes_, workers_, prefetch_, st.integers(0, 2**32))
def test_the_same_holds_of_the_parallel_engine_in_whatever_order_tasks_end(
    script: Flow,
    options: dict[str, bool],
    crashes: list[tuple[int, bool]],
    max_workers: int,
    prefetch: int,
    seed: int,
) -> None:
    executor = Shuffling(max_workers, random.Random(seed))
    run(script, options, crashes, engine="parallel", executor=executor, prefetch=prefetch)


@pytest.mark.timeout(3600)
@PROFILE
@given(flows(), options_, crashes_, workers_, prefetch_)
def test_the_same_holds_of_the_parallel_engine_with_threads(
    script: Flow, options: dict[str, bool], crashes: list[tuple[int, bool]], max_workers: int, prefetch: int
) -> None:
    executor = ThreadsExecutor(max_workers)
    run(script, options, crashes, engine="parallel", executor=executor, prefetch=prefetch)


@pytest.mark.timeout(3600)
@PROFILE
@given(flows(), options_, crashes_, workers_, prefetch_, st.integers(0, 2**32), st.integers(1, 8))
def test_the_same_holds_of_a_flow_that_is_cancelled(
    script: Flow,
    options: dict[str, bool],
    crashes: list[tuple[int, bool]],
    max_workers: int,
    prefetch: int,
    seed: int,
    cancel_at: int,
) -> None:
    executor = Shuffling(max_workers, random.Random(seed))
    run(script, options, crashes, cancel_at, engine="parallel", executor=executor, prefetch=prefetch)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_a_retry_that_was_about_to_try_again_can_be_undone_by_the_one_around_it(seed: int) -> None:
    again = (("RETRY",),)
    inner = Flow("inner", "linear", (Task("fails", (True,)),), Retry("of inner", decisions=again))
    script = Flow("outer", "unordered", (Task("a"), Task("b", (True,)), inner), Retry("of outer", decisions=again))
    executor = Shuffling(2, random.Random(seed))
    run(script, {"defer_reverts": False, "never_resolve": False}, engine="parallel", executor=executor, prefetch=3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_a_flow_without_atoms_that_is_ignored_is_passed_after_a_crash(seed: int) -> None:
    behind = Flow("behind", "graph", (), Retry("of behind"))
    items = (Task("no"), Flow("yes", "linear", (Task("inside"),)), Task("ignored"), Flow("empty", "graph"), behind)
    links = (
        Link("no", "ignored", (False,), None),
        Link("ignored", "empty", (), None),
        Link("yes", "behind", (True,), None),
    )
    script = Flow("outer", "graph", items, None, links)
    executor = Shuffling(2, random.Random(seed))
    options = {"defer_reverts": False, "never_resolve": False}
    run(script, options, [(1, False), (1, False)], engine="parallel", executor=executor, prefetch=0)
