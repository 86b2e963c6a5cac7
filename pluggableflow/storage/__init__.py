# SPDX-License-Identifier: Apache-2.0
"""The engine's view of one flow."""

from pluggableflow.storage.flow_records import INJECTOR, META_CANCELLED, META_DEPTH, META_PROGRESS
from pluggableflow.storage.storage import Storage

__all__ = ["INJECTOR", "META_CANCELLED", "META_DEPTH", "META_PROGRESS", "Storage"]
