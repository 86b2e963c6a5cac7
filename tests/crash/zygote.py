# SPDX-License-Identifier: Apache-2.0
"""A process that has imported everything and opened nothing, and forks children that each do one thing.

An interpreter with every driver takes half a second to start; a child of this process is there at once, and is as
fresh: no connection, no thread and no lock was ever made in it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

_DRIVERS = ("psycopg", "pymysql", "pymongo", "redis", "sqlalchemy.dialects.mysql", "sqlalchemy.dialects.postgresql")


class Zygote:
    """The process, seen by the test that started it.

    :param modules: what it imports beforehand, besides all connections, engines and drivers
    """

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._text = b""
        self._messages: list[dict[str, Any]] = []

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it with all its children."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        while os.read(self._process.stdout.fileno(), 65536):  # a full pipe would keep it from ending
            pass
        self._process.wait()
        self._process.stdout.close()

    def start(self, function: str, *arguments: Any) -> None:
        """Fork a child that calls ``module:function``; the message ``{"started": pid}`` follows."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([function, *arguments]).encode() + b"\n")

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a child, unless it has ended: nobody else can have its number before that is noticed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(["", pid, number]).encode() + b"\n")

    def message(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The next message of this process or of a child; ``None`` if none comes within ``seconds``.

        A child's end is ``{"ended": pid, "code": exit code, or minus the signal}``.
        """
        assert self._process.stdout is not None
        while not self._messages:
            if seconds is not None and not select.select([self._process.stdout], [], [], seconds)[0]:
                return None
            more = os.read(self._process.stdout.fileno(), 65536)
            if not more:
                raise RuntimeError("the zygote has died")
            *lines, self._text = (self._text + more).split(b"\n")
            self._messages += map(json.loads, lines)
        return self._messages.pop(0)

    def call(self, function: str, *arguments: Any) -> int:
        """Let a child call ``module:function``, wait for its end: its exit code, or minus the signal."""
        self.start(function, *arguments)
        pid = None
        while (message := self.message() or {}).get("ended", 0) != pid:
            pid = message.get("started", pid)
        code: int = message["code"]
        return code


def tell(**message: Any) -> None:
    """Send a message to the test, in one write; in the zygote and in its children."""
    os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")


def _fork(function: str, arguments: list[Any], wakeup: tuple[int, int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (*wakeup, sys.stdin.fileno()):
            os.close(end)
        tell(started=os.getpid())
        module, _, name = function.partition(":")
        getattr(sys.modules[module], name)(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _main(modules: list[str]) -> None:
    from pluggableflow.exceptions import PluginError
    from pluggableflow.loader import load_plugin, plugin_names

    for group in ("pluggableflow.connections", "pluggableflow.engines"):
        for name in plugin_names(group):
            with contextlib.suppress(PluginError):
                load_plugin(group, name)
    for module in _DRIVERS:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for module in modules:
        importlib.import_module(module)
    wakeup = os.pipe()
    for end in wakeup:
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakeup[1], warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    children: set[int] = set()
    try:
        _serve(children, wakeup)
    finally:  # also when nobody reads what is told
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def _serve(children: set[int], wakeup: tuple[int, int]) -> None:
    text = b""
    while True:
        ready, _, _ = select.select([sys.stdin, wakeup[0]], [], [])
        if wakeup[0] in ready:
            os.read(wakeup[0], 4096)
            _reap(children)
        if sys.stdin in ready:
            more = os.read(sys.stdin.fileno(), 65536)
            if not more:
                return
            *lines, text = (text + more).split(b"\n")
            for line in lines:
                function, *arguments = json.loads(line)
                if function:
                    children.add(_fork(function, arguments, wakeup))
                elif arguments[0] in children:
                    os.kill(*arguments)


def _reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        tell(ended=pid, code=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _main(sys.argv[1:])
