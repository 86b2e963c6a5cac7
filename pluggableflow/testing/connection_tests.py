# SPDX-License-Identifier: Apache-2.0
"""The contract of :class:`pluggableflow.connection.Connection`, as tests.

The author of a backend subclasses :class:`ConnectionTests` and supplies the fixture ``url``, by which a new empty store
is found (or ``connection`` itself, where no URL leads to the store), and ``raw``, a function ``raw(kind, uuid)`` that
reads the stored columns of a ``"logbook"``, ``"flow"`` or ``"atom"`` without the connection (``None`` if there is no
such record), so that writes are checked without the read path::

    class TestMine(ConnectionTests):
        without = {"server": "the store is a file"}

        @pytest.fixture
        def url(self, tmp_path): ...

        @pytest.fixture
        def raw(self, url): ...

Some tests need more; :mod:`pluggableflow.testing.abilities` lists it. A store that cannot have an ability declares it
in ``without``, with the reason; what is neither supplied nor declared fails. A test of the kit cannot be overridden.
"""

from __future__ import annotations

from pluggableflow.testing.connection_commits import CommitTests
from pluggableflow.testing.connection_damage import DamageTests
from pluggableflow.testing.connection_faults import FaultTests
from pluggableflow.testing.connection_ownership import OwnershipTests
from pluggableflow.testing.connection_processes import ProcessTests
from pluggableflow.testing.connection_races import RaceTests
from pluggableflow.testing.connection_records import RecordTests
from pluggableflow.testing.connection_values import ValueTests
from pluggableflow.testing.records import atom_record, claimed, new_book, saved_flow

__all__ = ["ConnectionTests", "atom_record", "claimed", "new_book", "saved_flow"]


class ConnectionTests(
    RecordTests, CommitTests, ValueTests, DamageTests, OwnershipTests, RaceTests, ProcessTests, FaultTests
):
    """Every method of the contract. See the module."""
