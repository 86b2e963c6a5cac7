# SPDX-License-Identifier: Apache-2.0
"""Deletes logbooks whose flows have all finished long ago."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from datetime import timedelta

from pluggableflow import states
from pluggableflow.connection import Connection
from pluggableflow.exceptions import FlowOwned, NotFound, OptionError
from pluggableflow.middleware import LogBook

#: How many flows are looked at in one call of the store.
_PAGE = 500


def purge(
    connection: Connection,
    older_than: timedelta,
    flow_states: Collection[str] = states.FINISHED,
    dry_run: bool = False,
) -> Iterator[LogBook]:
    """Delete the logbooks of which every flow has finished, and was last written to, longer ago than ``older_than``.

    Each book is one atomic step, and is yielded (without its flows) when it is gone, so purging may be stopped at any
    time. A flow that somebody takes up meanwhile keeps its book.

    :param older_than: not negative; measured with the clock of this host
    :param flow_states: of finished states, those that the flows may be in
    :param dry_run: delete nothing
    :raises OptionError: before anything is deleted
    """
    unknown = sorted(set(flow_states) - states.FINISHED)
    if unknown:
        raise OptionError(f"only {', '.join(sorted(states.FINISHED))} can be purged, not {', '.join(unknown)}")
    if older_than < timedelta(0):
        raise OptionError(f"older_than must not be negative, as {older_than} is")
    return _purge(connection, time.time_ns() // 1000 - older_than // timedelta(microseconds=1), flow_states, dry_run)


def _purge(connection: Connection, before: int, flow_states: Collection[str], dry_run: bool) -> Iterator[LogBook]:
    seen: set[str] = set()
    last_kept: str | None = None
    while True:
        try:
            page = connection.find_flows(states=flow_states, created_before=before, after=last_kept, limit=_PAGE)
        except NotFound:  # the flow that the last page ended with has been deleted meanwhile
            last_kept = None
            continue
        if not page:
            return
        for flow in page:
            book_uuid = flow.parent_uuid
            if book_uuid in seen:
                last_kept = flow.uuid
                continue
            assert book_uuid is not None, "a stored flow has a book"
            try:
                book = connection.get_logbook(book_uuid, lazy=True)
                flows = connection.get_flows_for_book(book_uuid, lazy=True)
                purged = all(each.state in flow_states and (each.updated_at or 0) < before for each in flows)
                if purged and not dry_run:
                    connection.destroy_logbook(book_uuid)
            except NotFound:  # somebody else has deleted it
                seen.add(book_uuid)
                continue
            except FlowOwned:
                purged = False
            if dry_run or not purged:
                seen.add(book_uuid)
                last_kept = flow.uuid
            if purged:
                yield book
