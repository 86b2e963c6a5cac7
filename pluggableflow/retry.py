# SPDX-License-Identifier: Apache-2.0
"""Retries: what happens to a flow after an atom in it has failed."""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

from pluggableflow.atom import Atom, Input, Names, Rebind, check_name, idle, inputs_of, signature_of
from pluggableflow.exceptions import DefinitionError, NotFound
from pluggableflow.failure import Failure

_LONGEST_WAIT = 1e9


class Decision(str, enum.Enum):
    """What a retry decides about a failure."""

    #: Undo the flow of this retry, unless a retry around it knows better.
    REVERT = "REVERT"
    #: Undo everything, whatever the retries around think.
    REVERT_ALL = "REVERT_ALL"
    #: Undo the flow of this retry and run it again.
    RETRY = "RETRY"


REVERT, REVERT_ALL, RETRY = Decision.REVERT, Decision.REVERT_ALL, Decision.RETRY


class History:
    """The attempts of a retry, oldest first: what each provided, and which atoms failed in it.

    :ivar failure: the retry's own failure, or ``None``
    """

    def __init__(self, contents: Iterable[tuple[Any, dict[str, Failure]]], failure: Failure | None = None) -> None:
        self._contents = list(contents)
        self.failure = failure

    def __len__(self) -> int:
        return len(self._contents)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Failure]]]:
        return iter(self._contents)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Failure]]:
        return self._contents[index]

    def provided_iter(self) -> Iterator[Any]:
        """What the attempts provided."""
        for value, _failures in self._contents:
            yield value

    def outcomes_iter(self, index: int | None = None) -> Iterator[tuple[str, Failure]]:
        """Atom names and failures, of all attempts or of one."""
        for _value, failures in self._contents if index is None else [self._contents[index]]:
            yield from failures.items()

    def caused_by(self, kind: Any, index: int | None = None, include_retry: bool = False) -> bool:
        """Whether a failure of that type is among them."""
        if any(failure.check(kind) for _name, failure in self.outcomes_iter(index)):
            return True
        return bool(include_retry and self.failure is not None and self.failure.check(kind))


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


class Retry(Atom):
    """Controls a flow: runs before it, provides values to it, and decides when something in it has failed.

    Decision code may be asked again after a crash, so it may depend on nothing but its arguments.

    :param name: default: that of the flow it is given to, with ``_retry`` behind
    :param delay_seconds: wait before the second attempt
    :param factor: each further wait is so many times the one before
    :param jitter: part of the wait, from 0 to 1, by which it is shortened at random
    :param maximum_seconds: longest wait
    :param time_limit_seconds: how long its flow may take, with all attempts: after that, tasks in it fail with
        :class:`~pluggableflow.exceptions.TimedOut`, and no further attempt begins
    """

    _at_end = Decision.REVERT

    reserved_execute = frozenset({"history"})
    reserved_revert = frozenset({"history", "flow_failures"})

    def __init__(
        self,
        name: str | None = None,
        provides: Any = None,
        requires: Names = None,
        auto_extract: bool = True,
        rebind: Rebind = None,
        *,
        delay_seconds: float = 0,
        factor: float = 1,
        jitter: float = 0,
        maximum_seconds: float | None = None,
        time_limit_seconds: float | None = None,
    ) -> None:
        if time_limit_seconds is not None:
            self.time_limit_seconds = time_limit_seconds
        self._named = name is not None
        name = type(self).__qualname__ if name is None else name
        super().__init__(name, provides, requires, auto_extract, rebind)
        for argument, value, demand, most in (
            ("delay_seconds", delay_seconds, "of at least 0", math.inf),
            ("factor", factor, "of more than 0", math.inf),
            ("jitter", jitter, "from 0 to 1", 1),
            ("maximum_seconds", 0 if maximum_seconds is None else maximum_seconds, "of at least 0", math.inf),
        ):
            if not (_is_finite(value) and 0 <= value <= most and (value or argument != "factor")):
                raise DefinitionError(f"retry {name!r}: {argument} must be a finite number {demand}, not {value!r}")
        self._delay = (delay_seconds, factor, jitter, maximum_seconds)
        takes = signature_of(type(self).on_failure, True).all
        self._on_failure_inputs: tuple[Input, ...] = inputs_of(
            signature_of(type(self).on_failure, True),
            self.reserved_execute,
            auto_extract,
            (),
            {parameter: name for parameter, name in self.rebind.items() if parameter in takes},
            (),
            "on_failure",
        )

    def controls(self, flow_name: str) -> None:
        """Be given to a flow, which a retry without a name is called after."""
        if not self._named:
            self.name, self._named = check_name(f"{flow_name}_retry"), True

    @property
    def on_failure_inputs(self) -> tuple[Input, ...]:
        """Inputs of on_failure; those that execute takes too are bound alike."""
        return self._on_failure_inputs

    def execute(self, history: History, *args: Any, **kwargs: Any) -> Any:
        """Begin an attempt; what is returned is provided to the flow.

        :param history: of the attempts before
        """
        raise DefinitionError(f"{type(self).__qualname__} has no execute")

    @idle
    def revert(self, history: History, *args: Any, **kwargs: Any) -> Any:
        """Undo what execute did; called after the flow was undone for good."""

    def at_time_limit(self) -> Decision:
        """What ``RETRY`` turns into when time has run out: as when there are no more attempts."""
        return self._at_end

    def on_failure(self, history: History, *args: Any, **kwargs: Any) -> Decision:
        """Decide about a failure.

        :param history: of all attempts; the last one contains the failure
        :returns: ``RETRY``, ``REVERT`` or ``REVERT_ALL``; anything else, or an exception, counts as ``REVERT``
        """
        raise DefinitionError(f"{type(self).__qualname__} has no on_failure")

    def delay_seconds(self, history: History) -> float:
        """How long to wait before the attempt that follows ``history``."""
        delay, factor, jitter, maximum = self._delay
        if not delay:
            return 0
        try:
            wait = delay * factor ** max(0, len(history) - 1)
        except OverflowError:
            wait = float("inf")
        wait = min(wait, _LONGEST_WAIT if maximum is None else min(maximum, _LONGEST_WAIT))
        return wait * (1 - jitter * random.random())


