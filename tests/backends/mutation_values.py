# SPDX-License-Identifier: Apache-2.0
"""Faults of the store in memory: searches, values, damage."""

from __future__ import annotations

from backends.mutation_edits import Edit, Fault, faults_of

fault = faults_of("pluggableflow.connections.memory")

_SEARCHES = (
    fault(
        "a search without a limit gives everything",
        "a_hundred_flows",
        Edit("find_flows", "limit: int = 100", "limit: int = 2**31"),
    ),
    *(
        fault(
            f"a search ignores {name}",
            "found_by_every_condition or pages_of_flows or search_by_age",
            Edit("find_flows", f"and ({name} is None", f"and (True or {name} is None"),
        )
        for name in ("name", "owner", "created_before")
    ),
    fault(
        "a search ignores states",
        "found_by_every_condition",
        Edit("find_flows", "if (states is None", "if (True or states is None"),
    ),
    fault(
        "a search for no states finds all",
        "found_by_every_condition",
        Edit("find_flows", "states is None", "not states"),
    ),
    fault("a search ignores the limit", "pages_of_flows", Edit("find_flows", "found[:limit]", "found")),
    fault(
        "a search ignores where the last page ended",
        "pages_of_flows",
        Edit("find_flows", "beyond is None", "True or beyond is None"),
    ),
    fault("a page begins with the end of the last one", "pages_of_flows", Edit("find_flows", "> beyond", ">= beyond")),
    fault(
        "a search limits before it selects",
        "conditions_of_a_search",
        Edit(
            "find_flows",
            "sorted(self._flows.values(), key=_age)",
            "sorted(self._flows.values(), key=_age)[: limit * 2]",
        ),
    ),
    fault(
        "a search by age takes the moment as well",
        "search_by_age or every_condition",
        Edit("find_flows", '["created_at"] < created_before', '["created_at"] <= created_before'),
    ),
    fault(
        "a search takes parts of an owner",
        "owners_and_tokens or by_every_condition",
        Edit("find_flows", 'record["owner"] == owner', 'owner in (record["owner"] or "")'),
    ),
    fault(
        "a search gives the newest first", "pages_of_flows", Edit("find_flows", "found[:limit]", "found[::-1][:limit]")
    ),
    fault(
        "a search is not sorted",
        "flows_of_one_age",
        Edit("find_flows", "sorted(self._flows.values(), key=_age)", "self._flows.values()"),
    ),
    fault(
        "a search takes names of any case",
        "every_condition or compared_by_code_point",
        Edit("find_flows", 'record["name"] == name', 'record["name"].lower() == name.lower()'),
    ),
    fault(
        "a search takes names without blanks at their end",
        "compared_by_code_point",
        Edit("find_flows", 'record["name"] == name', 'record["name"].rstrip(" ") == name.rstrip(" ")'),
    ),
    fault(
        "a search after an unknown flow is empty",
        "an_unknown_uuid_is_named",
        Edit(
            "find_flows", "_age(self._flow(after))", '_age(self._flows.get(after, {"created_at": 2**60, "uuid": ""}))'
        ),
    ),
)

_VALUES = (
    fault(
        "an atom's name is stored without blanks at its end",
        "names_of_atoms",
        Edit("_put_atoms", "atoms[uuid] = {**record, ", 'atoms[uuid] = {**record, "name": name.rstrip(" "), '),
    ),
    fault(
        "atom names are unique whatever their case",
        "names_of_atoms",
        Edit(
            "_check_atoms", "records, self", '[{**each, "name": str(each["name"]).lower()} for each in records], self'
        ),
    ),
    fault(
        "names are composed",
        "names_of_atoms",
        Edit(
            "_put_atoms",
            "atoms[uuid] = {**record, ",
            'atoms[uuid] = {**record, "name": __import__("unicodedata").normalize("NFC", name), ',
        ),
    ),
    fault(
        "names lose what is not ASCII",
        "names_of_flows",
        Edit(
            "save_logbook",
            "self._flows[detail.uuid] = {**flow, ",
            'self._flows[detail.uuid] = {**flow, "name": detail.name.encode("ascii", "replace").decode(), ',
        ),
    ),
    fault(
        "a large value is cut off",
        "a_value_of_a_megabyte",
        Edit(
            "commit",
            "atoms[uuid].update(columns)",
            "atoms[uuid].update({key: each[:65535] if type(each) is str else each for key, each in columns.items()})",
        ),
    ),
    fault(
        "a value that is too large is stored",
        "a_value_above_the_largest",
        Edit("commit", "if fault is not None:", "if False:"),
    ),
    fault(
        "a value that is too large is refused after a part was written",
        "a_value_above_the_largest",
        Edit(
            "commit",
            "raise ValueTooLarge(fault)",
            'self._flows[lease.flow_uuid]["state"] = "RUNNING"\n            raise ValueTooLarge(fault)',
        ),
    ),
    fault(
        "a value that is too large raises the revision",
        "a_value_above_the_largest",
        Edit(
            "commit",
            "raise ValueTooLarge(fault)",
            'self._flows[lease.flow_uuid]["revision"] += 1\n            raise ValueTooLarge(fault)',
        ),
    ),
    fault(
        "large integers become floats",
        "every_column",
        Edit(
            "_put_atoms",
            "atoms[uuid] = {**record, ",
            "record = {key: int(float(value)) if type(value) is int else value for key, value in record.items()}\n"
            "            atoms[uuid] = {**record, ",
        ),
    ),
)

_DAMAGE = (
    fault(
        "a damaged flow hinders every search",
        "that_cannot_be_decoded_is_named_and_listed",
        Edit("find_flows", "FlowDetail.listed(record)", "FlowDetail.from_record(record)"),
    ),
    fault(
        "a search leaves damaged flows out",
        "that_cannot_be_decoded_is_named_and_listed",
        Edit(
            "find_flows",
            "for record in found[:limit]",
            "for record in found[:limit] if FlowDetail.listed(record).damage is None",
        ),
    ),
    fault(
        "a damaged flow is read as an empty one",
        "that_cannot_be_decoded_is_named_and_listed",
        Edit(
            "get_flow_details",
            "FlowDetail.from_record(record, () if lazy else self.get_atoms_for_flow(flow_uuid))",
            "FlowDetail.listed(record)",
        ),
    ),
    fault(
        "a damaged flow hinders every scan",
        "cannot_be_decoded_is_named",
        Edit(
            "_next_claimable",
            "claimable = [",
            "for each in self._flows.values():\n            FlowDetail.from_record(each)\n        claimable = [",
        ),
    ),
    fault(
        "a damaged atom hinders the reading of its siblings",
        "an_atom_that_cannot_be_decoded",
        Edit(
            "get_atom_details",
            "return AtomDetail",
            "self.get_atoms_for_flow(self._flow_of[atom_uuid])\n            return AtomDetail",
        ),
    ),
    fault(
        "a damaged flow cannot be repaired",
        "can_be_repaired",
        Edit(
            "update_flow_details",
            "stored = self._flow(detail.uuid)",
            "stored = self._flow(detail.uuid)\n            FlowDetail.from_record(stored)",
        ),
    ),
)

VALUE_FAULTS: tuple[Fault, ...] = (*_SEARCHES, *_VALUES, *_DAMAGE)
