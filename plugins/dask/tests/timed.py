# SPDX-License-Identifier: Apache-2.0
"""A function for tasks, which the workers of the cluster can import."""

from __future__ import annotations

import time

from pluggableflow.testing.executor_tasks import die


def ran(marker: str | None = None) -> tuple[float, float]:
    """When it began and ended; the workers have one clock. With a marker, its worker dies the first time."""
    if marker is not None:
        die(marker)
    return time.monotonic(), time.monotonic()
