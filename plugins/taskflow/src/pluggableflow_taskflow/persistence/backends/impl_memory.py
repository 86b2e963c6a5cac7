# SPDX-License-Identifier: Apache-2.0
"""``taskflow.persistence.backends.impl_memory``."""

from pluggableflow_taskflow.persistence.base import Backend


class MemoryBackend(Backend):
    """Keeps flows in this process."""

    def _target(self) -> None:
        return None

    def close(self) -> None:
        """Does nothing: what is kept in memory stays there as long as the backend."""
