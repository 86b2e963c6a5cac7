# SPDX-License-Identifier: Apache-2.0
"""Faults of the store in memory: life, logbooks, flows, atoms."""

from __future__ import annotations

from backends.mutation_edits import Edit, Fault, faults_of

fault = faults_of("pluggableflow.connections.memory")

_LIFE = (
    fault("upgrading wipes the data", "upgrade_may_be_called_again", Edit("upgrade", "pass", "self.clear_all()")),
    fault(
        "closing twice is an error",
        "close_may_be_called_again",
        Edit(
            "close",
            "pass",
            'if "closed" in vars(self):\n            raise StorageFailure("again")\n        vars(self)["closed"] = 1',
        ),
    ),
    fault(
        "clearing leaves leased flows",
        "clear_all_deletes_everything",
        Edit(
            "clear_all",
            "with self._lock:",
            "with self._lock:\n"
            "            for flow in self._flows.values():\n"
            "                self._refuse_if_leased(flow)",
        ),
    ),
    fault("clearing leaves the books", "clear_all_deletes_everything", Edit("clear_all", "self._books, ", "")),
    fault("clearing leaves the atoms", "clear_all_deletes_everything", Edit("clear_all", "self._atoms, ", "")),
    fault(
        "a child process writes to a copy of the store",
        "after_a_fork",
        Edit("__enter__", "if os.getpid() != self._pid:", "if False:"),
    ),
)

_BOOKS = (
    fault(
        "saving a book takes flows from another one",
        "stays_in_the_book",
        Edit(
            "save_logbook",
            "flows = [each for",
            "for detail in book:\n"
            "                self._flows.get(detail.uuid, {}).update(parent_uuid=book.uuid)\n"
            "            flows = [each for",
        ),
    ),
    fault(
        "saving a book again overwrites its flows",
        "saving_a_book_again or stored_already_is_left",
        Edit("save_logbook", "if each[0].uuid not in self._flows]", "if True]"),
    ),
    fault(
        "saving a book again does not update its meta",
        "saving_a_book_again",
        Edit(
            "save_logbook", 'stored["meta"], stored["updated_at"] = record["meta"], now', 'stored["updated_at"] = now'
        ),
    ),
    fault(
        "saving a book again adds no flows",
        "saving_a_book_again",
        Edit(
            "save_logbook",
            "now = self._clock()",
            "flows = flows if book.uuid not in self._books else []\n            now = self._clock()",
        ),
    ),
    fault(
        "saving a book again renews its age",
        "saving_a_book_again or sets_its_times",
        Edit(
            "save_logbook",
            'stored["meta"], stored["updated_at"] = record["meta"], now',
            'stored.update(meta=record["meta"], updated_at=now, created_at=now + 1)',
        ),
    ),
    fault(
        "saving a book does not tell its times",
        "a_book_comes_back_equal or sets_its_times",
        Edit("save_logbook", "detail.created_at = detail.updated_at = now", "pass"),
    ),
    fault(
        "the clock counts milliseconds",
        "sets_its_times",
        Edit("_wall_clock", "// 1000", "// 1000000"),
    ),
    fault(
        "a book that cannot be saved whole is saved in part",
        "cannot_be_saved_whole",
        Edit(
            "save_logbook",
            "flows = [each for",
            'self._books[book.uuid] = {**record, "created_at": 1}\n            flows = [each for',
        ),
    ),
    fault(
        "flows stay when their book is destroyed",
        "destroying_a_book_takes_everything",
        Edit("destroy_logbook", "for flow in flows:\n                del", "for flow in []:\n                del"),
    ),
    fault(
        "atoms stay when their book is destroyed",
        "destroying_a_book_takes_everything",
        Edit("destroy_logbook", 'for uuid in self._atoms.pop(flow["uuid"]):', "for uuid in []:"),
    ),
    fault(
        "destroying a book takes the flows of others",
        "destroying_a_book_takes_everything",
        Edit("destroy_logbook", 'if record["parent_uuid"] == book_uuid]', "if True]"),
    ),
    fault(
        "a leased book is destroyed without force",
        "destroyed_only_by_force",
        Edit("destroy_logbook", "if not force:", "if False:"),
    ),
    fault(
        "a leased book is not even destroyed by force",
        "destroyed_only_by_force",
        Edit("destroy_logbook", "if not force:", "if True:"),
    ),
    fault(
        "a refused destruction has deleted the book",
        "destroyed_only_by_force",
        Edit("destroy_logbook", "self._book(book_uuid)", 'self._books.pop(self._book(book_uuid)["uuid"])'),
        Edit("destroy_logbook", "            del self._books[book_uuid]\n", ""),
    ),
    fault(
        "an expired lease keeps a book from being destroyed",
        "released_or_expired_flows_is_destroyed",
        Edit("_refuse_if_leased", "self._clock()", "0"),
    ),
    fault(
        "books are listed by name",
        "books_are_listed_oldest_first",
        Edit("get_logbooks", "key=_age", 'key=lambda book: str(book["name"])'),
    ),
    fault("a lazy book has flows", "a_lazy_read_leaves_out", Edit("get_logbook", "() if lazy else ", "")),
    fault("lazy books have flows", "a_lazy_read_leaves_out", Edit("get_logbooks", ", lazy)", ")")),
    fault(
        "a book has no flows", "a_book_comes_back_equal", Edit("get_logbook", "() if lazy else ", "() if True else ")
    ),
    fault("books have no flows", "an_empty_book_and_an_empty_flow", Edit("get_logbooks", ", lazy)", ", True)")),
    fault(
        "an unknown book is an empty one",
        "an_unknown_uuid_is_named",
        Edit(
            "_book",
            "self._books[book_uuid]",
            "self._books.get(book_uuid, LogBook('', book_uuid).to_record())",
        ),
    ),
)

