# SPDX-License-Identifier: Apache-2.0
"""``taskflow.retry``."""

from __future__ import annotations

from typing import Any

from pluggableflow.retry import RETRY as RETRY
from pluggableflow.retry import REVERT as REVERT
from pluggableflow.retry import REVERT_ALL as REVERT_ALL
from pluggableflow.retry import AlwaysRevert as AlwaysRevert
from pluggableflow.retry import AlwaysRevertAll as AlwaysRevertAll
from pluggableflow.retry import Decision as Decision
from pluggableflow.retry import ForEach as ForEach
from pluggableflow.retry import History as History
from pluggableflow.retry import ParameterizedForEach as ParameterizedForEach
from pluggableflow.retry import Retry as Retry
from pluggableflow.retry import Times as _Times


class Times(_Times):
    """Takes no attempts as one, like TaskFlow."""

    def __init__(self, attempts: int = 1, *args: Any, **kwargs: Any) -> None:
        super().__init__(max(1, attempts), *args, **kwargs)
