# SPDX-License-Identifier: Apache-2.0
"""No foreign key of atoms: who adds one holds the lock of its flow, and the product would look the flow up for each.

In SQLite it stays, since it could only be removed by copying the table, and a look at a row just written costs nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    atoms = f"{context.config.attributes['prefix']}atoms"
    for key in sa.inspect(op.get_bind()).get_foreign_keys(atoms):
        op.drop_constraint(str(key["name"]), atoms, type_="foreignkey")
