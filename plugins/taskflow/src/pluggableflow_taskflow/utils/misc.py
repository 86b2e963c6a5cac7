# SPDX-License-Identifier: Apache-2.0
"""``taskflow.utils.misc``."""

from typing import Any


def binary_encode(text: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> bytes:
    """The bytes of a text; bytes are returned as they are."""
    return text if isinstance(text, bytes) else text.encode(encoding, errors)


def as_int(obj: Any, quiet: bool = False) -> Any:
    """A number as an integer, rounded towards zero, also if it is given as text.

    :param quiet: return what is no number as it is
    :raises TypeError: it is no number
    """
    for convert in (int, float):
        try:
            return int(convert(obj))
        except (ValueError, TypeError, OverflowError):
            pass
    if quiet:
        return obj
    raise TypeError(f"{obj!r} is not a number")
