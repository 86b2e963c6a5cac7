# SPDX-License-Identifier: Apache-2.0
"""``taskflow.utils.threading_utils``."""

import threading
from collections.abc import Callable
from threading import get_ident as get_ident
from typing import Any


def daemon_thread(target: Callable[..., Any], *args: Any, **kwargs: Any) -> threading.Thread:
    """A thread, not started, that does not keep the process alive."""
    return threading.Thread(target=target, args=args, kwargs=kwargs, daemon=True)
