# SPDX-License-Identifier: Apache-2.0
"""Prints what happens."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from typing import Any

from pluggableflow.engine import Engine
from pluggableflow.listeners.listener import DEFAULT_LISTEN_FOR, DumpingListener


class PrintingListener(DumpingListener):
    """Prints a line for every state, and the traceback of every failure.

    :param stderr: to standard error instead of standard output
    """

    def __init__(
        self,
        engine: Engine,
        task_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        flow_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        retry_listen_for: Iterable[str] | None = DEFAULT_LISTEN_FOR,
        stderr: bool = False,
    ) -> None:
        super().__init__(engine, task_listen_for, flow_listen_for, retry_listen_for)
        self._file = sys.stderr if stderr else sys.stdout

    def _dump(self, message: str, *args: Any, **kwargs: Any) -> None:
        print(message % args, file=self._file)
        exc_info = kwargs.get("exc_info")
        if exc_info is not None:
            traceback.print_exception(*exc_info, file=self._file)
