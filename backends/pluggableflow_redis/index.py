# SPDX-License-Identifier: Apache-2.0
"""The index: where flows, books and atoms are looked for. It may list too much; what it lists is looked at again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pluggableflow_redis import index_scripts as scripts
from pluggableflow_redis import lease_scripts
from pluggableflow_redis.client import Client
from pluggableflow_redis.keys import Keys, age, hint, of_age

_PAGE = 500
#: How many leftovers of dead processes one upgrade looks at.
_SWEPT = 100
#: A claim that was begun longer ago has come to its end, one way or the other.
_OLD_MICROSECONDS = 3_600_000_000


class Index:
    """Reads and writes the index of one store."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client, self._keys = client, keys

    # -- what a scan may take -------------------------------------------------------------------------------------

    def add_hint(self, flow_uuid: str, answer: Sequence[Any]) -> tuple[int, int]:
        """Do what a script asked for with ``hint``; returns the number of the entry and since when it holds."""
        number, priority, created_at, since = (int(part or 0) for part in answer[1:5])
        self.add_entry(hint(priority, created_at, flow_uuid, number + 1), since)
        return number + 1, since

    def add_entry(self, entry: bytes, since: int) -> None:
        if since:
            self._client.command("ZADD", self._keys.waiting, since, entry)
        else:
            self._client.command("ZADD", self._keys.ready, 0, entry)

    def pick(
        self, token: str, after: bytes, tried: bytes, gone: bytes, later: bytes, until: int, earlier: bool
    ) -> Sequence[Any]:
        """The next entry to try; see ``PICK``."""
        keys = (self._keys.ready, self._keys.waiting, self._keys.claims, self._keys.recent)
        arguments: list[Any] = [token.encode(), after, tried, gone, later, until, int(earlier)]
        while True:
            answer: Sequence[Any] = self._client.run(scripts.PICK, keys, arguments)
            if answer[0] != b"more":
                return answer
            arguments[2:5] = b"", b"", b""

    def put_off(self, entry: bytes, until: int) -> None:
        self._client.run(scripts.PUT_OFF, (self._keys.ready, self._keys.waiting), (entry, until))

    def remove_hint(self, flow_uuid: str, number: int, priority: int, created_at: int) -> None:
        entry = hint(priority, created_at, flow_uuid, number)
        self._client.send_many([("ZREM", self._keys.ready, entry), ("ZREM", self._keys.waiting, entry)])

    # -- atoms ----------------------------------------------------------------------------------------------------

    def add_atoms(self, flow_uuid: str, created_at: int, atom_uuids: Iterable[str]) -> None:
        flow = age(created_at, flow_uuid)
        self._client.set_many([(self._keys.atom(uuid), flow) for uuid in atom_uuids])

    def flow_of_atom(self, atom_uuid: str) -> str | None:
        found = self._client.command("GET", self._keys.atom(atom_uuid))
        return None if found is None else of_age(found)[1]

    def claiming(self, flow_uuid: str, token: str) -> None:
        """Before a claim: the flow may get atoms that :meth:`add_atoms` has not seen."""
        self._client.run(scripts.CLAIMING, (self._keys.recent,), (_claimed(flow_uuid, token),))

    def released(self, flow_uuid: str, token: str) -> None:
        """After a release, or a claim that was refused."""
        self._client.send_many(
            [
                ("ZREM", self._keys.recent, _claimed(flow_uuid, token)),
                ("HDEL", self._keys.claims, token.encode()),
            ]
        )

    def index_atoms(self, flow_uuid: str) -> None:
        """Make the atoms of a flow found by themselves."""
        keys = self._keys.flow(flow_uuid)
        count, created_at, new = self._client.run(lease_scripts.UNINDEXED, keys)
        if new:
            self.add_atoms(flow_uuid, int(created_at), (uuid.decode("utf-8") for uuid in new))
            self._client.run(lease_scripts.INDEXED, keys, (count,))

    def recent(self) -> list[str]:
        """Flows that may have atoms which :meth:`flow_of_atom` does not know."""
        return sorted({_flow_of(each) for each in self._client.command("ZRANGE", self._keys.recent, 0, -1)})

    def sweep(self) -> None:
        """Settle claims whose holders died, some at a time."""
        some = self._client.run(scripts.OLD_CLAIMS, (self._keys.recent,), (_OLD_MICROSECONDS, _SWEPT))
        claims = [(_flow_of(each), each.rpartition(b"\0")[2]) for each in some]
        holds = self._client.run_many(
            (lease_scripts.HOLDS, self._keys.flow(flow_uuid), (token,)) for flow_uuid, token in claims
        )
        for (flow_uuid, token), held in zip(claims, holds, strict=True):
            if held == 0:
                self.index_atoms(flow_uuid)
                self.released(flow_uuid, token.decode("utf-8"))

    # -- flows and books, oldest first ----------------------------------------------------------------------------

    def flows(self, first: bytes, last: bytes, count: int) -> Iterator[list[bytes]]:
        """Members of all flows between two bounds of ZRANGEBYLEX, in pages of which the first has ``count``."""
        return self._pages(self._keys.flows, first, last, count)

    def books(self) -> Iterator[list[bytes]]:
        return self._pages(self._keys.books, b"-", b"+", _PAGE)

    def _pages(self, key: bytes, first: bytes, last: bytes, count: int) -> Iterator[list[bytes]]:
        size = min(count, _PAGE)
        while True:
            page: list[bytes] = self._client.command("ZRANGEBYLEX", key, first, last, "LIMIT", 0, size)
            if page:
                yield page
            if len(page) < size:
                return
            first, size = b"(" + page[-1], _PAGE

    # -- operations over several slots ----------------------------------------------------------------------------

    def open(self, operation: str, story: dict[str, Any], book: bytes, flows: Sequence[bytes]) -> None:
        """Note an operation before its first step, and list what it will create."""
        keys = (self._keys.open, self._keys.books, self._keys.flows)
        self._client.run(scripts.OPEN, keys, (operation.encode(), json.dumps(story).encode(), book, *flows))

    def opened(self) -> list[tuple[str, int, dict[str, Any]]]:
        """Operations that are under way, or whose process died: name, start, story."""
        flat = self._client.command("HGETALL", self._keys.open)
        found = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        entries = ((name.decode(), *text.split(b" ", 1)) for name, text in found)
        return [(name, int(at), json.loads(story)) for name, at, story in entries]

    def close(self, operation: str, books: Iterable[bytes] = (), flows: Iterable[bytes] = ()) -> None:
        """An operation is done; books and flows that are no longer there leave the index."""
        commands: list[tuple[Any, ...]] = [("ZREM", self._keys.books, member) for member in books]
        commands += [("ZREM", self._keys.flows, member) for member in flows]
        self._client.send_many([*commands, ("HDEL", self._keys.open, operation.encode())])

    def forget_flow(self, flow_uuid: str, answer: Sequence[Any]) -> None:
        """Remove what the index has of a flow that ``LEFTOVER`` describes, but for its atoms."""
        priority, created_at, number = (int(part or 0) for part in answer[1:4])
        self.remove_hint(flow_uuid, number, priority, created_at)
        self._client.command("ZREM", self._keys.flows, age(created_at, flow_uuid))

    def forget_atoms(self, flow_uuid: str, answer: Sequence[Any]) -> None:
        """Remove what the index has of the atoms of a flow that ``LEFTOVER`` describes."""
        # By then another flow of the same uuid may have atoms of the same uuids.
        flow = age(int(answer[2] or 0), flow_uuid)
        self._client.run_many(
            (scripts.FORGET_ATOM, (self._keys.atom(uuid.decode("utf-8")),), (flow,)) for uuid in answer[4]
        )


def _claimed(flow_uuid: str, token: str) -> bytes:
    return flow_uuid.encode() + b"\0" + token.encode()


def _flow_of(member: bytes) -> str:
    return member.rpartition(b"\0")[0].decode("utf-8")
