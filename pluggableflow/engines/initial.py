# SPDX-License-Identifier: Apache-2.0
"""Initial arguments: those that a run is given, next to those that the store has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pluggableflow import codec
from pluggableflow.exceptions import EncodingError
from pluggableflow.secret import Secret, still_secret


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
