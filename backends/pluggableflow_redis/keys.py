# SPDX-License-Identifier: Apache-2.0
"""The names of all keys, and the members of the ordered indexes. The package's head says what they hold."""

from __future__ import annotations

#: The form of the data that this release writes and reads.
SCHEMA_VERSION = 1

_INT64 = 2**63


class Keys:
    """Makes key names; what belongs to one book or one flow shares a hash tag, and so does all of the index."""

    def __init__(self, prefix: str) -> None:
        self.version = _bytes(f"{prefix}version")
        self.ready, self.waiting, self.claims, self.flows, self.books, self.recent, self.open = (
            _bytes(f"{prefix}{{index}}:{name}")
            for name in ("ready", "waiting", "claims", "flows", "books", "recent", "open")
        )
        self._flow, self._book, self._atom = (_bytes(prefix + kind) for kind in ("flow:", "book:", "atom:"))

    def flow(self, uuid: str) -> tuple[bytes, bytes, bytes]:
        """Its own columns, the columns of its atoms, and its atoms by name."""
        own = self._flow + _tag(uuid)
        return own, own + b":atoms", own + b":names"

    def book(self, uuid: str) -> tuple[bytes, ...]:
        """Its columns, the flows that it has, what has destroyed it, what is about to save it, and what has."""
        own = self._book + _tag(uuid)
        return own, own + b":flows", own + b":destroyed", own + b":saves", own + b":saved"

    def atom(self, uuid: str) -> bytes:
        return self._atom + _bytes(uuid)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8")


def _tag(uuid: str) -> bytes:
    # A tag ends at the first closing brace, and an empty one is none.
    return b"{" + _bytes(uuid.replace("%", "%25").replace("}", "%7D")) + b"}"


def age(created_at: int, uuid: str) -> bytes:
    """A member that sorts by creation, then by uuid, when all scores are equal."""
    return b"%016x" % created_at + _bytes(uuid)


def of_age(member: bytes) -> tuple[int, str]:
    """The inverse of :func:`age`."""
    return int(member[:16], 16), member[16:].decode("utf-8")


def hint(priority: int, created_at: int, uuid: str, number: int) -> bytes:
    """A member that sorts by priority, highest first, then by creation, then by uuid."""
    rank = min(max(_INT64 - 1 - priority, 0), 2 * _INT64 - 1)
    return b"%016x%016x%b\0%d" % (rank, created_at, _bytes(uuid), number)


def of_hint(member: bytes) -> tuple[str, int]:
    """The flow and the number of a hint."""
    uuid, _, number = member[32:].rpartition(b"\0")
    return uuid.decode("utf-8"), int(number)
