# SPDX-License-Identifier: Apache-2.0
"""What TaskFlow's tests import of modules that are out of scope, just far enough that the imports succeed."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import types
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

import pluggableflow_taskflow


def _absent(*_args: Any, **_kwargs: Any) -> Any:
    raise RuntimeError("this part of TaskFlow is not offered")


class _Absent:
    MIN_ZK_VERSION = (3, 4, 0)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        _absent()


_THIRD_PARTY: dict[str, dict[str, Any]] = {"etcd3gw": {"Etcd3Client": _Absent}}
_OF_TASKFLOW: dict[str, dict[str, Any]] = {
    "jobs": {},
    "jobs.backends": {"fetch": _absent},
    "jobs.backends.impl_zookeeper": {"ZookeeperJobBoard": _Absent},
    "listeners.claims": {"CheckingClaimListener": _Absent},
    "engines.worker_based": {},
    "engines.worker_based.engine": {"WorkerBasedActionEngine": _Absent},
    "engines.worker_based.worker": {"Worker": _Absent},
    "engines.action_engine.executor": {"ParallelGreenThreadTaskExecutor": _Absent},
    "utils.eventlet_utils": {"EVENTLET_AVAILABLE": False},
    "utils.kazoo_utils": {"make_client": _absent, "finalize_client": _absent},
    "utils.redis_utils": {"is_server_new_enough": _absent},
}


def _module(name: str, content: dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = []
    module.__dict__.update(content)
    sys.modules[name] = module
    return module


class _TestsOfTheWheel(MetaPathFinder):
    """Finds ``taskflow.test`` and ``taskflow.tests`` in the wheel, whatever ``taskflow`` is."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in ("taskflow.test", "taskflow.tests"):
            return PathFinder.find_spec(name, [self._folder])
        return PathFinder.find_spec(name, path) if name.startswith("taskflow.tests.") else None


def install() -> None:
    """Put the shims of other distributions where the tests look for them."""
    for name, content in _THIRD_PARTY.items():
        try:
            importlib.import_module(name)
        except ImportError:
            _module(name, content)


def install_in_place_of_taskflow() -> None:
    """Let ``taskflow`` be pluggableflow_taskflow, but for its tests, and put all shims where these look for them."""
    folder = str(importlib.metadata.distribution("taskflow").locate_file("taskflow"))
    pluggableflow_taskflow.install_as_taskflow()
    sys.meta_path.insert(0, _TestsOfTheWheel(folder))
    install()
    for name, content in _OF_TASKFLOW.items():
        parent, _, last = f"taskflow.{name}".rpartition(".")
        setattr(importlib.import_module(parent), last, _module(f"taskflow.{name}", content))
