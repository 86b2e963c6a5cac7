# SPDX-License-Identifier: Apache-2.0
"""``taskflow.persistence.backends.impl_dir``."""

from pluggableflow_taskflow.persistence.base import Backend


class DirBackend(Backend):
    """Keeps flows in a directory.

    :param conf: ``path`` is the directory
    """

    def _target(self) -> str:
        return f"dir://{self._conf['path']}"
