# SPDX-License-Identifier: Apache-2.0
"""Makes and checks the tables."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, MetaData, String, Table, inspect, select
from sqlalchemy import Connection as SQLConnection

from pluggableflow.exceptions import ForeignStore, StorageFailure
from pluggableflow_sqlalchemy.database import Database
from pluggableflow_sqlalchemy.migrations import HEAD

_TASKFLOW_TABLES = {"logbooks", "flowdetails", "atomdetails"}


def upgrade(database: Database) -> None:
    """Bring the tables to ``HEAD``, in one transaction where the product can undo that."""
    with database.connection() as connection:
        version = _checked_version(database, connection)
    database.prepare()
    if version == HEAD:
        return
    from alembic import command
    from alembic.config import Config

    with database.transaction(database.begin_write) as connection, database.upgrading(connection):
        if _checked_version(database, connection) == HEAD:
            return
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        tables = database.tables
        config.attributes.update(connection=connection, version_table=tables.version, prefix=tables.prefix)
        command.upgrade(config, "head")


def validate(database: Database) -> None:
    """Check that the tables are of this release.

    :raises StorageFailure: they are not
    """
    version = None
    if database.exists():
        with database.connection() as connection:
            version = _checked_version(database, connection)
    if version is None:
        raise database.never_upgraded()
    if version != HEAD:
        raise StorageFailure(
            f"the tables in {database.where} are of version {version}, not {HEAD}; run `pluggableflow upgrade` on it"
        )


def _checked_version(database: Database, connection: SQLConnection) -> str | None:
    """The version of the tables, ``None`` if there are none.

    :raises ForeignStore: TaskFlow or a newer release made what is there
    """
    tables = set(inspect(connection).get_table_names())
    name = database.tables.version
    if name not in tables:
        if tables >= _TASKFLOW_TABLES:
            raise ForeignStore(
                f"{database.where} holds flows of TaskFlow; let TaskFlow finish them, then name another database"
            )
        return None
    column: Column[str] = Column("version_num", String)
    version = connection.execute(select(Table(name, MetaData(), column).c.version_num)).scalar()
    if version is not None and version > HEAD:
        raise ForeignStore(
            f"{database.where} was written by a newer release (version {version}, this one knows {HEAD});"
            " pip install --upgrade pluggableflow"
        )
    return version
