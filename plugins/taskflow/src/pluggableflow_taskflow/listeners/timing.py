# SPDX-License-Identifier: Apache-2.0
"""``taskflow.listeners.timing``."""

from pluggableflow.listeners.timing import LOG as LOG
from pluggableflow.listeners.timing import DurationListener as DurationListener
from pluggableflow.listeners.timing import EventTimeListener as EventTimeListener
from pluggableflow.listeners.timing import PrintingDurationListener as PrintingDurationListener
