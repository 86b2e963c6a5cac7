# SPDX-License-Identifier: Apache-2.0
"""``taskflow.listeners.capturing``."""

from pluggableflow.listeners.capturing import CaptureListener as CaptureListener
