# SPDX-License-Identifier: Apache-2.0
"""An index in the order in which a scan claims, and one in the order in which a search by state lists.

So both cost the same with a few flows and with millions.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op
from pluggableflow_sqlalchemy.migrations.steps import add_column, create_index, drop_index
from pluggableflow_sqlalchemy.types import Number

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_RUNNABLE = "state IN ('PENDING', 'RESUMING', 'REVERTING', 'RUNNING') AND factory IS NOT NULL"


def upgrade() -> None:
    flows = f"{context.config.attributes['prefix']}flows"
    drop_index(f"{flows}_by_state", flows)
    create_index(f"{flows}_by_state_and_age", flows, ["state", "created_at", "uuid"])
    if op.get_bind().dialect.name in ("mysql", "mariadb"):
        place = sa.Computed(f"CASE WHEN {_RUNNABLE} THEN -priority END", persisted=True)
        add_column(flows, sa.Column("claim_place", Number, place))
        create_index(f"{flows}_by_claim", flows, ["claim_place", "created_at", "uuid"])
    else:
        runnable = sa.text(_RUNNABLE)
        columns = [sa.text("priority DESC"), "created_at", "uuid"]
        create_index(f"{flows}_by_claim", flows, columns, postgresql_where=runnable, sqlite_where=runnable)
