# SPDX-License-Identifier: Apache-2.0
"""Indexes for scans that claim (free flows in their order, others by when they are free), and for searches by state.

So these cost the same with a few flows and with millions, whatever most of them do.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context, op
from pluggableflow_sqlalchemy.migrations.steps import add_column, create_index, drop_index
from pluggableflow_sqlalchemy.types import Number

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_RUNNABLE = "state IN ('PENDING', 'RESUMING', 'REVERTING', 'RUNNING') AND factory IS NOT NULL"
_PLACE = f"CASE WHEN {_RUNNABLE} AND token IS NULL AND wake_at IS NULL THEN -priority END"
_FROM = (
    f"CASE WHEN {_RUNNABLE} AND (token IS NOT NULL OR wake_at IS NOT NULL) THEN CASE"
    " WHEN token IS NULL OR coalesce(lease_expires_at, 0) < coalesce(wake_at, 0) THEN wake_at"
    " ELSE coalesce(lease_expires_at, 0) END END"
)


def upgrade() -> None:
    flows = f"{context.config.attributes['prefix']}flows"
    drop_index(f"{flows}_by_state", flows)
    create_index(f"{flows}_by_state_and_age", flows, ["state", "created_at", "uuid"])
    place, since = _expression(flows, "claim_place", _PLACE), _expression(flows, "claim_from", _FROM)
    create_index(f"{flows}_by_claim", flows, [place, "created_at", "uuid"])
    create_index(f"{flows}_by_claim_from", flows, [since])


def _expression(table: str, name: str, text: str) -> Any:
    """What to make an index of: the expression, or for MariaDB, which cannot do that, a column that holds it."""
    if op.get_bind().dialect.name not in ("mysql", "mariadb"):
        return sa.text(f"({text})")
    add_column(table, sa.Column(name, Number, sa.Computed(text, persisted=True)))
    return name
