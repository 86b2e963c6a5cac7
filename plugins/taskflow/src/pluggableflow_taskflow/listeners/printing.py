# SPDX-License-Identifier: Apache-2.0
"""``taskflow.listeners.printing``."""

from pluggableflow.listeners.printing import PrintingListener as PrintingListener
