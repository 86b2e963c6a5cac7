# SPDX-License-Identifier: Apache-2.0
"""``taskflow.listeners.logging``."""

from __future__ import annotations

from typing import Any

from pluggableflow.failure import Failure
from pluggableflow.listeners.logging import LOG as LOG
from pluggableflow.listeners.logging import DynamicLoggingListener as _DynamicLoggingListener
from pluggableflow.listeners.logging import LoggingListener as LoggingListener
from pluggableflow_taskflow.formatters import FailureFormatter


class DynamicLoggingListener(_DynamicLoggingListener):
    """Asks formatters of TaskFlow's kind, by a function of the atom's node."""

    formatter_type = FailureFormatter

    def _format_failure(self, failure: Failure, atom_name: str) -> tuple[Any, str]:
        formatter: Any = self._fail_formatter
        found: tuple[Any, str] = formatter.format(failure, lambda node: node.item.name == atom_name)
        return found
