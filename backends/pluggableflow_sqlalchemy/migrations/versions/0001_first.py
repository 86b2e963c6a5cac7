# SPDX-License-Identifier: Apache-2.0
"""The first release: logbooks, flows, atoms, and an index for every query."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context
from pluggableflow_sqlalchemy.migrations.steps import create_index, create_table
from pluggableflow_sqlalchemy.types import Identity, LongText, Number, ShortText

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _short(name: str, **options: Any) -> sa.Column[str]:
    return sa.Column(name, ShortText, **options)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, LongText) for name in names]


def _numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, Number) for name in names]


def upgrade() -> None:
    prefix = context.config.attributes["prefix"]
    logbooks, flows, atoms = f"{prefix}logbooks", f"{prefix}flows", f"{prefix}atoms"
    create_table(
        logbooks,
        _short("uuid", primary_key=True),
        _short("name", nullable=False),
        *_texts("meta"),
        *_numbers("created_at", "updated_at"),
    )
    create_table(
        flows,
        _short("uuid", primary_key=True),
        sa.Column("parent_uuid", ShortText, sa.ForeignKey(f"{logbooks}.uuid", ondelete="CASCADE"), nullable=False),
        _short("name", nullable=False),
        _short("state", nullable=False),
        *_texts("meta", "factory"),
        *_numbers("revision"),
        _short("owner"),
        _short("token"),
        *_numbers("epoch", "lease_expires_at"),
        _short("request"),
        *_texts("request_by"),
        *_numbers("request_sequence", "request_handled", "wake_at", "deadline_at", "priority", "codec_version"),
        *_numbers("created_at", "updated_at"),
    )
    create_table(
        atoms,
        sa.Column("id", Identity, primary_key=True, autoincrement=True),
        sa.Column("uuid", ShortText, nullable=False, unique=True),
        sa.Column("parent_uuid", ShortText, sa.ForeignKey(f"{flows}.uuid", ondelete="CASCADE"), nullable=False),
        _short("name", nullable=False),
        _short("kind", nullable=False),
        _short("version", nullable=False),
        _short("state", nullable=False),
        _short("intention", nullable=False),
        *_numbers("attempt"),
        _short("signature"),
        *_texts("results", "failure", "revert_results", "revert_failure", "meta"),
        *_numbers("not_before", "deadline_at", "started_at", "finished_at", "revision"),
        sa.UniqueConstraint("parent_uuid", "name", name=f"{atoms}_by_flow"),
    )
    create_index(f"{logbooks}_by_age", logbooks, ["created_at", "uuid"])
    create_index(f"{flows}_by_age", flows, ["created_at", "uuid"])
    create_index(f"{flows}_by_book", flows, ["parent_uuid", "created_at", "uuid"])
    create_index(f"{flows}_by_state", flows, ["state", "priority", "created_at", "uuid"])
    create_index(f"{flows}_by_name", flows, ["name", "created_at", "uuid"])
    create_index(f"{flows}_by_owner", flows, ["owner", "created_at", "uuid"])
    create_index(f"{flows}_by_token", flows, ["token"])
