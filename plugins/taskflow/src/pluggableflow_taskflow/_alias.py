# SPDX-License-Identifier: Apache-2.0
"""Lets ``import taskflow`` find this package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_OURS = "pluggableflow_taskflow"
_THEIRS = "taskflow"


class _Alias(MetaPathFinder, Loader):
    """Finds ``taskflow.x`` as ``pluggableflow_taskflow.x``: one module object under both names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(_THEIRS + "."):
            return None
        try:
            found = importlib.util.find_spec(_OURS + name.removeprefix(_THEIRS))
        except ModuleNotFoundError:
            return None
        if found is None:
            return None
        return ModuleSpec(name, self, is_package=found.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_OURS + spec.name.removeprefix(_THEIRS))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # the import system has just put that of the alias there


def install_as_taskflow() -> None:
    """Make ``import taskflow`` resolve to this package, for the rest of the process. May be called again.

    :raises RuntimeError: the real TaskFlow has been imported already; nothing was changed
    """
    ours = sys.modules[_OURS]
    there = sys.modules.get(_THEIRS)
    if there is ours:
        return
    imported = sorted(name for name in sys.modules if name == _THEIRS or name.startswith(_THEIRS + "."))
    if imported:
        raise RuntimeError(
            f"TaskFlow itself has been imported already ({', '.join(imported[:3])});"
            " call install_as_taskflow() before anything imports taskflow"
        )
    sys.modules[_THEIRS] = ours
    sys.meta_path.insert(0, _Alias())
