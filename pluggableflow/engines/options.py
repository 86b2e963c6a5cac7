# SPDX-License-Identifier: Apache-2.0
"""Options of engine types, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pluggableflow.exceptions import OptionError

#: Option name to its default and the types it may have.
OptionTypes = Mapping[str, tuple[Any, tuple[type, ...]]]


def checked(options: Mapping[str, Any], known: OptionTypes, engine: str) -> dict[str, Any]:
    """The options with their defaults.

    :raises OptionError: names the option, and those that there are
    """
    for name, value in options.items():
        if name not in known:
            raise OptionError(f"{engine} has no option {name!r}; it has {', '.join(sorted(known))}")
        kinds = known[name][1]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
            raise OptionError(f"option {name!r} must be {' or '.join(kind.__name__ for kind in kinds)}, not {value!r}")
    found = {name: options.get(name, default) for name, (default, _kinds) in known.items()}
    if found["lease_seconds"] <= 0:
        raise OptionError(f"lease_seconds must be more than 0, not {found['lease_seconds']!r}")
    if found["grace_seconds"] < 0:
        raise OptionError(f"grace_seconds must be at least 0, not {found['grace_seconds']!r}")
    answer = found["on_mismatch"]
    if answer not in ("refuse", "accept") and not callable(answer):
        raise OptionError(f'on_mismatch must be "refuse", "accept" or a callable, not {answer!r}')
    return found
