# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from pluggableflow import api
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.exceptions import OptionError
from pluggableflow.testing import ConnectionTests


class TestMemory(ConnectionTests):
    without = {
        "processes": "the store lives in this process",
        "durability": "the store ends with its connection",
        "interrupt": "there is no driver",
        "server": "there is no server",
    }

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

    @pytest.fixture
    def damage(self, connection: MemoryConnection) -> Any:
        def write(kind: str, uuid: str) -> None:
            if kind == "atom":
                connection._atoms[connection._flow_of[uuid]][uuid]["results"] = "{broken"
            else:
                (connection._books if kind == "logbook" else connection._flows)[uuid]["meta"] = "{broken"

        return write


def test_a_url_with_parameters_is_refused() -> None:
    with pytest.raises(OptionError, match="colour"):
        api.connect("memory://?colour=red")
