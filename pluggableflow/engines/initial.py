# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: its initial arguments next to the stored ones, and what is stored of its atoms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pluggableflow import codec, states
from pluggableflow.exceptions import EncodingError
from pluggableflow.flow import Depth
from pluggableflow.machine import Machine, Restored
from pluggableflow.plan import END
from pluggableflow.secret import Secret, still_secret
from pluggableflow.storage import META_DEPTH, Storage


def compare(stored: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What a run adds to the stored arguments.

    :returns: the values to store, which are those that are new or differ; the secrets that were given again because
        they are not stored; the names of those that differ. A secret that is not stored differs from nothing.
    """
    new: dict[str, Any] = {}
    again: dict[str, Any] = {}
    differing = []
    for name, value in given.items():
        if name not in stored:
            new[name] = value
            continue
        before = stored[name]
        value = still_secret(before, value)
        if isinstance(before, Secret) and before.is_empty:
            (new if value.stored else again)[name] = value
        elif not _alike(before, value):
            differing.append(name)
            new[name] = value
    return new, again, differing


def _alike(stored: Any, value: Any) -> bool:
    """Whether two values are equal, or stored as the same text: not everything equals itself after a round trip."""
    try:
        if stored is value or bool(stored == value):
            return True
    except Exception:  # an array has no truth
        pass
    try:
        return codec.dumps(stored) == codec.dumps(value)
    except EncodingError:
        return False


def restore(machine: Machine, storage: Storage) -> dict[int, Restored]:
    """What the machine begins with: of each atom that is not PENDING, what is stored."""
    restored = {}
    for node, kind in enumerate(machine.plan.kinds):
        if kind > END and (detail := storage.node_detail(node)).state != states.PENDING:
            depth = detail.meta.get(META_DEPTH)
            restored[node] = Restored(
                detail.state,
                detail.intention,
                detail.attempt,
                detail.started_at is not None,
                detail.not_before,
                Depth[depth] if depth else None,
            )
        elif kind > END:
            machine.attempt[node] = detail.attempt
    return restored
