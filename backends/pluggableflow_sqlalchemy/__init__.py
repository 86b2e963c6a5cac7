# SPDX-License-Identifier: Apache-2.0
"""The connection to SQL databases, through SQLAlchemy Core: SQLite."""

from pluggableflow_sqlalchemy.connection import SQLAlchemyConnection

__all__ = ["SQLAlchemyConnection"]
