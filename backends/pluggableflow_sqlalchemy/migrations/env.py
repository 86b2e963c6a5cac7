# SPDX-License-Identifier: Apache-2.0
"""Run by Alembic: migrates over the connection that ``upgrade`` passes in, inside its transaction."""

from __future__ import annotations

from alembic import context

options = context.config.attributes
context.configure(connection=options["connection"], version_table=options["version_table"], transactional_ddl=False)
context.run_migrations()
