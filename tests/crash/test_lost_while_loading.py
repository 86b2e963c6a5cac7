# SPDX-License-Identifier: Apache-2.0
"""A flow of MongoDB that another process takes, and goes on with, while its holder reads what atoms the flow has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pymongo
import pytest
from pluggableflow_mongodb import MongoDBConnection
from pymongo import monitoring

from pluggableflow import api
from pluggableflow.connection import Changes
from pluggableflow.exceptions import LeaseLost
from pluggableflow.lease import claim
from pluggableflow.testing.records import atom_record, saved_flow

PREFIX = "lost_"


class BeforeAtoms(monitoring.CommandListener):
    """Does something once, just before the driver asks for atoms."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act: Callable[[], object] | None = act

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command.get("find") == f"{PREFIX}atoms" and (act := self.act) is not None:
            self.act = None
            act()

    def succeeded(self, event: Any) -> None:
        pass

    failed = succeeded


def test_a_holder_whose_flow_was_taken_while_it_read_the_atoms_learns_that_its_lease_is_lost(mongodb_url: str) -> None:
    other = api.connect(f"{mongodb_url}?prefix={PREFIX}")
    detail = saved_flow(other)
    own = atom_record(detail, "a")

    def take() -> None:
        claimed = claim(other, detail.uuid, 30, force=True)
        other.commit(claimed.lease, claimed.revision, Changes(added=[atom_record(detail, "a")]))
        other.release(claimed.lease)

    with pymongo.MongoClient[Any](mongodb_url, event_listeners=[BeforeAtoms(take)]) as client:
        connection = MongoDBConnection(client.get_default_database(), prefix=PREFIX)
        held = claim(connection, detail.uuid, 30)
        with pytest.raises(LeaseLost):
            connection.commit(held.lease, held.revision, Changes(added=[own]))
    assert own["uuid"] not in {atom.uuid for atom in other.get_atoms_for_flow(detail.uuid)}
    other.clear_all()
    other.close()
