# SPDX-License-Identifier: Apache-2.0
"""All faults of which the kit for connections must catch each, and where the backends' own tests stand."""

from __future__ import annotations

from backends.mutation_commits import COMMIT_FAULTS
from backends.mutation_edits import Fault
from backends.mutation_ownership import OWNERSHIP_FAULTS
from backends.mutation_records import RECORD_FAULTS
from backends.mutation_sqlite import SQLITE_FAULTS
from backends.mutation_values import VALUE_FAULTS

FAULTS: tuple[Fault, ...] = (*COMMIT_FAULTS, *RECORD_FAULTS, *VALUE_FAULTS, *OWNERSHIP_FAULTS, *SQLITE_FAULTS)

#: Backend to the class that certifies it.
TESTS = {
    "memory": "backends/test_memory.py::TestMemory",
    "pluggableflow_sqlalchemy": "backends/test_sqlite.py::TestFile",
}

#: Backend to no fault at all, with the tests that are tried first for any of its faults.
CONTROL: dict[str, Fault] = {
    store: Fault(
        f"none in {store}", store, " or ".join(sorted({fault.tests for fault in FAULTS if fault.store == store})), ()
    )
    for store in TESTS
}

#: Imported once for all, and not what is to be faulty.
SHARED = (
    "pluggableflow.testing",
    "alembic.command",
    "alembic.config",
    "sqlalchemy.dialects.sqlite",
    "stevedore.named",
    "sqlite3",
    "servers",
)
FAULTY = ("pluggableflow.connections.memory", "pluggableflow_sqlalchemy")
