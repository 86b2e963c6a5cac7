# SPDX-License-Identifier: Apache-2.0
"""``taskflow.persistence.path_based``."""

from pluggableflow_taskflow.persistence.base import Backend as PathBasedBackend
from pluggableflow_taskflow.persistence.base import Connection as PathBasedConnection

__all__ = ["PathBasedBackend", "PathBasedConnection"]
