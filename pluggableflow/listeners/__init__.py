# SPDX-License-Identifier: Apache-2.0
"""Listeners to attach to an engine: each is a context manager around its runs."""

from pluggableflow.listeners.capturing import CaptureListener
from pluggableflow.listeners.listener import DumpingListener, Listener
from pluggableflow.listeners.logging import DynamicLoggingListener, LoggingListener
from pluggableflow.listeners.printing import PrintingListener
from pluggableflow.listeners.timing import DurationListener, EventTimeListener, PrintingDurationListener

__all__ = [
    "CaptureListener",
    "DumpingListener",
    "DurationListener",
    "DynamicLoggingListener",
    "EventTimeListener",
    "Listener",
    "LoggingListener",
    "PrintingDurationListener",
    "PrintingListener",
]
