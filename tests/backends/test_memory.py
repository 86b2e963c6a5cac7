# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from pluggableflow import api
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.exceptions import OptionError
from pluggableflow.testing import ConnectionTests


class TestMemory(ConnectionTests):
    @pytest.fixture
    def connection(self) -> MemoryConnection:
        return MemoryConnection()

    @pytest.fixture
    def raw(self, connection: MemoryConnection) -> Any:
        def read(kind: str, uuid: str) -> dict[str, Any] | None:
            if kind == "atom":
                found: Any = next((atoms[uuid] for atoms in connection._atoms.values() if uuid in atoms), None)
            else:
                found = (connection._books if kind == "logbook" else connection._flows).get(uuid)
            return None if found is None else dict(found)

        return read


def test_a_url_with_parameters_is_refused() -> None:
    with pytest.raises(OptionError, match="colour"):
        api.connect("memory://?colour=red")


def test_a_test_of_the_kit_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match="test_close_may_be_called_again"):
        type("Cheating", (ConnectionTests,), {"test_close_may_be_called_again": lambda self: None})
