# SPDX-License-Identifier: Apache-2.0
"""``taskflow.listeners.base``."""

from pluggableflow.listeners.listener import DEFAULT_LISTEN_FOR as DEFAULT_LISTEN_FOR
from pluggableflow.listeners.listener import FINISH_STATES as FINISH_STATES
from pluggableflow.listeners.listener import DumpingListener as DumpingListener
from pluggableflow.listeners.listener import Listener as Listener
