# SPDX-License-Identifier: Apache-2.0
"""``taskflow.states``."""

from pluggableflow.states import EXECUTE as EXECUTE
from pluggableflow.states import FAILURE as FAILURE
from pluggableflow.states import FLOW_TRANSITIONS as _ALLOWED_FLOW_TRANSITIONS  # noqa: F401
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
from pluggableflow.states import TASK_TRANSITIONS as _ALLOWED_TASK_TRANSITIONS  # noqa: F401
from pluggableflow.states import check_flow_transition as check_flow_transition
from pluggableflow.states import check_retry_transition as check_retry_transition
from pluggableflow.states import check_task_transition as check_task_transition

CLAIMED, COMPLETE, UNCLAIMED = "CLAIMED", "COMPLETE", "UNCLAIMED"
RESTARTING = "RESTARTING"
ANALYZING, GAME_OVER, SCHEDULING, UNDEFINED, WAITING = "ANALYZING", "GAME_OVER", "SCHEDULING", "UNDEFINED", "WAITING"
