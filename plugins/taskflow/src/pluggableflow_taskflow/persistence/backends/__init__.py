# SPDX-License-Identifier: Apache-2.0
"""``taskflow.persistence.backends``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from pluggableflow.exceptions import NotFound, PluginError
from pluggableflow_taskflow.persistence.backends.impl_dir import DirBackend
from pluggableflow_taskflow.persistence.backends.impl_memory import MemoryBackend
from pluggableflow_taskflow.persistence.backends.impl_sqlalchemy import SQLAlchemyBackend
from pluggableflow_taskflow.persistence.base import Backend

_BY_NAME: dict[str, type[Backend]] = {"memory": MemoryBackend, "dir": DirBackend, "file": DirBackend}
_SQL = ("sqlite", "mysql", "mariadb", "postgresql", "postgres")


def fetch(conf: Mapping[str, Any], namespace: str = "taskflow.persistence", **kwargs: Any) -> Backend:
    """The backend that ``conf["connection"]`` names: ``memory``, ``dir``, ``file``, or the URL of any store.

    :raises NotFound: no such backend is installed
    """
    name = str(conf["connection"])
    scheme = name.partition(":")[0].partition("+")[0]
    kind = _BY_NAME.get(name.rstrip(":")) or (SQLAlchemyBackend if scheme in _SQL else Backend)
    try:
        made = kind(conf, **kwargs)
        if kind is Backend:
            made.get_connection().validate()
    except PluginError as error:
        raise NotFound(str(error)) from error
    return made


@contextlib.contextmanager
def backend(conf: Mapping[str, Any], namespace: str = "taskflow.persistence", **kwargs: Any) -> Iterator[Backend]:
    """A backend, upgraded, for the length of a block."""
    with contextlib.closing(fetch(conf, namespace, **kwargs)) as fetched:
        fetched.get_connection().upgrade()
        yield fetched
