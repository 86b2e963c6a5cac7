# SPDX-License-Identifier: Apache-2.0
"""Faults of the store in memory: commits."""

from __future__ import annotations

from backends.mutation_edits import Edit, Fault, faults_of

fault = faults_of("pluggableflow.connections.memory")
TORN = "a_commit_that_fails_half_way_leaves_nothing"
WHOLE = "a_commit_writes_all_its_changes_and_nothing_else"
AGAIN = "a_commit_that_is_sent_again_succeeds"
EVERY = "a_commit_writes_every_column"
COLUMNS = "a_commit_writes_only_the_given_columns"


_COMMITS = (
    fault(
        "the fence does not check the token", "a_stale_lease", Edit("commit", ' or flow["token"] != lease.token', "")
    ),
    fault(
        "the fence does not check the revision",
        "a_stale_lease",
        Edit("commit", 'if flow["revision"] != revision:', "if False:"),
    ),
    fault(
        "the fence takes any lower revision",
        "a_stale_lease or a_commit_that_is_sent_again_after",
        Edit("commit", 'if flow["revision"] != revision:', 'if flow["revision"] < revision:'),
    ),
    fault(
        "the fence asks for the epoch as well",
        "only_the_token_and_the_revision_decide",
        Edit(
            "commit", 'flow["token"] != lease.token:', '(flow["token"], flow["epoch"]) != (lease.token, lease.epoch):'
        ),
    ),
    fault(
        "a lease that ran out does not commit",
        "an_expired_lease_that_nobody_took_still_commits",
        Edit(
            "commit",
            'flow["token"] != lease.token:',
            'flow["token"] != lease.token or flow["lease_expires_at"] <= self._clock():',
        ),
    ),
    fault(
        "a commit that is sent again is refused",
        AGAIN,
        Edit("commit", 'if flow["revision"] == revision + 1:', "if False:"),
    ),
    fault(
        "a commit that is sent again is applied twice",
        AGAIN,
        Edit(
            "commit",
            'if flow["revision"] == revision + 1:\n                return revision + 1\n'
            '            if flow["revision"] != revision:',
            'if flow["revision"] not in (revision, revision + 1):',
        ),
        Edit("commit", 'flow["revision"] = revision + 1', 'flow["revision"] += 1'),
        Edit("commit", 'if record["uuid"] in self._flow_of:', "if False:"),
    ),
    fault(
        "a commit to a flow that is gone is reported as an unknown flow",
        "a_commit_to_a_flow_that_is_gone_is_refused",
        Edit("commit", "self._flows.get(lease.flow_uuid)", "self._flow(lease.flow_uuid)"),
    ),
    fault(
        "a commit that fails half-way leaves the flow's columns",
        TORN,
        Edit(
            "commit",
            "atoms = self._atoms[lease.flow_uuid]",
            "atoms = self._atoms[lease.flow_uuid]\n            flow.update(changes.flow)",
        ),
    ),
    fault(
        "a commit that fails half-way leaves new atoms",
        TORN,
        Edit(
            "commit",
            "self._check_atoms(lease.flow_uuid, [*changes.added, *renamed])",
            "self._put_atoms(lease.flow_uuid, changes.added[:1])\n"
            "            self._check_atoms(lease.flow_uuid, [*changes.added, *renamed])",
        ),
    ),
    fault(
        "a commit takes an atom name twice",
        TORN,
        Edit("commit", "self._check_atoms(lease.flow_uuid, [*changes.added, *renamed])", "pass"),
    ),
    fault(
        "a commit forgets new atoms",
        WHOLE,
        Edit("commit", '*({**record, "revision": 1} for record in changes.added), ', ""),
    ),
    fault(
        "a commit forgets changes of atoms",
        WHOLE,
        Edit("commit", "atoms[uuid].update(columns)", "pass"),
    ),
    fault("a commit forgets the flow's columns", WHOLE, Edit("commit", "flow.update(changes.flow)", "pass")),
    fault(
        "a commit raises the revision by two",
        f"{WHOLE} or {AGAIN}",
        Edit("commit", 'flow["revision"] = revision + 1', 'flow["revision"] = revision + 2'),
    ),
    fault(
        "a commit returns the revision it was given",
        WHOLE,
        Edit(
            "commit",
            'flow["updated_at"] = self._clock()\n            return revision + 1',
            'flow["updated_at"] = self._clock()\n            return revision',
        ),
    ),
    fault(
        "a commit of nothing is skipped",
        "an_empty_commit_raises_the_revision",
        Edit(
            "commit", "with self._lock:", "if not changes:\n            return revision + 1\n        with self._lock:"
        ),
    ),
    fault(
        "a commit does not empty a column",
        "a_commit_may_empty_a_column",
        Edit(
            "commit",
            "flow.update(changes.flow)",
            "flow.update({column: value for column, value in changes.flow.items() if value is not None})",
        ),
    ),
    fault(
        "a commit empties the columns of an atom that it does not name",
        COLUMNS,
        Edit(
            "commit",
            "atoms[uuid].update(columns)",
            'atoms[uuid].update({"results": None, "signature": None, "meta": None, **columns})',
        ),
    ),
    fault(
        "a changed atom goes to the end of the list",
        "ten_thousand_atoms_keep_their_order or a_commit_writes_all",
        Edit("commit", "atoms[uuid].update(columns)", "atoms[uuid] = {**atoms.pop(uuid), **columns}"),
    ),
    fault(
        "a commit that acknowledges a request forgets a newer one",
        "acknowledging_a_request_leaves_a_newer_one_pending",
        Edit(
            "commit",
            "flow.update(changes.flow)",
            "flow.update(changes.flow)\n"
            '            if "request_handled" in changes.flow:\n'
            '                flow["request"] = None',
        ),
    ),
)

#: Each column that a commit can write, by itself.
_FLOW_COLUMNS = ("name", "state", "meta", "factory", "request_handled", "wake_at", "deadline_at", "priority")
_ATOM_COLUMNS = (
    "version", "state", "intention", "attempt", "signature", "results", "failure", "revert_results",
    "revert_failure", "meta", "not_before", "deadline_at", "started_at", "finished_at",
)  # fmt: skip
_FORGOTTEN_COLUMNS = (
    *(
        fault(
            f"a commit forgets the flow's {column}",
            EVERY,
            Edit(
                "commit",
                "flow.update(changes.flow)",
                f"flow.update({{key: value for key, value in changes.flow.items() if key != {column!r}}})",
            ),
        )
        for column in _FLOW_COLUMNS
    ),
    *(
        fault(
            f"a commit forgets an atom's {column}",
            EVERY,
            Edit(
                "commit",
                "atoms[uuid].update(columns)",
                f"atoms[uuid].update({{key: value for key, value in columns.items() if key != {column!r}}})",
            ),
        )
        for column in _ATOM_COLUMNS
    ),
    fault(
        "a commit forgets an atom's new name",
        EVERY,
        Edit("commit", "{**atoms[uuid], **columns}", "atoms[uuid]"),
        Edit("commit", "atoms[uuid].update(columns)", 'atoms[uuid].update({**columns, "name": atoms[uuid]["name"]})'),
    ),
    fault(
        "a commit forgets a new atom's not_before",
        EVERY,
        Edit("commit", '{**record, "revision": 1}', '{**record, "revision": 1, "not_before": None}'),
    ),
)

COMMIT_FAULTS: tuple[Fault, ...] = (*_COMMITS, *_FORGOTTEN_COLUMNS)
