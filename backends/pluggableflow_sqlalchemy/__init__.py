# SPDX-License-Identifier: Apache-2.0
"""The connection to SQL databases, through SQLAlchemy Core: SQLite, PostgreSQL, MariaDB and MySQL."""

from pluggableflow_sqlalchemy.connection import SQLAlchemyConnection

__all__ = ["SQLAlchemyConnection"]
