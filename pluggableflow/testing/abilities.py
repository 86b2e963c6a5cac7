# SPDX-License-Identifier: Apache-2.0
"""What the author of a backend supplies to the kit, and how a store that lacks something says so."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NoReturn, Protocol

import pytest

from pluggableflow.connection import Connection
from pluggableflow.exceptions import NotFound
from pluggableflow.loader import connection_for
from pluggableflow.testing.records import Raw

#: Name of an ability, and what a store that has it can do.
ABILITIES = {
    "raw": "the fixture `raw` reads stored columns without the connection",
    "processes": "other processes open the same store, by the fixture `url`",
    "durability": "what was committed survives the death of every process and server",
    "frozen holder": "a process that is stopped in the middle of a commit keeps nobody waiting",
    "damage": "the fixture `damage` makes a stored record unreadable",
    "interrupt": "the fixture `interrupt` makes the driver fail in the middle of a commit",
    "server": "the fixture `server` kills, starts, pauses and resumes the database server",
}
#: An ability that the connection itself states, and its attribute.
STATED = {"processes": "shared", "durability": "durable"}


class Server(Protocol):
    """The database server behind the store of a test, and of no other test."""

    def kill(self) -> None:
        """Kill it without warning."""

    def start(self) -> None:
        """Start it again on the same data and address; returns when it answers."""

    def pause(self) -> None:
        """Stop all its processes where they are."""

    def resume(self) -> None:
        """Let them go on."""


class ConnectionKit:
    """The fixtures of :class:`pluggableflow.testing.ConnectionTests`.

    :cvar without: ability that the store lacks (one of ``ABILITIES``) to the reason, with which its tests are skipped
    """

    without: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        overridden = {
            name
            for base in cls.__mro__
            if base.__module__.startswith(f"{__package__}.")
            for name, test in vars(base).items()
            if name.startswith("test_") and inspect.getattr_static(cls, name) is not test
        }
        if overridden:
            raise TypeError(
                f"{cls.__name__} overrides {', '.join(sorted(overridden))}; tests of the kit cannot be overridden"
            )
        for ability, reason in cls.without.items():
            if ability not in ABILITIES:
                raise TypeError(f"{cls.__name__}.without: {ability!r} is none of {', '.join(ABILITIES)}")
            if not isinstance(reason, str) or not reason.strip():
                raise TypeError(f"{cls.__name__}.without: say why the store is without {ability!r}")
            fixture = "url" if ability == "processes" else ability
            if inspect.getattr_static(cls, fixture, None) is not vars(ConnectionKit).get(fixture):
                raise TypeError(f"{cls.__name__} supplies the fixture {fixture!r}, and says that it lacks {ability!r}")

    def needs(self, ability: str) -> None:
        """Skip the running test if the store was declared to be without an ability."""
        if ability in self.without:
            pytest.skip(f"without {ability!r}: {self.without[ability]}")

    def lacks(self, ability: str) -> NoReturn:
        """Skip the running test for the declared reason, or fail it because nothing was declared."""
        self.needs(ability)
        pytest.fail(
            f"{type(self).__name__} supplies nothing for {ability!r} ({ABILITIES[ability]});"
            f" if the store cannot have it, declare why: without = {{{ability!r}: 'the reason'}}",
            pytrace=False,
        )

    @pytest.fixture
    def url(self) -> str:
        """Where another process finds the store of this test; new and empty for each test."""
        self.lacks("processes")

    @pytest.fixture
    def connection(self, url: str) -> Iterator[Connection]:
        """The connection that is tested, to a new empty store; closed afterwards."""
        made = connection_for(url)
        made.upgrade()
        yield made
        made.close()

    @pytest.fixture
    def another(self, connection: Connection, url: str) -> Iterator[Callable[[], Connection]]:
        """Opens one more connection to the same store in this process; the kit closes it."""
        with contextlib.ExitStack() as opened:

            def connect() -> Connection:
                made = connection_for(url)
                opened.callback(made.close)
                return made

            yield connect

    @pytest.fixture
    def raw(self, connection: Connection) -> Raw:
        """Reads the stored columns of a "logbook", "flow" or "atom" by its uuid, ``None`` if there is none."""
        if "raw" not in self.without:
            self.lacks("raw")
        read: dict[str, Callable[[str], Any]] = {
            "logbook": lambda uuid: connection.get_logbook(uuid, lazy=True),
            "flow": lambda uuid: connection.get_flow_details(uuid, lazy=True),
            "atom": connection.get_atom_details,
        }

        def through(kind: str, uuid: str) -> dict[str, Any] | None:
            try:
                record: dict[str, Any] = read[kind](uuid).to_record()
            except NotFound:
                return None
            return record

        return through

    @pytest.fixture
    def damage(self) -> Callable[[str, str], None]:
        """Makes a stored record unreadable, in the way that is likeliest for this store; takes kind and uuid."""
        self.lacks("damage")

    @pytest.fixture
    def interrupt(self) -> Callable[[int], contextlib.AbstractContextManager[object]]:
        """Makes the driver of ``connection`` fail at its n-th step inside the ``with`` block."""
        self.lacks("interrupt")

    @pytest.fixture
    def server(self) -> Server:
        """The database server of this test."""
        self.lacks("server")
