# SPDX-License-Identifier: Apache-2.0
"""Faults of SQLite: transactions, races, columns, errors of the driver, what is left open."""

from __future__ import annotations

from backends.mutation_edits import Edit, Fault, faults_of

connection_fault = faults_of("pluggableflow_sqlalchemy.connection")
database_fault = faults_of("pluggableflow_sqlalchemy.sqlite")
statement_fault = faults_of("pluggableflow_sqlalchemy.statements")
type_fault = faults_of("pluggableflow_sqlalchemy.types")
schema_fault = faults_of("pluggableflow_sqlalchemy.schema")

_TRANSACTIONS = (
    database_fault(
        "the fence's statement does not check the token",
        "a_stale_lease",
        Edit("_fence", " AND token = ?", " AND ? IS NOT NULL"),
    ),
    database_fault(
        "the fence's statement does not check the revision",
        "a_stale_lease or a_commit_that_is_sent_again",
        Edit("_fence", " AND revision = ?", " AND ? IS NOT NULL"),
    ),
    connection_fault(
        "the fence is read, and the commit written in another transaction",
        "frozen_in_a_commit",
        Edit(
            "commit",
            "self._leave_parent()\n",
            "stored = self.get_flow_details(lease.flow_uuid, lazy=True)\n"
            "        if (stored.token, stored.revision) != (lease.token, revision):\n"
            "            raise LeaseLost(lease.flow_uuid)\n"
            "        stored = self.get_flow_details(lease.flow_uuid, lazy=True)\n"
            '        lease = Lease(lease.flow_uuid, stored.token or "", lease.epoch, lease.owner, lease.expires_at)\n'
            "        revision = stored.revision\n"
            "        self._leave_parent()\n",
        ),
    ),
    connection_fault(
        "the flow and its atoms are written in two transactions",
        "killed_in_a_commit or a_reader_sees_whole_commits",
        Edit(
            "commit",
            "            applied = self._database.commit(lease, revision, changes)\n",
            "            applied = self._database.commit(lease, revision, Changes(changes.flow, changes.added))\n"
            "            if changes.changed and applied:\n"
            "                self._database.commit(lease, revision + 1, Changes(changed=changes.changed))\n"
            "                with self._writing() as connection:\n"
            '                    values = {"key": lease.flow_uuid, "revision": revision + 1}\n'
            "                    connection.execute(self._statements.change_flow, values)\n",
        ),
    ),
    database_fault(
        "a commit that the driver cuts short has written the flow",
        "the_driver_cuts_short",
        Edit(
            "_write",
            "bool(cursor.execute(*fence).rowcount) and all(",
            'bool(cursor.execute(*fence).rowcount and cursor.execute("COMMIT") and cursor.execute("BEGIN")) and all(',
        ),
    ),
    database_fault(
        "a commit that the driver cuts short leaves its transaction open",
        "the_driver_cuts_short",
        Edit("_write", 'cursor.execute("ROLLBACK")\n        raise', "pass\n        raise"),
    ),
    database_fault(
        "a commit that was refused leaves its transaction open",
        "a_stale_lease or a_commit_that_is_sent_again",
        Edit("_write", 'cursor.execute("COMMIT" if applied else "ROLLBACK")', 'applied and cursor.execute("COMMIT")'),
    ),
    database_fault(
        "a commit changes atoms of other flows",
        "a_commit_cannot_change_an_atom_that_is_not_there",
        Edit("_update_atom", " AND parent_uuid = ?", " AND ? IS NOT NULL"),
    ),
    database_fault(
        "a commit passes over atoms that are not there",
        "a_commit_cannot_change_an_atom_that_is_not_there",
        Edit("_write", " == len(rows) for", " >= 0 for"),
    ),
    connection_fault(
        "a process that claims looks and writes in two transactions",
        "of_many_threads_that_claim",
        Edit(
            "_take",
            "        connection.execute(self._statements.change_flow",
            '        connection.exec_driver_sql("COMMIT")\n'
            "        meet()\n"
            '        connection.exec_driver_sql("BEGIN IMMEDIATE")\n'
            "        connection.execute(self._statements.change_flow",
        ),
    ),
    connection_fault(
        "a request is counted and written in two transactions",
        "requests_of_many_threads",
        Edit(
            "request",
            "            connection.execute(self._statements.change_flow",
            '            connection.exec_driver_sql("COMMIT")\n'
            "            meet()\n"
            '            connection.exec_driver_sql("BEGIN IMMEDIATE")\n'
            "            connection.execute(self._statements.change_flow",
        ),
    ),
    connection_fault(
        "a flow and its atoms are read from two snapshots",
        "a_reader_sees_whole_commits",
        Edit(
            "get_flow_details",
            'return self._flow(connection, _found(connection, self._statements.flow, flow_uuid, "flow"), lazy)',
            'row = _found(connection, self._statements.flow, flow_uuid, "flow")\n'
            '            connection.exec_driver_sql("COMMIT")\n'
            "            meet()\n"
            '            connection.exec_driver_sql("BEGIN")\n'
            "            return self._flow(connection, row, lazy)",
        ),
    ),
    connection_fault(
        "a lease that another takes meanwhile is renewed for both",
        "renewing_a_lost_lease",
        Edit(
            "renew",
            "            row = _first(connection, self._statements.held_flow, **mine)",
            "            row = _first(connection, self._statements.flow, key=lease.flow_uuid)",
        ),
    ),
)

