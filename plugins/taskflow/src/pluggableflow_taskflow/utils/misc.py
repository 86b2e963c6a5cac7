# SPDX-License-Identifier: Apache-2.0
"""``taskflow.utils.misc``."""


def binary_encode(text: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> bytes:
    """The bytes of a text; bytes are returned as they are."""
    return text if isinstance(text, bytes) else text.encode(encoding, errors)
