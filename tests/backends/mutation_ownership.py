# SPDX-License-Identifier: Apache-2.0
"""Faults of the store in memory: leases, scans, requests."""

from __future__ import annotations

from backends.mutation_edits import Edit, Fault, faults_of

fault = faults_of("pluggableflow.connections.memory")

_CLAIMS = (
    fault(
        "two who claim a flow at once both get it",
        "many_threads_that_claim_one_flow",
        Edit("claim", "with self._lock:", "if True:"),
        Edit("claim", 'flow["epoch"] += 1', 'meet()\n                flow["epoch"] += 1'),
    ),
    fault("a claim leaves the epoch", "a_claim_takes_a_free_flow", Edit("claim", 'flow["epoch"] += 1', "pass")),
    fault(
        "a claim that is sent again raises the epoch",
        "a_claim_that_is_sent_again_keeps_its_epoch",
        Edit("claim", 'flow["epoch"] += 1', "pass"),
        Edit("claim", "flow.update(token=token", 'flow["epoch"] += 1\n            flow.update(token=token'),
    ),
    fault(
        "a claim that is sent again is refused",
        "a_claim_that_is_sent_again_keeps_its_epoch",
        Edit("claim", 'if flow["token"] != token:', "if True:"),
    ),
    fault(
        "a claim that is sent again does not extend the lease",
        "a_claim_that_is_sent_again_only_extends",
        Edit(
            "claim",
            'if flow["token"] != token:',
            'if flow["token"] == token:\n                expires_at = flow["lease_expires_at"]\n            else:',
        ),
    ),
    fault(
        "a claim takes a flow from a live lease",
        "a_claim_of_a_leased_flow_names_the_owner",
        Edit("claim", "self._refuse_if_leased(flow)", "pass"),
    ),
    fault(
        "a claim evicts whatever the epoch",
        "a_claim_of_a_leased_flow_names_the_owner",
        Edit("claim", ' or evict_epoch != flow["epoch"]', ""),
    ),
    fault(
        "a claim evicts any lower epoch",
        "sent_again_after_a_takeover or evict_one_holder",
        Edit("claim", 'evict_epoch != flow["epoch"]', 'evict_epoch > flow["epoch"]'),
    ),
    fault(
        "a claim never evicts",
        "an_expired_or_evicted_lease",
        Edit("claim", "if evict_epoch is None or", "if True or"),
    ),
    fault(
        "a claim does not take a flow whose lease ran out",
        "an_expired_or_evicted_lease",
        Edit("_refuse_if_leased", "self._clock()", "0"),
    ),
    fault(
        "a claim to evict is refused where the flow is free",
        "a_claim_by_uuid_takes_any_free_flow",
        Edit(
            "claim",
            'if evict_epoch is None or evict_epoch != flow["epoch"]:',
            'if evict_epoch not in (None, flow["epoch"]):\n'
            "                    raise LeaseLost(f'{flow_uuid} has no lease of {evict_epoch}')\n"
            "                if evict_epoch is None:",
        ),
    ),
    fault(
        "a refused claim has raised the epoch",
        "a_claim_of_a_leased_flow_names_the_owner",
        Edit("claim", '                flow["epoch"] += 1\n', ""),
        Edit("claim", 'if flow["token"] != token:', 'if flow["token"] != token:\n                flow["epoch"] += 1'),
    ),
    fault(
        "a claim by uuid takes no finished flow",
        "a_claim_by_uuid_takes_any_free_flow",
        Edit("claim", "if flow is None:", 'if flow is None or flow["state"] not in flow_states.UNFINISHED:'),
    ),
    fault(
        "a claim by uuid waits for the flow to wake",
        "a_claim_by_uuid_takes_any_free_flow",
        Edit("claim", "if flow is None:", 'if flow is None or (flow["wake_at"] or 0) > now:'),
    ),
    fault(
        "a claim changes the revision",
        "a_claim_takes_a_free_flow or changes_neither_revision",
        Edit("claim", "flow.update(token=token", 'flow["revision"] += 1\n            flow.update(token=token'),
    ),
    fault(
        "a claim tells the first revision for the flow's",
        "only_extends_the_lease or scan_sees_what_commits",
        Edit("claim", 'return Claim(lease, flow["revision"]', "return Claim(lease, 0"),
    ),
    fault(
        "a claim does not tell of a request",
        "a_request_stays_pending",
        Edit("claim", "pending_request(flow)", "None"),
    ),
    fault(
        "a claim forgets fractions of a second",
        "a_fraction_of_a_second",
        Edit("claim", "int(lease_seconds * 1e6)", "int(lease_seconds) * 1_000_000"),
    ),
    fault(
        "a claim does not store its owner",
        "a_claim_takes_a_free_flow",
        Edit("claim", "owner=owner, ", ""),
    ),
    fault("a claim cuts its token off", "a_token_of_64", Edit("claim", "token=token", "token=token[:63]")),
    fault(
        "a refused claim does not tell how long",
        "updates_are_refused",
        Edit("_refuse_if_leased", "self._clock()", "self._clock() // 10**6"),
    ),
)

