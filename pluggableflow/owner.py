# SPDX-License-Identifier: Apache-2.0
"""Who holds a lease, and whether that process is certainly gone.

An identity is ``boot id/pid namespace/pid/process start time``. Only a process of the same boot and the same
namespace can be judged; everything else counts as alive.
"""

from __future__ import annotations

import os
from pathlib import Path

_UNKNOWN = "unknown"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _UNKNOWN


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return _UNKNOWN


def _started_at(pid: int | str) -> str | None:
    """Start time of a process in clock ticks since boot; ``None`` if there is no such process, or only its remains.

    Source: proc(5), fields 3 and 22 of ``/proc/PID/stat``, counted after the command's closing parenthesis.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZXx" else fields[19]


def identity() -> str:
    """The identity of this process."""
    pid = os.getpid()
    return f"{_boot_id()}/{_pid_namespace()}/{pid}/{_started_at(pid) or _UNKNOWN}"


def is_gone(owner: str) -> bool:
    """Whether the process of that identity has certainly ended."""
    parts = owner.split("/")
    if len(parts) != 4 or _UNKNOWN in parts or parts[:2] != [_boot_id(), _pid_namespace()]:
        return False
    return _started_at(parts[2]) != parts[3]
