# SPDX-License-Identifier: Apache-2.0
"""The pure state machine of one flow."""

from pluggableflow.machine.machine import Machine
from pluggableflow.machine.questions import Decide, ExecuteRetry, OnFailure, Question, Restored, RevertRetry

__all__ = ["Decide", "ExecuteRetry", "Machine", "OnFailure", "Question", "Restored", "RevertRetry"]
