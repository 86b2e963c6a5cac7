# SPDX-License-Identifier: Apache-2.0
"""Whatever runs at the same time, no atom outlives its flow in an SQL database, where no foreign key sees to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pluggableflow_sqlalchemy import SQLAlchemyConnection
from sqlalchemy import func, select

from pluggableflow import api
from pluggableflow.connection import Changes
from pluggableflow.exceptions import LeaseLost, NotFound
from pluggableflow.middleware import FlowDetail, new_uuid
from pluggableflow.testing.records import LONG, atom_record, claimed, saved_flow

ROUNDS = 15


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLAlchemyConnection]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/flows.db"
    else:
        url = f"{request.getfixturevalue(f'{request.param}_url')}?prefix=s{new_uuid()[:8]}_"
    made = api.connect(url)
    assert isinstance(made, SQLAlchemyConnection)
    yield made
    made.clear_all()
    made.close()


def strays(connection: SQLAlchemyConnection) -> int:
    tables = connection._database.tables
    kept = select(tables.flows.c.uuid)
    with connection._reading() as database:
        query = select(func.count()).select_from(tables.atoms).where(tables.atoms.c.parent_uuid.not_in(kept))
        return int(database.execute(query).scalar_one())


class Committing:
    """Adds atoms to a flow in a thread, one a commit, until the flow is gone."""

    def __init__(self, connection: SQLAlchemyConnection, flow: FlowDetail) -> None:
        self._connection, self._flow = connection, flow
        self._claim = claimed(connection, flow, LONG)
        self.some = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        revision = self._claim.revision
        try:
            while True:
                added = [atom_record(self._flow, f"atom {revision}")]
                revision = self._connection.commit(self._claim.lease, revision, Changes(added=added))
                if revision > 2:
                    self.some.set()
        except BaseException as error:
            self.error = error
        finally:
            self.some.set()

    def end(self) -> BaseException | None:
        self._thread.join()
        return self.error


@pytest.mark.parametrize("way", ["destroy", "clear"])
def test_no_atom_is_left_of_a_flow_that_goes_while_it_is_committed_to(
    connection: SQLAlchemyConnection, way: str
) -> None:
    for _ in range(ROUNDS):
        flow = saved_flow(connection)
        holder = Committing(connection, flow)
        assert holder.some.wait(60)
        if way == "destroy":
            assert flow.parent_uuid is not None
            connection.destroy_logbook(flow.parent_uuid, force=True)
        else:
            connection.clear_all()
        assert isinstance(holder.end(), LeaseLost)
        with pytest.raises(NotFound):
            connection.get_flow_details(flow.uuid)
        assert strays(connection) == 0


def test_a_store_that_is_cleared_while_others_save_to_it_keeps_whole_flows(connection: SQLAlchemyConnection) -> None:
    saved: list[FlowDetail] = []
    stop = threading.Event()

    def save() -> None:
        while not stop.is_set():
            saved.append(saved_flow(connection))

    thread = threading.Thread(target=save)
    thread.start()
    try:
        for _ in range(ROUNDS):
            connection.clear_all()
    finally:
        stop.set()
        thread.join()
    assert saved and strays(connection) == 0
    for detail in connection.find_flows(limit=1000):
        kept = connection.get_flow_details(detail.uuid)
        assert [atom.name for atom in kept] == ["task", "retry"]
