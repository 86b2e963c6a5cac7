# SPDX-License-Identifier: Apache-2.0
"""``taskflow.flow``."""

from pluggableflow.flow import LINK_DECIDER as LINK_DECIDER
from pluggableflow.flow import LINK_DECIDER_DEPTH as LINK_DECIDER_DEPTH
from pluggableflow.flow import LINK_INVARIANT as LINK_INVARIANT
from pluggableflow.flow import LINK_MANUAL as LINK_MANUAL
from pluggableflow.flow import LINK_REASONS as LINK_REASONS
from pluggableflow.flow import Flow as Flow

LINK_RETRY = "retry"