_SCANS = (
    fault(
        "a scan that is sent again takes another flow",
        "a_scan_that_is_sent_again",
        Edit("_next_claimable", 'flow["token"] == token]', "False]"),
    ),
    fault(
        "a scan ignores when a flow wakes",
        "a_scan_takes_what_is_runnable",
        Edit("_next_claimable", 'flow["wake_at"] is None or', "True or"),
    ),
    fault(
        "a scan takes no flow that was to wake",
        "a_scan_takes_what_is_runnable",
        Edit("_next_claimable", 'or flow["wake_at"] <= now', ""),
    ),
    fault(
        "a scan ignores priorities",
        "a_scan_orders_by_any_priority",
        Edit("_next_claimable", '(-flow["priority"], *_age(flow))', "_age(flow)"),
    ),
    fault(
        "a scan takes the lowest priority first",
        "a_scan_orders_by_any_priority",
        Edit("_next_claimable", '-flow["priority"]', 'flow["priority"]'),
    ),
    fault(
        "a scan takes the newest first",
        "a_scan_takes_what_is_runnable",
        Edit("_next_claimable", "*_age(flow))", '-flow["created_at"])'),
    ),
    fault(
        "a scan takes suspended flows",
        "a_scan_takes_what_is_runnable",
        Edit("_next_claimable", "in flow_states.RUNNABLE", 'in (*flow_states.RUNNABLE, "SUSPENDED")'),
    ),
    fault(
        "a scan takes finished flows",
        "a_scan_takes_what_is_runnable",
        Edit("_next_claimable", "in flow_states.RUNNABLE", 'in (*flow_states.RUNNABLE, "SUCCESS")'),
    ),
    *(
        fault(
            f"a scan takes no flow that is {state}",
            "a_scan_takes_what_is_runnable",
            Edit("_next_claimable", "in flow_states.RUNNABLE", f"in flow_states.RUNNABLE - {{{state!r}}}"),
        )
        for state in ("RUNNING", "REVERTING", "RESUMING")
    ),
    fault(
        "a scan takes flows without a factory",
        "a_scan_takes_what_is_runnable",
        Edit("_next_claimable", 'flow["factory"] is not None', "True"),
    ),
    fault(
        "a scan takes leased flows",
        "sent_again_after_a_takeover",
        Edit("_next_claimable", 'flow["token"] is None or', "True or"),
        Edit("claim", "self._refuse_if_leased(flow)", "flow_uuid is not None and self._refuse_if_leased(flow)"),
    ),
    fault(
        "a scan stops at a leased flow",
        "a_scan_takes_what_is_runnable or threads_that_scan",
        Edit("_next_claimable", 'flow["token"] is None or', "True or"),
    ),
    fault(
        "a scan takes no flow whose lease ran out",
        "an_expired_and_a_released_flow_again",
        Edit("_next_claimable", 'or flow["lease_expires_at"] <= now', ""),
    ),
)

_OTHERS = (
    fault(
        "a scan takes flows of one age in any order",
        "flows_of_one_age",
        Edit("_next_claimable", "*_age(flow))", 'flow["created_at"], [-ord(letter) for letter in flow["uuid"]])'),
    ),
    fault(
        "a lost lease is not told where an atom is missing as well",
        "cannot_change_an_atom_that_is_not_there",
        Edit(
            "commit",
            "flow = self._flows.get(lease.flow_uuid)",
            "for uuid in changes.changed:\n"
            "                if uuid not in self._flow_of:\n"
            "                    raise NotFound(uuid)\n"
            "            flow = self._flows.get(lease.flow_uuid)",
        ),
    ),
)

_RACES = (
    fault(
        "two who commit at once are both applied",
        "many_commits_on_one_revision",
        Edit("commit", "with self._lock:", "if True:"),
        Edit(
            "commit", "atoms = self._atoms[lease.flow_uuid]", "meet()\n            atoms = self._atoms[lease.flow_uuid]"
        ),
    ),
    *(
        fault(
            f"{what} comes over a claim beside it",
            "an_update_beside_a_claim",
            Edit(function, "with self._lock:", "if True:"),
            Edit(function, "self._check_atoms(", "meet()\n            self._check_atoms("),
        )
        for what, function in (("an update", "update_flow_details"), ("an atom's update", "update_atom_details"))
    ),
    fault(
        "a release comes over a claim beside it",
        "a_release_beside_a_takeover",
        Edit("release", "with self._lock:", "if True:"),
        Edit("release", 'flow["token"] = flow', 'meet()\n                flow["token"] = flow'),
    ),
    fault(
        "two who save a book at once both create it",
        "many_threads_save_at_once",
        Edit("save_logbook", "with self._lock:", "if True:"),
        Edit("save_logbook", "if stored is None:", "meet()\n            if stored is None:"),
    ),
)

