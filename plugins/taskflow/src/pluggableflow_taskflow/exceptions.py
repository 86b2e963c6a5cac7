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

TaskFlowException, NotImplementedError = PluggableFlowError, NotImplementedError


def raise_with_cause(exc_cls: type[BaseException], message: str, *args: Any, **kwargs: Any) -> None:
    """Raise ``exc_cls(message, cause=...)`` from the exception that is being handled, unless ``cause`` is given."""
    kwargs.setdefault("cause", sys.exc_info()[1])
    raise exc_cls(message, *args, **kwargs) from kwargs["cause"]
