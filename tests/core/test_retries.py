# SPDX-License-Identifier: Apache-2.0
"""How often retries try, with what, and how long they wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pluggableflow import api, retry, states, task
from pluggableflow.exceptions import DefinitionError, NotFound
from pluggableflow.failure import Failure
from pluggableflow.patterns import linear_flow
from pluggableflow.retry import RETRY, REVERT, REVERT_ALL, History


class Picky(task.Task):
    """Fails until it is given what it wants; notes what it was given."""

    def __init__(self, tried: list[Any], wanted: Callable[[Any], bool], **declared: Any) -> None:
        super().__init__(**declared)
        self.tried, self.wanted = tried, wanted

    def execute(self, value: Any) -> Any:
        self.tried.append(value)
        if not self.wanted(value):
            raise ValueError(f"not {value!r}")
        return value


def tried_by(controller: retry.Retry, wanted: Callable[[Any], bool], connection: Any = None, **store: Any) -> list[Any]:
    """What was tried, the last of it with success."""
    tried: list[Any] = []
    api.run(connection, linear_flow.Flow("flow", controller).add(Picky(tried, wanted)), store=store)
    return tried


def all_tried_by(controller: retry.Retry, connection: Any = None, **store: Any) -> list[Any]:
    """What was tried before the flow failed for good."""
    tried: list[Any] = []
    flow = linear_flow.Flow("flow", controller).add(Picky(tried, lambda value: False))
    with pytest.raises(ValueError, match="not "):
        api.run(connection, flow, store=store)
    return tried


def failure(exception: Exception) -> Failure:
    return Failure.from_exception(exception)


def after(attempts: int) -> History:
    return History([(None, {})] * attempts)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_times_allows_so_many_attempts_in_all_and_counts_them_from_one(attempts: int) -> None:
    assert all_tried_by(retry.Times(attempts, provides="value")) == list(range(1, attempts + 1))


def test_times_stops_with_the_first_success() -> None:
    assert tried_by(retry.Times(5, provides="value"), lambda value: value == 3) == [1, 2, 3]


def test_times_allows_one_attempt_if_nothing_is_said() -> None:
    assert all_tried_by(retry.Times(provides="value")) == [1]


@pytest.mark.parametrize("attempts", [0, -1, 1.5, "3", None, True, False])
def test_times_refuses_what_is_no_positive_integer_and_the_error_names_the_retry(attempts: Any) -> None:
    with pytest.raises(DefinitionError, match=f"'stubborn'.*attempts.*not {attempts!r}"):
        retry.Times(attempts, name="stubborn")


@pytest.mark.parametrize(("revert_all", "expected"), [(False, REVERT), (True, REVERT_ALL)])
def test_bounded_retries_end_with_revert_or_with_revert_all(revert_all: bool, expected: retry.Decision) -> None:
    times = retry.Times(2, revert_all=revert_all)
    assert [times.on_failure(after(1)), times.on_failure(after(2))] == [RETRY, expected]
    for_each = retry.ForEach(["a", "b"], revert_all=revert_all)
    assert for_each.on_failure(History([("a", {})])) is RETRY
    assert for_each.on_failure(History([("a", {}), ("b", {})])) is expected
    parameterized = retry.ParameterizedForEach(revert_all=revert_all)
    assert parameterized.on_failure(History([("a", {})]), ["a", "b"]) is RETRY
    assert parameterized.on_failure(History([("a", {})]), ["a"]) is expected


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b", "c"],
        ["a", "a", "b", "a"],
        [[1], {"k": [2]}, [1], []],
        [None, None, 0, False],
        [],
    ],
)
@pytest.mark.parametrize("connection", [None, "memory://"])
def test_for_each_tries_every_value_in_order_and_a_repeated_one_so_often(values: list[Any], connection: Any) -> None:
    if values:
        assert all_tried_by(retry.ForEach(values, provides="value"), connection) == values
        bound = retry.ParameterizedForEach(provides="value", rebind={"values": "many"})
        assert all_tried_by(bound, connection, many=values) == values
    else:
        with pytest.raises(NotFound, match="No elements left for retry 'empty'"):
            api.run(connection, linear_flow.Flow("flow", retry.ForEach(values, name="empty", provides="value")))


@pytest.mark.parametrize("connection", [None, "memory://"])
def test_for_each_ends_even_if_a_value_does_not_equal_itself(connection: Any) -> None:
    values = [float("nan"), 1.0]
    tried = all_tried_by(retry.ForEach(values, provides="value"), connection)
    assert [repr(value) for value in tried] == ["nan", "1.0"]


def test_a_value_that_came_back_from_the_store_unequal_counts_as_tried() -> None:
    for_each = retry.ForEach([float("nan"), "b"])
    came_back = History([(float("nan"), {})])
    assert for_each.execute(came_back) == "b"
    assert for_each.on_failure(came_back) is RETRY
    assert for_each.on_failure(History([(float("nan"), {}), ("b", {})])) is REVERT


def test_for_each_goes_on_with_what_is_left_whatever_the_order_of_the_values() -> None:
    assert retry.ForEach(["c", "a", "b"]).execute(History([("a", {}), ("b", {})])) == "c"


def test_for_each_stops_with_the_first_value_that_works() -> None:
    assert tried_by(retry.ForEach("abc", provides="value"), lambda value: value == "b") == ["a", "b"]


def test_for_each_takes_its_values_from_an_iterator_once() -> None:
    assert all_tried_by(retry.ForEach(iter("ab"), provides="value")) == ["a", "b"]


def test_parameterized_for_each_takes_its_values_from_the_flow() -> None:
    controller = retry.ParameterizedForEach(provides="value", rebind=["hosts"])
    assert controller.requires == {"hosts"}
    assert tried_by(controller, lambda value: value == "y", hosts=["x", "y", "z"]) == ["x", "y"]


@pytest.mark.parametrize("kind", [retry.AlwaysRevert, retry.AlwaysRevertAll])
def test_retries_that_always_revert_try_once(kind: type[retry.Retry]) -> None:
    assert all_tried_by(kind(), value="v") == ["v"]
    assert kind().name == kind.__qualname__


def test_revert_all_undoes_what_lies_around_and_revert_leaves_it_to_the_retry_around() -> None:
    tries = []
    for inner in (retry.AlwaysRevert("inner"), retry.AlwaysRevertAll("inner")):
        tried: list[Any] = []
        flow = linear_flow.Flow("outer", retry.Times(3, "outer retry", provides="value")).add(
            linear_flow.Flow("inner flow", inner).add(Picky(tried, lambda value: False))
        )
        with pytest.raises(ValueError, match="not "):
            api.run(None, flow)
        tries.append(tried)
    assert tries == [[1, 2, 3], [1]]


def test_a_retry_of_ones_own_is_given_its_inputs_and_the_history() -> None:
    seen: list[Any] = []

    class Own(retry.Retry):
        def execute(self, history: History, base: int) -> int:
            return base + len(history)

        def on_failure(self, history: History, base: int, limit: int) -> retry.Decision:
            seen.append((base, list(history.provided_iter()), [name for name, _ in history.outcomes_iter(-1)]))
            return RETRY if len(history) < limit else REVERT

        def revert(self, history: History, flow_failures: dict[str, Failure]) -> None:
            seen.append((len(history), sorted(flow_failures)))

    assert all_tried_by(Own(provides="value", rebind={"base": "b"}), b=10, limit=2) == [10, 11]
    assert seen == [(10, [10], ["Picky"]), (10, [10, 11], ["Picky"]), (2, ["Picky"])]


def test_a_retry_without_methods_says_so() -> None:
    with pytest.raises(DefinitionError, match="Retry has no on_failure"):
        retry.Retry().on_failure(after(1))
    with pytest.raises(DefinitionError, match="Retry has no execute"):
        api.run(None, linear_flow.Flow("flow", retry.Retry()))


@pytest.mark.parametrize(
    ("delay", "waits"),
    [
        ({}, [0, 0, 0, 0]),
        ({"factor": 3}, [0, 0, 0, 0]),
        ({"delay_seconds": 2}, [2, 2, 2, 2]),
        ({"delay_seconds": 2, "factor": 3}, [2, 6, 18, 54]),
        ({"delay_seconds": 8, "factor": 0.5}, [8, 4, 2, 1]),
        ({"delay_seconds": 2, "factor": 3, "maximum_seconds": 10}, [2, 6, 10, 10]),
        ({"delay_seconds": 2, "maximum_seconds": 0}, [0, 0, 0, 0]),
    ],
)
def test_each_wait_is_a_multiple_of_the_one_before_up_to_the_longest(delay: Any, waits: list[float]) -> None:
    controller = retry.Times(9, **delay)
    assert [controller.delay_seconds(after(attempts)) for attempts in (1, 2, 3, 4)] == waits


def test_jitter_shortens_a_wait_by_no_more_than_its_part() -> None:
    controller = retry.Times(9, delay_seconds=10, factor=2, maximum_seconds=15, jitter=0.25)
    first = [controller.delay_seconds(after(1)) for _ in range(500)]
    second = [controller.delay_seconds(after(2)) for _ in range(500)]
    assert 7.5 <= min(first) < max(first) <= 10
    assert 11.25 <= min(second) < max(second) <= 15


def test_full_jitter_reaches_from_nothing_to_the_whole_wait() -> None:
    controller = retry.Times(9, delay_seconds=10, jitter=1)
    waits = [controller.delay_seconds(after(1)) for _ in range(500)]
    assert 0 <= min(waits) < 2
    assert 8 < max(waits) <= 10


@pytest.mark.parametrize("factor", [10, 10.0])
def test_waits_that_outgrow_every_number_stay_finite(factor: float) -> None:
    assert retry.Times(9, delay_seconds=0.5, factor=factor).delay_seconds(after(2000)) == 1e9
    assert retry.Times(9, delay_seconds=1, factor=factor, maximum_seconds=1e300).delay_seconds(after(200)) == 1e9
    assert retry.Times(9, delay_seconds=0.5, factor=factor, maximum_seconds=60).delay_seconds(after(2000)) == 60


@pytest.mark.parametrize("argument", ["delay_seconds", "factor", "jitter", "maximum_seconds"])
@pytest.mark.parametrize(
    "value", [-1, float("nan"), float("inf"), float("-inf"), "1", [], True, 10**400], ids=lambda value: repr(value)[:9]
)
def test_impossible_delays_are_refused_and_the_error_names_retry_and_argument(argument: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=f"'patient'.*{argument}"):
        retry.Times(2, name="patient", **{argument: value})


@pytest.mark.parametrize("delay", [{"factor": 0}, {"jitter": 1.01}, {"delay_seconds": None}, {"factor": None}])
def test_further_impossible_delays_are_refused(delay: Any) -> None:
    with pytest.raises(DefinitionError, match="'patient'"):
        retry.ForEach([1], name="patient", **delay)


def test_a_delay_passes_before_the_next_attempt() -> None:
    assert tried_by(
        retry.Times(3, provides="value", delay_seconds=0.01, jitter=0.5, maximum_seconds=0.02), lambda value: value == 3
    ) == [1, 2, 3]


def test_what_execute_does_not_take_is_refused_with_the_name_of_the_retry() -> None:
    class Strict(retry.Retry):
        def execute(self, history: History, a: int) -> None: ...

        def on_failure(self, history: History, a: int) -> retry.Decision:
            return REVERT

    with pytest.raises(DefinitionError, match="execute does not take 'c'.*Strict 'strict'"):
        Strict("strict", requires="c")


def test_a_history_knows_its_attempts_and_what_failed_in_them() -> None:
    lookup, value, own = failure(KeyError("k")), failure(ValueError("v")), failure(OSError("o"))
    contents = [(1, {"a": lookup}), (2, {"a": value, "b": lookup}), (3, {})]
    history = History(iter(contents), own)
    assert len(history) == 3
    assert list(history) == contents
    assert (history[0], history[-1]) == (contents[0], contents[2])
    assert list(history.provided_iter()) == [1, 2, 3]
    assert list(history.outcomes_iter()) == [("a", lookup), ("a", value), ("b", lookup)]
    assert list(history.outcomes_iter(0)) == [("a", lookup)]
    assert list(history.outcomes_iter(-1)) == []
    assert history.failure is own
    with pytest.raises(IndexError):
        history[3]


def test_a_history_tells_whether_something_was_caused_by_a_type() -> None:
    history = History([(1, {"a": failure(KeyError("k"))}), (2, {"a": failure(ValueError("v"))})], failure(OSError()))
    assert history.caused_by(KeyError) is True
    assert history.caused_by(LookupError) is True
    assert history.caused_by("KeyError") is True
    assert history.caused_by(KeyError, index=1) is False
    assert history.caused_by(ValueError, index=1) is True
    assert history.caused_by(OSError) is False
    assert history.caused_by(OSError, include_retry=True) is True
    assert history.caused_by(TypeError, include_retry=True) is False


def test_an_empty_history_has_no_cause() -> None:
    history = History([])
    assert (len(history), list(history), history.failure) == (0, [], None)
    assert history.caused_by(Exception, include_retry=True) is False


def test_listeners_hear_what_an_attempt_provided_though_its_scope_is_put_back_in_the_same_wake_up() -> None:
    class Never(retry.Times):
        def execute(self, history: History, **kwargs: Any) -> int:
            raise ValueError("no attempt")

    inner = linear_flow.Flow("inner", Never(1, "never"))
    middle = linear_flow.Flow("middle", retry.Times(2, "middle")).add(inner)
    engine = api.load(None, linear_flow.Flow("outer", retry.Times(2, "outer")).add(middle))
    heard: list[tuple[str, Any]] = []

    def hear(_state: str, details: Any) -> None:
        heard.append((details["retry_name"], details["result"]))

    engine.atom_notifier.register(states.SUCCESS, hear)
    with pytest.raises(ValueError, match="no attempt"):
        engine.run()
    assert heard == [("outer", 1), ("middle", 1), ("middle", 2), ("outer", 2), ("middle", 1), ("middle", 2)]
