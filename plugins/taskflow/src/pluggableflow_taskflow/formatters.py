# SPDX-License-Identifier: Apache-2.0
"""``taskflow.formatters``."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pluggableflow.failure import Failure
from pluggableflow.formatters import FailureFormatter as _FailureFormatter


class FailureFormatter(_FailureFormatter):
    """Shows what led to the failure of an atom, which is asked for by a function of its node."""

    def format(self, fail: Failure, atom_matcher: Callable[[Any], bool]) -> tuple[Any, str]:  # type: ignore[override]
        atoms = self._engine.plan.atoms if self._engine.plan is not None else ()
        found = (each.name for each in atoms if each is not None and atom_matcher(SimpleNamespace(item=each)))
        return super().format(fail, next(found, ""))