_FLOWS = (
    fault(
        "an atom's update changes its kind",
        "writes_every_column_but_its_place",
        Edit("update_atom_details", '"parent_uuid", "kind")', '"parent_uuid")'),
    ),
    fault("a lazy flow has atoms", "a_lazy_read_leaves_out", Edit("get_flow_details", "() if lazy else ", "")),
    fault(
        "a flow has no atoms",
        "updating_a_flow_writes",
        Edit("get_flow_details", "() if lazy else ", "() if True else "),
    ),
    fault("lazy flows of a book have atoms", "a_lazy_read_leaves_out", Edit("get_flows_for_book", "lazy)", "False)")),
    fault("flows of a book have no atoms", "a_lazy_read_leaves_out", Edit("get_flows_for_book", "lazy)", "True)")),
    fault(
        "flows of one age are in the order of names",
        "flows_of_one_age",
        Edit("_age", 'record["uuid"]', 'record.get("name")'),
    ),
    fault(
        "flows of a book are in the order in which they were saved",
        "flows_of_one_age",
        Edit("get_flows_for_book", "sorted(mine, key=_age)", "mine"),
    ),
    fault(
        "atoms are in the order of names",
        "ten_thousand_atoms",
        Edit(
            "get_atoms_for_flow",
            "self._atoms[flow_uuid].values()",
            'sorted(self._atoms[flow_uuid].values(), key=lambda atom: str(atom["name"]))',
        ),
    ),
    fault(
        "the atoms of an unknown flow are none",
        "an_unknown_uuid_is_named",
        Edit("get_atoms_for_flow", "self._flow(flow_uuid)", "self._atoms.setdefault(flow_uuid, {})"),
    ),
    fault(
        "an update raises the revision by one",
        "updates_never_touch_ownership or updating_a_flow",
        Edit("update_flow_details", '"revision"] += 2', '"revision"] += 1'),
    ),
    fault(
        "an update leaves the revision",
        "updates_never_touch_ownership",
        Edit("update_flow_details", '"revision"] += 2', '"revision"] += 0'),
    ),
    fault(
        "an atom's update raises the revision by one",
        "updating_an_atom",
        Edit("update_atom_details", '"revision"] += 2', '"revision"] += 1'),
    ),
    fault(
        "an update is taken under a live lease",
        "updates_are_refused",
        Edit("update_flow_details", "            self._refuse_if_leased(stored)\n", ""),
    ),
    fault(
        "an atom's update is taken under a live lease",
        "updates_are_refused",
        Edit("update_atom_details", "            self._refuse_if_leased(flow)\n", ""),
    ),
    fault(
        "an update writes before it refuses",
        "updates_are_refused",
        Edit(
            "update_flow_details",
            "stored = self._flow(detail.uuid)",
            'stored = self._flow(detail.uuid)\n            stored["state"] = detail.state',
        ),
    ),
    fault(
        "an update takes the lease away",
        "updates_never_touch_ownership",
        Edit(
            "update_flow_details",
            'stored["revision"] += 2',
            'stored["revision"] += 2\n            stored["token"] = None',
        ),
    ),
    fault(
        "an update writes the caller's ownership",
        "updates_never_touch_ownership or those_of_ownership",
        Edit("update_flow_details", '*FLOW_OWNERSHIP_COLUMNS, "parent_uuid"', '"revision", "parent_uuid"'),
    ),
    fault(
        "an update writes the caller's request",
        "those_of_ownership",
        Edit(
            "update_flow_details",
            '*FLOW_OWNERSHIP_COLUMNS, "parent_uuid"',
            '*(set(FLOW_OWNERSHIP_COLUMNS) - {"request", "request_by"}), "parent_uuid"',
        ),
    ),
    fault(
        "an update writes the caller's age", "those_of_ownership", Edit("update_flow_details", ', "created_at")', ",)")
    ),
    fault(
        "an update deletes atoms that it does not name",
        "keeps_atoms_that_it_does_not_name",
        Edit(
            "update_flow_details", "self._put_atoms(", "self._atoms[detail.uuid].clear()\n            self._put_atoms("
        ),
    ),
    fault(
        "an update puts the atoms that it names at the end",
        "keeps_atoms_that_it_does_not_name",
        Edit("_put_atoms", "before = atoms.get(uuid)", "before = atoms.pop(uuid, None)"),
    ),
    fault(
        "an update forgets the atoms",
        "updating_a_flow_writes_it_and_its_atoms",
        Edit("update_flow_details", "self._put_atoms(detail.uuid, atoms)", "pass"),
    ),
    fault(
        "an update forgets new atoms",
        "updating_a_flow_writes_it_and_its_atoms",
        Edit(
            "update_flow_details",
            "self._put_atoms(detail.uuid, atoms)",
            "self._put_atoms(detail.uuid, atoms[: len(self._atoms[detail.uuid])])",
        ),
    ),
    *(
        fault(
            f"an update forgets {column}",
            "updating_a_flow_writes_every_column",
            Edit("update_flow_details", '"parent_uuid"', f'"parent_uuid", "{column}"'),
        )
        for column in ("name", "deadline_at")
    ),
    fault(
        "an update that cannot be written whole is written in part",
        "an_update_that_cannot_be_written_whole",
        Edit(
            "update_flow_details",
            "self._check_atoms(detail.uuid, atoms)",
            "stored.update(state=detail.state)\n            self._check_atoms(detail.uuid, atoms)",
        ),
    ),
    fault(
        "an atom's update moves it to another flow",
        "writes_every_column_but_its_place",
        Edit(
            "update_atom_details",
            'flow["uuid"], [record])\n            flow',
            "str(detail.parent_uuid), [record])\n            flow",
        ),
    ),
    fault(
        "an atom's update puts it at the end",
        "writes_every_column_but_its_place",
        Edit(
            "update_atom_details",
            'self._put_atoms(flow["uuid"], [record])',
            'del self._atoms[flow["uuid"]][detail.uuid]\n            self._put_atoms(flow["uuid"], [record])',
        ),
    ),
)

RECORD_FAULTS: tuple[Fault, ...] = (*_LIFE, *_BOOKS, *_FLOWS)
