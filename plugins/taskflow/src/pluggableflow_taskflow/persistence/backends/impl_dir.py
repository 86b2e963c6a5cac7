# SPDX-License-Identifier: Apache-2.0
"""``taskflow.persistence.backends.impl_dir``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pluggableflow_taskflow.persistence.base import Backend


class DirBackend(Backend):
    """Keeps flows in a directory.

    :param conf: ``path`` is the directory; ``max_cache_size`` is checked, but nothing is kept to be bounded by it
    """

    def __init__(self, conf: Mapping[str, Any]) -> None:
        super().__init__(conf)
        size = self._conf.get("max_cache_size")
        if size is not None and int(size) < 1:
            raise ValueError(f"max_cache_size must be at least 1, not {size!r}")

    def _target(self) -> str:
        return f"dir://{self._conf['path']}"
