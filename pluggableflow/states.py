# SPDX-License-Identifier: Apache-2.0
"""The states and intentions of flows, tasks and retries, and the one table of legal transitions."""

from __future__ import annotations

from pluggableflow.exceptions import InvalidState

# States of atoms and flows.
PENDING = "PENDING"
RUNNING = "RUNNING"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVERTING = "REVERTING"
REVERTED = "REVERTED"
REVERT_FAILURE = "REVERT_FAILURE"
CANCELLED = "CANCELLED"  # flows only: it was stopped for good, reverted or not
IGNORE = "IGNORE"  # atoms only: a decider said no
RETRYING = "RETRYING"  # retries only: its scope has been undone, the next attempt is due or waited for
SUSPENDING = "SUSPENDING"  # flows only, as the next two
SUSPENDED = "SUSPENDED"
RESUMING = "RESUMING"

# What is meant to happen to an atom.
EXECUTE = "EXECUTE"
REVERT = "REVERT"
RETRY = "RETRY"
INTENTIONS = (EXECUTE, IGNORE, REVERT, RETRY)

#: States of a flow that still has something to do.
UNFINISHED = frozenset({PENDING, RUNNING, REVERTING, SUSPENDING, SUSPENDED, RESUMING})

#: States of a flow that has ended.
FINISHED = frozenset({SUCCESS, FAILURE, REVERTED, CANCELLED})

#: Unfinished states of a flow that a scan may claim: nobody has asked it to stay where it is.
RUNNABLE = frozenset({PENDING, RUNNING, REVERTING, RESUMING})

TASK_TRANSITIONS = frozenset(
    {
        (PENDING, RUNNING),
        (PENDING, IGNORE),
        (PENDING, FAILURE),  # a decider of a link to it raised: it fails without having run
        (RUNNING, PENDING),  # a start that was never handed out is withdrawn
        (RUNNING, SUCCESS),
        (RUNNING, FAILURE),
        (SUCCESS, REVERTING),
        (FAILURE, REVERTING),
        (FAILURE, PENDING),  # it failed without having run, and its scope is tried again
        (REVERTING, REVERTED),
        (REVERTING, REVERT_FAILURE),
        (REVERTED, PENDING),
        (IGNORE, PENDING),
    }
)

RETRY_TRANSITIONS = TASK_TRANSITIONS | {
    (SUCCESS, RETRYING),
    (RETRYING, RUNNING),
    (RETRYING, REVERTING),  # a stronger decision than RETRY came before the next attempt
    (RETRYING, PENDING),  # an enclosing scope is tried again
}

FLOW_TRANSITIONS = frozenset(
    {
        (PENDING, RUNNING),
        (RUNNING, SUCCESS),
        (RUNNING, FAILURE),
        (RUNNING, REVERTING),
        (RUNNING, REVERTED),  # a part was undone, the rest has run
        (RUNNING, CANCELLED),
        (RUNNING, SUSPENDING),
        (RUNNING, SUSPENDED),
        (RUNNING, RESUMING),
        (REVERTING, REVERTED),
        (REVERTING, FAILURE),
        (REVERTING, CANCELLED),
        (REVERTING, SUSPENDING),
        (REVERTING, SUSPENDED),
        (REVERTING, RESUMING),
        (SUSPENDING, SUSPENDED),
        (SUSPENDING, SUCCESS),
        (SUSPENDING, FAILURE),
        (SUSPENDING, REVERTED),
        (SUSPENDING, CANCELLED),
        (SUSPENDING, RESUMING),
        (SUSPENDED, RESUMING),
        (SUSPENDED, RUNNING),
        (SUSPENDED, REVERTING),
        (RESUMING, RUNNING),
        (RESUMING, REVERTING),
        (RESUMING, SUSPENDED),
        (SUCCESS, RUNNING),
        (FAILURE, RUNNING),
        (FAILURE, REVERTING),
        (SUCCESS, PENDING),
        (FAILURE, PENDING),
        (REVERTED, PENDING),
        (CANCELLED, PENDING),
        (SUSPENDED, PENDING),
    }
)


def _check(what: str, allowed: frozenset[tuple[str, str]], old_state: str, new_state: str) -> bool:
    if old_state == new_state:
        return False
    if (old_state, new_state) not in allowed:
        raise InvalidState(f"a {what} cannot go from {old_state} to {new_state}")
    return True


def check_task_transition(old_state: str, new_state: str) -> bool:
    """Whether the states differ.

    :raises InvalidState: a task cannot go from the one to the other
    """
    return _check("task", TASK_TRANSITIONS, old_state, new_state)


def check_retry_transition(old_state: str, new_state: str) -> bool:
    """Whether the states differ.

    :raises InvalidState: a retry cannot go from the one to the other
    """
    return _check("retry", RETRY_TRANSITIONS, old_state, new_state)


def check_flow_transition(old_state: str, new_state: str) -> bool:
    """Whether the states differ.

    :raises InvalidState: a flow cannot go from the one to the other
    """
    return _check("flow", FLOW_TRANSITIONS, old_state, new_state)
