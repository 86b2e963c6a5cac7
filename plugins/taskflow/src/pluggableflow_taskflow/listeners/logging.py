# SPDX-License-Identifier: Apache-2.0
"""``taskflow.listeners.logging``."""

from pluggableflow.listeners.logging import LOG as LOG
from pluggableflow.listeners.logging import DynamicLoggingListener as DynamicLoggingListener
from pluggableflow.listeners.logging import LoggingListener as LoggingListener
