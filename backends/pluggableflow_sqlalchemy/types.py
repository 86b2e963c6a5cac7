# SPDX-License-Identifier: Apache-2.0
"""The column types, which also the migrations use: a change to one of them needs a migration of its own.

Text is compared by code point: SQLite does it by default, PostgreSQL with the collation "C", MariaDB and MySQL with
a binary collation that does not pad with blanks (their others hold 'a' and 'a ' for equal, most also 'a' and 'A').
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Integer, String, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

#: The first collation of each product that MariaDB has had since 10.2, MySQL since 8.0.17.
MARIADB_COLLATION, MYSQL_COLLATION = "utf8mb4_nopad_bin", "utf8mb4_0900_bin"
_MYSQL_NAMES = ("mysql", "mariadb")


def _collation(dialect: Dialect) -> dict[str, Any]:
    is_mariadb = getattr(dialect, "is_mariadb", False)
    return {"charset": "utf8mb4", "collation": MARIADB_COLLATION if is_mariadb else MYSQL_COLLATION}


class _ShortText(TypeDecorator[str]):
    """Names, ids and words of at most 255 characters."""

    impl = String(255)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in _MYSQL_NAMES:
            return dialect.type_descriptor(mysql.VARCHAR(255, **_collation(dialect)))
        return dialect.type_descriptor(String(255, collation="C" if dialect.name == "postgresql" else None))


class _LongText(TypeDecorator[str]):
    """Text without a limit below that of the product."""

    impl = Text()
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in _MYSQL_NAMES:
            return dialect.type_descriptor(mysql.LONGTEXT(**_collation(dialect)))
        return dialect.type_descriptor(Text())


ShortText = _ShortText()
LongText = _LongText()
Number = BigInteger()
#: SQLite makes ids by itself for a column of the type INTEGER only.
Identity = BigInteger().with_variant(Integer(), "sqlite")
