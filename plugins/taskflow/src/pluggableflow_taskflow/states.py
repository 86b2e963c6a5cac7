# SPDX-License-Identifier: Apache-2.0
"""``taskflow.states``: the names, and the transitions that TaskFlow promises."""

from __future__ import annotations

from collections.abc import Mapping

from pluggableflow.exceptions import InvalidState
from pluggableflow.states import EXECUTE as EXECUTE
from pluggableflow.states import FAILURE as FAILURE
from pluggableflow.states import IGNORE as IGNORE
from pluggableflow.states import INTENTIONS as INTENTIONS
from pluggableflow.states import PENDING as PENDING
from pluggableflow.states import RESUMING as RESUMING
from pluggableflow.states import RETRY as RETRY
from pluggableflow.states import RETRYING as RETRYING
from pluggableflow.states import REVERT as REVERT
from pluggableflow.states import REVERT_FAILURE as REVERT_FAILURE
from pluggableflow.states import REVERTED as REVERTED
from pluggableflow.states import REVERTING as REVERTING
from pluggableflow.states import RUNNING as RUNNING
from pluggableflow.states import SUCCESS as SUCCESS
from pluggableflow.states import SUSPENDED as SUSPENDED
from pluggableflow.states import SUSPENDING as SUSPENDING

CLAIMED, COMPLETE, UNCLAIMED = "CLAIMED", "COMPLETE", "UNCLAIMED"
RESTARTING = "RESTARTING"
ANALYZING, GAME_OVER, SCHEDULING, UNDEFINED, WAITING = "ANALYZING", "GAME_OVER", "SCHEDULING", "UNDEFINED", "WAITING"

_Pairs = frozenset[tuple[str, str]]


def _pairs(table: Mapping[str, str]) -> _Pairs:
    """Pairs of an old state and a new one, from old states and the new ones that may follow."""
    return frozenset((old, new) for old, after in table.items() for new in after.split())


_ALLOWED_JOB_TRANSITIONS = _pairs({UNCLAIMED: "CLAIMED", CLAIMED: "UNCLAIMED COMPLETE"})
_ALLOWED_FLOW_TRANSITIONS = _pairs(
    {
        PENDING: "RUNNING",
        RUNNING: "SUCCESS FAILURE REVERTED SUSPENDING RESUMING",
        SUCCESS: "RUNNING PENDING",
        FAILURE: "RUNNING",
        REVERTED: "PENDING",
        SUSPENDING: "SUSPENDED SUCCESS FAILURE REVERTED RESUMING",
        SUSPENDED: "RUNNING",
        RESUMING: "SUSPENDED",
    }
)
_IGNORED_FLOW_TRANSITIONS = _pairs(
    {
        PENDING: "SUSPENDING SUSPENDED RESUMING",
        FAILURE: "SUSPENDING SUSPENDED RESUMING",
        SUCCESS: "SUSPENDING SUSPENDED RESUMING",
        SUSPENDED: "SUSPENDING RESUMING",
        REVERTED: "SUSPENDING SUSPENDED RESUMING",
    }
)
_ALLOWED_TASK_TRANSITIONS = _pairs(
    {
        PENDING: "RUNNING IGNORE",
        RUNNING: "SUCCESS FAILURE",
        FAILURE: "REVERTING",
        SUCCESS: "REVERTING",
        REVERTING: "REVERTED REVERT_FAILURE",
        REVERTED: "PENDING",
        IGNORE: "PENDING",
    }
)
_ALLOWED_RETRY_TRANSITIONS = _ALLOWED_TASK_TRANSITIONS | _pairs({SUCCESS: "RETRYING", RETRYING: "RUNNING"})


def _check(kind: str, old_state: str, new_state: str, allowed: _Pairs, ignored: _Pairs = frozenset()) -> bool:
    if (old_state, new_state) in allowed:
        return True
    if old_state == new_state or (old_state, new_state) in ignored:
        return False
    raise InvalidState(f"{kind} transition from {old_state!r} to {new_state!r} is not allowed")


def check_job_transition(old_state: str, new_state: str) -> bool:
    """Whether a job goes from one state to another; ``False`` if they are the same.

    :raises InvalidState: it never may
    """
    return _check("Job", old_state, new_state, _ALLOWED_JOB_TRANSITIONS)


def check_flow_transition(old_state: str, new_state: str) -> bool:
    """Whether a flow goes from one state to another; ``False`` if that is to be ignored.

    :raises InvalidState: it never may
    """
    return _check("Flow", old_state, new_state, _ALLOWED_FLOW_TRANSITIONS, _IGNORED_FLOW_TRANSITIONS)


def check_task_transition(old_state: str, new_state: str) -> bool:
    """Whether a task may go from one state to another."""
    return (old_state, new_state) in _ALLOWED_TASK_TRANSITIONS


def check_retry_transition(old_state: str, new_state: str) -> bool:
    """Whether a retry may go from one state to another."""
    return (old_state, new_state) in _ALLOWED_RETRY_TRANSITIONS
