# SPDX-License-Identifier: Apache-2.0
"""Changes that can be made again: where MariaDB and MySQL commit each by itself, some may be left of an upgrade that
was cut short."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op


def _inspector() -> sa.Inspector:
    inspector: sa.Inspector = sa.inspect(op.get_bind())
    return inspector


def create_table(name: str, *parts: Any) -> None:
    if not _inspector().has_table(name):
        op.create_table(name, *parts, mysql_engine="InnoDB", mariadb_engine="InnoDB")


def add_column(table: str, column: sa.Column[Any]) -> None:
    if column.name not in {each["name"] for each in _inspector().get_columns(table)}:
        op.add_column(table, column)


def create_index(name: str, table: str, columns: Sequence[Any], **options: Any) -> None:
    if name not in _indexes(table):
        op.create_index(name, table, columns, **options)


def drop_index(name: str, table: str) -> None:
    if name in _indexes(table):
        op.drop_index(name, table)


def _indexes(table: str) -> set[str | None]:
    """Names, but of indexes of expressions, which the products with such steps do not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        return {each["name"] for each in _inspector().get_indexes(table)}
