# SPDX-License-Identifier: Apache-2.0
"""How long ago, on the command line."""

from __future__ import annotations

import re
from datetime import timedelta

import click

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def age(text: str) -> timedelta:
    """The type of an option: a whole number with a unit, s, m, h or d."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not an age; write 90m, 12h or 30d")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