_DELETIONS = (
    database_fault(
        "a destroyed book leaves rows below it",
        "destroying_a_book_takes_everything",
        Edit("_set_up", "PRAGMA foreign_keys=ON", "PRAGMA foreign_keys=OFF"),
    ),
    schema_fault(
        "a second upgrade makes the tables anew",
        "upgrade_may_be_called_again",
        Edit(
            "upgrade",
            "    if version == HEAD:\n        return\n    from",
            "    if version == HEAD:\n"
            "        with database.transaction(database.begin_write) as connection:\n"
            "            database.tables.metadata.drop_all(connection)\n"
            "            database.tables.metadata.create_all(connection)\n"
            "        return\n"
            "    from",
        ),
    ),
    connection_fault(
        "of those who upgrade at once one fails",
        "processes_that_upgrade_a_new_store_at_once",
        Edit("", "@_resent(idempotent=True)\n    def upgrade", "def upgrade"),
        Edit(
            "upgrade",
            "with self._errors():",
            'self._database.begin_write = ("BEGIN", "SELECT * FROM sqlite_master")\n'
            "        self._database.upgrading = lambda _: contextlib.nullcontext(meet())\n"
            "        with self._errors():",
        ),
    ),
)

_NAMES = (
    type_fault(
        "text is compared without case",
        "every_condition or compared_by_code_point",
        Edit("", '"C" if dialect.name == "postgresql" else None', '"NOCASE"'),
    ),
    type_fault(
        "text is compared without blanks at its end",
        "compared_by_code_point",
        Edit("", '"C" if dialect.name == "postgresql" else None', '"RTRIM"'),
    ),
    statement_fault(
        "a search takes names by pattern",
        "compared_by_code_point",
        Edit("found", "flows.name == name", "flows.name.like(name)"),
    ),
    statement_fault(
        "atoms are in the order of their uuids",
        "ten_thousand_atoms",
        Edit("__init__", "order_by(atoms.c.id)", "order_by(atoms.c.uuid)"),
    ),
    statement_fault(
        "lists have no second order",
        "flows_of_one_age",
        Edit("_age", "table.c.created_at, table.c.uuid", "table.c.created_at, table.c.name"),
    ),
    statement_fault(
        "the second page leaves out flows of one age",
        "flows_of_one_age",
        Edit("found", 'or_(flows.created_at > last["created_at"], same_time)', 'flows.created_at > last["created_at"]'),
    ),
    database_fault(
        "a large text is cut off by the driver",
        "a_value_of_a_megabyte",
        Edit(
            "commit",
            "(*columns.values(), uuid, lease.flow_uuid)",
            "(*(v[: 2**16] if isinstance(v, str) else v for v in columns.values()), uuid, lease.flow_uuid)",
        ),
    ),
)

_DRIVER = (
    connection_fault(
        "an error of the driver leaks",
        "the_driver_cuts_short",
        Edit("commit", "except self._database.errors as error:", "except ZeroDivisionError as error:"),
    ),
    connection_fault(
        "every commit leaves a file open",
        "leave_nothing_open",
        Edit(
            "commit", "fault = commit_faults(self, changes)", "os.dup(0)\n        fault = commit_faults(self, changes)"
        ),
    ),
    connection_fault(
        "every search leaves a file open",
        "leave_nothing_open",
        Edit("find_flows", "with self._reading()", "os.dup(0)\n        with self._reading()"),
    ),
    database_fault(
        "closing leaves the connection of commits open",
        "leave_nothing_open",
        Edit("close", "close_quietly(self._hot)", "INHERITED.append(self._hot)"),
    ),
    database_fault(
        "closing leaves the pool open",
        "leave_nothing_open",
        Edit("close", "        super().close()", "        INHERITED.append(self.engine)"),
    ),
    database_fault(
        "closing twice is an error of SQLite",
        "close_may_be_called_again",
        Edit(
            "close",
            "if self._hot",
            'if self._hot is False:\n                raise StorageFailure("again")\n            if self._hot',
        ),
        Edit("close", "self._hot = None", "self._hot = False"),
    ),
)

SQLITE_FAULTS: tuple[Fault, ...] = (*_TRANSACTIONS, *_DELETIONS, *_NAMES, *_DRIVER)
