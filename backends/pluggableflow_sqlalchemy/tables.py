# SPDX-License-Identifier: Apache-2.0
"""The tables, as they are after all migrations."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, MetaData, Table

from pluggableflow.middleware import ATOM_COLUMNS, FLOW_COLUMNS, INTEGER_COLUMNS, LOGBOOK_COLUMNS
from pluggableflow_sqlalchemy.types import Identity, LongText, Number, ShortText

#: Text that is looked up or compared; all other text has no limit.
SHORT = frozenset(
    {"uuid", "parent_uuid", "name", "kind", "version", "state", "intention", "owner", "token", "request", "signature"}
)


class Tables:
    """Tables of one prefix.

    The column ``id`` is an atom's place among all atoms, in the order in which they were first written.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.metadata = MetaData()
        self.version = f"{prefix}version"
        self.logbooks = Table(f"{prefix}logbooks", self.metadata, *_columns(LOGBOOK_COLUMNS))
        self.flows = Table(f"{prefix}flows", self.metadata, *_columns(FLOW_COLUMNS, f"{prefix}logbooks"))
        key = Column("id", Identity, primary_key=True, autoincrement=True)
        self.atoms = Table(f"{prefix}atoms", self.metadata, key, *_columns(ATOM_COLUMNS, key=False))


def _columns(names: tuple[str, ...], parent: str | None = None, key: bool = True) -> list[Column[object]]:
    columns: list[Column[object]] = []
    for name in names:
        kind = Number if name in INTEGER_COLUMNS else ShortText if name in SHORT else LongText
        links = [ForeignKey(f"{parent}.uuid", ondelete="CASCADE")] if name == "parent_uuid" and parent else []
        columns.append(Column(name, kind, *links, primary_key=key and name == "uuid"))
    return columns
