# SPDX-License-Identifier: Apache-2.0
"""``taskflow.persistence.backends.impl_sqlalchemy``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pluggableflow_taskflow.persistence.base import Backend


class SQLAlchemyBackend(Backend):
    """Keeps flows in a database.

    :param engine: a SQLAlchemy engine in place of the URL; it is the caller's to dispose of
    """

    def __init__(self, conf: Mapping[str, Any], engine: Any = None) -> None:
        super().__init__(conf)
        self._engine = engine

    def _target(self) -> Any:
        return self._conf["connection"] if self._engine is None else self._engine
