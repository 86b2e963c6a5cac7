# SPDX-License-Identifier: Apache-2.0
"""Checks the files of every installed distribution against the hashes in its RECORD, one task per distribution.

pluggableflow run examples/audit_environment.py [--engine parallel]
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pluggableflow import task
from pluggableflow.flow import Flow
from pluggableflow.patterns import unordered_flow


class Audit(task.Task):
    """Reads the files of one distribution."""

    def __init__(self, distribution: str) -> None:
        super().__init__(f"audit {distribution}", provides=distribution)
        self.distribution = distribution

    def execute(self) -> dict[str, Any]:
        checked, changed, missing = 0, [], []
        for file in metadata.distribution(self.distribution).files or ():
            if file.hash is None:
                continue
            checked += 1
            try:
                content = Path(str(file.locate())).read_bytes()
            except FileNotFoundError:
                missing.append(str(file))
                continue
            digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, content).digest()).rstrip(b"=").decode()
            if digest != file.hash.value:
                changed.append(str(file))
        return {"checked": checked, "changed": changed, "missing": missing}


def create_flow() -> Flow:
    names = sorted({each.metadata["Name"] for each in metadata.distributions() if each.metadata["Name"]})
    return unordered_flow.Flow("audit").add(*(Audit(name) for name in names))


def report(results: Mapping[str, Any]) -> str:
    lines = [f"{sum(each['checked'] for each in results.values())} files of {len(results)} distributions checked"]
    for name, each in sorted(results.items()):
        for what in ("changed", "missing"):
            lines += [f"{name}: {what}: {file}" for file in each[what]]
    return "\n".join(lines)


if __name__ == "__main__":
    from pluggableflow import api

    print(report(api.run(None, create_flow(), engine="parallel")))
