# SPDX-License-Identifier: Apache-2.0
"""What the service provisions: a machine, which here is a folder with an address, a disk and a mark that it runs.

Every step may be run twice: it was running when its process died, and runs again.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pluggableflow import retry, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow

APPROVAL_SECONDS = 0.05
DISK_BLOCKS = 8


class Reserve(task.Task):
    """Takes an address for the machine."""

    default_provides = "address"

    def execute(self, folder: str, name: str) -> str:
        address = f"10.0.0.{int(hashlib.sha256(name.encode()).hexdigest(), 16) % 254 + 1}"
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        Path(folder, name, "address").write_text(address)
        return address

    def revert(self, folder: str, name: str, **kwargs: Any) -> None:
        shutil.rmtree(Path(folder, name), ignore_errors=True)


class Approve(task.Task):
    """Waits until somebody has approved of the machine."""

    def execute(self, folder: str, name: str) -> None:
        while not Path(folder, name, "approved").exists():
            if self.cancelled.wait(APPROVAL_SECONDS):
                raise InterruptedError("nobody has approved of it")


class MakeDisk(task.Task):
    """Writes the disk, and says how far it is."""

    default_provides = "disk"

    def execute(self, folder: str, name: str) -> str:
        path = Path(folder, name, "disk")
        with path.open("wb") as disk:
            for block in range(DISK_BLOCKS):
                disk.write(bytes(4096))
                self.update_progress((block + 1) / DISK_BLOCKS)
        return str(path)

    def revert(self, folder: str, name: str, **kwargs: Any) -> None:
        Path(folder, name, "disk").unlink(missing_ok=True)


class Boot(task.Task):
    """Starts the machine; one that is called ``broken`` does not start."""

    def execute(self, folder: str, name: str, address: str, disk: str) -> None:
        if name.startswith("broken"):
            raise OSError(f"{name} does not boot from {disk}")
        Path(folder, name, "running").write_text(address)

    def revert(self, folder: str, name: str, **kwargs: Any) -> None:
        Path(folder, name, "running").unlink(missing_ok=True)


def provision(name: str, approval: bool) -> Flow:
    """The flow that makes a machine; its store has ``folder`` and ``name``."""
    flow = linear_flow.Flow(f"provision {name}").add(Reserve("reserve"))
    if approval:
        flow.add(Approve("approve"))
    booting = linear_flow.Flow("booting", retry.Times(2, "booting", revert_all=True, delay_seconds=0.1))
    return flow.add(MakeDisk("make disk"), booting.add(Boot("boot")))
