# SPDX-License-Identifier: Apache-2.0
"""``taskflow.exceptions``: those of pluggableflow, and the names that it has no use for."""

from __future__ import annotations

import sys
from typing import Any

from pluggableflow.exceptions import AmbiguousDependency as AmbiguousDependency
from pluggableflow.exceptions import DependencyFailure as DependencyFailure
from pluggableflow.exceptions import Duplicate as Duplicate
from pluggableflow.exceptions import ExecutionFailure as ExecutionFailure
from pluggableflow.exceptions import InvalidFormat as InvalidFormat
from pluggableflow.exceptions import InvalidState as InvalidState
from pluggableflow.exceptions import MissingDependencies as MissingDependencies
from pluggableflow.exceptions import NotFound as NotFound
from pluggableflow.exceptions import PluggableFlowError
from pluggableflow.exceptions import StorageFailure as StorageFailure
from pluggableflow.exceptions import WrappedFailure as WrappedFailure

NotImplementedError = NotImplementedError


class TaskFlowException(PluggableFlowError):
    """An error with a cause.

    :ivar cause: what led to it, or ``None``
    """

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self._cause = cause

    @property
    def cause(self) -> BaseException | None:
        return self._cause

    def pformat(self, indent: int = 2, indent_text: str = " ", show_root_class: bool = False) -> str:
        """The message, and below it those of its causes, each indented by ``indent`` more."""
        lines = [f"{type(self).__name__}: {self}" if show_root_class else str(self)]
        seen: set[int] = {id(self)}
        at = self._cause
        while at is not None and id(at) not in seen:
            seen.add(id(at))
            lines.append(f"{indent_text * (indent * len(lines))}{type(at).__name__}: {at}")
            at = at.cause if isinstance(at, TaskFlowException) else at.__cause__
        return "\n".join(lines)


def raise_with_cause(exc_cls: type[BaseException], message: str, *args: Any, **kwargs: Any) -> None:
    """Raise ``exc_cls(message, cause=...)`` from the exception that is being handled, unless ``cause`` is given."""
    kwargs.setdefault("cause", sys.exc_info()[1])
    raise exc_cls(message, *args, **kwargs) from kwargs["cause"]
