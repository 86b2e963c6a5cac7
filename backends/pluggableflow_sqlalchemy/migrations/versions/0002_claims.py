# SPDX-License-Identifier: Apache-2.0
"""An index in the order in which a scan claims, and one in the order in which a search by state lists.

So both cost the same with a few flows and with millions.
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

_PLACE = "CASE WHEN state IN ('PENDING', 'RESUMING', 'REVERTING', 'RUNNING') AND factory IS NOT NULL THEN -priority END"


def upgrade() -> None:
    flows = f"{context.config.attributes['prefix']}flows"
    drop_index(f"{flows}_by_state", flows)
    create_index(f"{flows}_by_state_and_age", flows, ["state", "created_at", "uuid"])
    place: Any = "claim_place"
    if op.get_bind().dialect.name in ("mysql", "mariadb"):  # MariaDB has no index of an expression
        add_column(flows, sa.Column(place, Number, sa.Computed(_PLACE, persisted=True)))
    else:
        place = sa.text(f"({_PLACE})")
    create_index(f"{flows}_by_claim", flows, [place, "created_at", "uuid"])