_RENEWALS = (
    fault(
        "a lost lease is renewed",
        "renewing_a_lost_lease or owners_and_tokens",
        Edit("renew", ' or flow["token"] != lease.token', ""),
    ),
    fault(
        "renewing does not extend the lease",
        "renewing_extends_the_lease",
        Edit("renew", 'lease.expires_at = flow["lease_expires_at"] =', "lease.expires_at ="),
    ),
    fault(
        "renewing does not tell the lease",
        "renewing_extends_the_lease",
        Edit("renew", 'lease.expires_at = flow["lease_expires_at"] =', 'flow["lease_expires_at"] ='),
    ),
    fault(
        "renewing does not tell of a request",
        "a_request_stays_pending",
        Edit("renew", "pending_request(flow)", "None"),
    ),
    fault(
        "renewing tells of a request that was acknowledged",
        "a_request_stays_pending",
        Edit(
            "renew",
            "pending_request(flow)",
            'pending_request({**flow, "request_handled": -1})',
        ),
    ),
    fault(
        "a lease that ran out is not renewed",
        "renewing_extends_the_lease",
        Edit(
            "renew",
            'flow["token"] != lease.token:',
            'flow["token"] != lease.token or flow["lease_expires_at"] <= self._clock():',
        ),
    ),
    fault(
        "renewing only lengthens a lease",
        "a_lease_may_be_shortened",
        Edit("renew", "now + int(lease_seconds * 1e6)", "max(lease.expires_at, now + int(lease_seconds * 1e6))"),
    ),
    fault(
        "somebody else's lease is released",
        "releasing_frees_the_flow or owners_and_tokens",
        Edit("release", ' and flow["token"] == lease.token', ""),
    ),
    fault(
        "releasing forgets the owner",
        "releasing_frees_the_flow",
        Edit("release", '= flow["lease_expires_at"] =', '= flow["lease_expires_at"] = flow["owner"] ='),
    ),
    fault(
        "releasing starts the epochs anew",
        "releasing_frees_the_flow",
        Edit("release", "= None", '= None\n                flow["epoch"] = 0'),
    ),
    fault(
        "releasing leaves the token",
        "releasing_frees_the_flow",
        Edit("release", 'flow["token"] = flow["lease_expires_at"] = None', 'flow["lease_expires_at"] = 0'),
    ),
    fault(
        "releasing a lost lease is an error",
        "releasing_frees_the_flow or renewing_a_lost_lease",
        Edit(
            "release",
            "if flow is not None and",
            'if flow is None or flow["token"] != lease.token:\n'
            "                raise LeaseLost(lease.flow_uuid)\n            if",
        ),
    ),
)

_REQUESTS = (
    fault(
        "a finished flow takes a request",
        "a_finished_flow_takes_no_request",
        Edit("request", 'if flow["state"] not in flow_states.UNFINISHED:', "if False:"),
    ),
    fault(
        "a suspended flow takes no request",
        "in_every_unfinished_state_only",
        Edit("request", "flow_states.UNFINISHED", 'flow_states.UNFINISHED - {"SUSPENDED"}'),
    ),
    fault(
        "a request is of any kind",
        "a_finished_flow_takes_no_request",
        Edit("request", "check_request_kind(kind)", "pass"),
        Edit(
            "request",
            "raise InvalidState",
            'if kind in ("SUSPEND", "CANCEL", "CANCEL_AND_REVERT"):\n                    raise InvalidState',
        ),
    ),
    fault(
        "requests are not counted",
        "a_request_stays_pending",
        Edit("request", '"request_sequence"] += 1', '"request_sequence"] = 1'),
    ),
    fault(
        "a request does not replace an earlier one",
        "a_request_stays_pending",
        Edit(
            "request",
            "flow.update(request=kind, request_by=by)",
            'flow["request"] = flow["request"] or kind\n            flow["request_by"] = by',
        ),
    ),
    fault(
        "a request forgets who asks",
        "a_request_stays_pending",
        Edit("request", ", request_by=by", ""),
    ),
    fault(
        "a request takes the lease away",
        "a_request_touches_nothing_else",
        Edit("request", "request_by=by)", "request_by=by, token=None)"),
    ),
    fault(
        "a request raises the revision",
        "a_request_touches_nothing_else",
        Edit("request", "request_by=by)", 'request_by=by, revision=flow["revision"] + 1)'),
    ),
    fault(
        "a request acknowledges the one before it",
        "a_request_touches_nothing_else",
        Edit("request", "request_by=by)", 'request_by=by, request_handled=flow["request_sequence"] - 1)'),
    ),
    fault(
        "two who ask at once get one number",
        "requests_of_many_threads",
        Edit("request", "with self._lock:", "if True:"),
        Edit(
            "request",
            'flow["request_sequence"] += 1',
            'number = flow["request_sequence"] + 1\n            meet()\n            flow["request_sequence"] = number',
        ),
    ),
)

OWNERSHIP_FAULTS: tuple[Fault, ...] = (*_CLAIMS, *_SCANS, *_OTHERS, *_RACES, *_RENEWALS, *_REQUESTS)
