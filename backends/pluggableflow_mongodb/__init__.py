# SPDX-License-Identifier: Apache-2.0
"""The connection to MongoDB, 4.4 or later: a replica set or a standalone server, without transactions.

Collections, each with the prefix (``pluggableflow_``):

``logbooks``
    ``{_id, name, meta, created_at, updated_at, edition, open, saves, touched, hidden?, destroyed?, unsettled?}``.
    ``edition`` begins anywhere and counts the decided operations on the book; ``open`` holds the ids of undecided ones,
    ``saves`` those of decided saves that are not tidied up; a ``hidden`` book is being saved for the first time, a
    ``destroyed`` one is being deleted: neither is seen by readers. ``unsettled`` is there while there may be something
    to tidy up.
``flows``
    ``{_id, <the columns of a flow>, life, atoms, journal, journaled?, ready_at, runnable?, op?}``. ``life`` is random
    and new with each document; ``atoms`` is their number; ``journal`` is told below, ``journaled`` is there unless it
    is empty; ``runnable`` is there if the flow's state and factory let a scan take it, and ``ready_at`` is when a scan
    is to look at it (0: now); ``op`` marks a flow that an operation on its book works on. ``updated_at`` is a date of
    the server, all other times are integers of microseconds.
``atoms``
    ``{_id: "<life>/<uuid>", uuid, <the columns that have a value>, position, at}``. ``position`` orders the atoms of a
    flow; ``at`` is the flow's revision whose changes the atom has seen last.
``version``
    ``{_id: "schema", version}``.

**The journal.** A commit is one update of the flow document, on the condition that ``token`` and ``revision`` are as
expected. It writes the flow's columns and the next revision, and appends to ``journal`` what the commit does to atoms:
``{at: <that revision>, added: [<atom>], changed: [{uuid, columns}]}``. So it is atomic on every server. Later, in one
go for many commits, the entries are *applied* to the atom documents, and only when a majority has those writes does
the next commit replace the journal by its own entry alone. A claim applies what a dead holder left over.

Why that is safe:

* Each write of an application carries the entry's revision and passes over an atom whose ``at`` is not below it, and
  inserting an atom that exists does nothing. So it may be broken off, repeated, and done by several processes at once;
  a process that was stopped in the middle and wakes after a takeover finds the entries applied, and changes nothing.
* The journal is shortened only on the condition that token and revision are still those at which every entry was
  known and applied.
* ``life`` is part of an atom's ``_id``, so an application that wakes after its flow was destroyed, and perhaps saved
  again, writes documents that no reader looks at.
* Nothing refuses an application: that a flow has no name twice is checked before a commit, against the names that
  its holder knows of the revision that it commits to. They are read once per lease.

A reader takes the flow document first, then the atoms, and lays the journal over them. If an atom has seen a later
revision, or their number is not the flow's ``atoms``, then the flow went on in between, and it reads again. The writes
to flows that nobody holds go the same way as commits.

**Operations on books** (saving and destroying, :mod:`pluggableflow_mongodb.operations`) are decided by one update of
the book. Until then a saved flow is hidden, and a flow that is to be destroyed is kept from new holders; whoever claims
it decides against its destruction. What an author that died left undecided for a minute, or untidied, is cleaned up by
``upgrade``, by scans that meet it, and by whoever saves or destroys the same book.

**Sizes.** A text has at most 2 MiB and a commit 4 MiB, since an atom has six texts, a flow two and the journal's last
entry, and a document has at most 16 MiB.
"""

from pluggableflow_mongodb.connection import MongoDBConnection

__all__ = ["MongoDBConnection"]