class AlwaysRevert(Retry):
    """Undoes its flow."""

    def execute(self, *args: Any, **kwargs: Any) -> None:
        return None

    def on_failure(self, *args: Any, **kwargs: Any) -> Decision:
        return REVERT


class AlwaysRevertAll(Retry):
    """Undoes everything."""

    def execute(self, *args: Any, **kwargs: Any) -> None:
        return None

    def on_failure(self, *args: Any, **kwargs: Any) -> Decision:
        return REVERT_ALL


class _Bounded(Retry):
    """Ends with REVERT, or with REVERT_ALL if ``revert_all`` is set."""

    def __init__(
        self,
        name: str | None = None,
        provides: Any = None,
        requires: Names = None,
        auto_extract: bool = True,
        rebind: Rebind = None,
        revert_all: bool = False,
        **delay: Any,
    ) -> None:
        super().__init__(name, provides, requires, auto_extract, rebind, **delay)
        self._at_end = REVERT_ALL if revert_all else REVERT


class Times(_Bounded):
    """Runs its flow at most ``attempts`` times in all, and provides the number of the attempt, from 1."""

    def __init__(
        self,
        attempts: int = 1,
        name: str | None = None,
        provides: Any = None,
        requires: Names = None,
        auto_extract: bool = True,
        rebind: Rebind = None,
        revert_all: bool = False,
        **delay: Any,
    ) -> None:
        super().__init__(name, provides, requires, auto_extract, rebind, revert_all, **delay)
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise DefinitionError(f"retry {self.name!r}: attempts must be a positive integer, not {attempts!r}")
        self._attempts = attempts

    def execute(self, history: History, *args: Any, **kwargs: Any) -> int:
        return len(history) + 1

    def on_failure(self, history: History, *args: Any, **kwargs: Any) -> Decision:
        return RETRY if len(history) < self._attempts else self._at_end


class _ForEach(_Bounded):
    """Provides one value after the other; a value that stands several times is tried so often."""

    def _left(self, values: Iterable[Any], history: History) -> list[Any]:
        left = list(values)
        count = max(0, len(left) - len(history))
        for tried in history.provided_iter():
            if tried in left:
                left.remove(tried)
        return left[len(left) - count :]  # one that equals none of the values, such as NaN, counts as well

    def _next(self, values: Iterable[Any], history: History) -> Any:
        left = self._left(values, history)
        if not left:
            raise NotFound(f"No elements left for retry {self.name!r} to try")
        return left[0]

    def _decide(self, values: Iterable[Any], history: History) -> Decision:
        return RETRY if self._left(values, history) else self._at_end


class ForEach(_ForEach):
    """Runs its flow with one of ``values`` after the other, until one of them works."""

    def __init__(
        self,
        values: Iterable[Any],
        name: str | None = None,
        provides: Any = None,
        requires: Names = None,
        auto_extract: bool = True,
        rebind: Rebind = None,
        revert_all: bool = False,
        **delay: Any,
    ) -> None:
        super().__init__(name, provides, requires, auto_extract, rebind, revert_all, **delay)
        self._values = list(values)

    def execute(self, history: History, *args: Any, **kwargs: Any) -> Any:
        return self._next(self._values, history)

    def on_failure(self, history: History, *args: Any, **kwargs: Any) -> Decision:
        return self._decide(self._values, history)


class ParameterizedForEach(_ForEach):
    """Runs its flow with one value after the other of its input ``values``, until one of them works."""

    def execute(self, history: History, values: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        return self._next(values, history)

    def on_failure(self, history: History, values: Iterable[Any], *args: Any, **kwargs: Any) -> Decision:
        return self._decide(values, history)
