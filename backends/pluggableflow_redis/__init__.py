# SPDX-License-Identifier: Apache-2.0
"""The connection to Redis 6.2 or later: one server, sentinels, or a cluster.

**Keys.** All begin with the prefix (``pluggableflow_``). ``{...}`` is a hash tag: keys with the same tag are on the
same server of a cluster. In a tag ``%`` and ``}`` are written ``%25`` and ``%7D``.

======================  ======  =====================================================================================
``version``             string  form of the data, 1
``flow:{F}``            hash    the columns of flow F, and the fields below
``flow:{F}:atoms``      hash    ``A:column`` for each column of each atom A of F; ``A:position``: order of first writing
``flow:{F}:names``      hash    name of an atom to its uuid
``book:{B}``            hash    the columns of logbook B; ``destroying``: the operation that is about to destroy it
``book:{B}:flows``      hash    its flows, each with its ``created_at``
``book:{B}:destroyed``  string  the operation that has destroyed it, for an hour
``book:{B}:saves``      zset    operations that may save it, by the time of their beginning, for an hour
``book:{B}:saved``      string  the operation that has saved it last, its ``created_at`` and ``updated_at``, for an hour
``atom:A``              string  ``created_at`` as 16 hexadecimal digits and the uuid of the flow that has atom A
``{index}:books``       zset    all books: ``created_at`` as 16 hexadecimal digits, then the uuid; all scores 0
``{index}:flows``       zset    all flows, in the same way
``{index}:ready``       zset    what a scan tries: 2^63 - 1 - ``priority`` and ``created_at`` as 16 hexadecimal digits
                                each, the uuid, NUL, number of the entry; all scores 0: the first is to be tried first
``{index}:waiting``     zset    entries that become ready at a time, which is the score
``{index}:claims``      hash    token to the flow that a scan tries or holds with it
``{index}:recent``      zset    flow, NUL, token, by the time of the claim: its holder may have written atoms that
                                have no key ``atom:A`` yet
``{index}:open``        hash    operation on a book that is under way: when it began, then what it does as JSON
======================  ======  =====================================================================================

Numbers are decimal, texts UTF-8, a column that is ``None`` has no field. Further fields of a flow: ``mark``
(``save:OPERATION`` or ``destroy:OPERATION``), ``hint`` (number of its valid entry in ``ready`` or ``waiting``),
``hint_at`` (when that entry is ready at the latest, 0 for at once; none if it has no entry), ``atom_count``,
``indexed`` (atoms up to that position have their key ``atom:A``).

**One flow** is read and written by one script each, so every read is one snapshot, and every write all or nothing.
A script checks everything before its first write. Every script may be sent again.

**The index** may list too much, never too little. Entries of ``flows`` and ``books`` are written before what they
name and removed after it. Whoever reads them looks at the flow or book, and passes over what has another
``created_at``.

An entry for scans is written before the write that lets a scan take its flow: the script of that write answers
``hint`` instead of writing; the caller adds the entry ``hint + 1`` and sends the write again, which takes effect
only if ``hint`` is what it was, and raises it. Most writes need none, because the flow has an entry that is ready
in time. A scan looks at the flow of an entry. An entry with a number below ``hint`` is removed. One above is that
of a writer who has not written yet: the scan raises ``hint`` to it, so that this writer has to ask again. Entries
of flows that cannot be taken now are put off until their lease or ``wake_at`` has passed, and those of flows that
have to be started by somebody first are removed, both after ``hint_at`` has been changed. So a claim by scan looks
neither at sleeping or leased flows nor at finished ones, however many there are.

**Books.** A book and its flows are on different servers. The book decides: what it does not list is not there.

* Save: add the operation to ``saves``; note it in ``open`` and list everything in the index; write the flows with the
  mark ``save``; add them to the book if the operation is still in ``saves``, which is the one step that everybody
  sees; remove the marks; forget the operation. Where a flow has the mark of another save and is not there, that
  save is waited for; one that takes too long is taken out of its ``saves`` before the flow is replaced, and begins
  again if it was not dead. So what is seen of a flow is never replaced.
* Destroy: set ``destroying`` on the book, in place of another operation only after a while; take the lease of each
  flow, unless it is live, and set the mark ``destroy``, over that of another operation only while ``destroying`` is
  unchanged; delete the book with its ``saves``, if ``destroying`` is unchanged, which is the one step that everybody
  sees; delete its flows and what the index has of them. A flow that was saved anew since has another ``created_at``
  and is left alone.

Whoever meets a mark asks the book. A flow that the book lists exists. A claim of one that is about to be destroyed
removes ``destroying``, so that the destruction begins again and finds the flow owned. A mark of an operation that
is over is removed. What a dead process has left is invisible, and swept by :meth:`RedisConnection.upgrade`
(destructions after a minute, saves after an hour), or removed by whoever saves the same flow again.

**Clock.** That of the flow's server, read in the script. In a cluster keep the clocks of the servers together.

**Safety.** Redis acknowledges a write before its replicas have it. A failover, of a cluster or by sentinels, can
therefore lose commits that were acknowledged, and a restart without ``appendfsync always`` those of the last second
(without an append-only file, all). Then atoms run again that had finished. Where that must not be, use another
store. Evicting keys (``maxmemory-policy allkeys-*``) destroys flows.
"""

from pluggableflow_redis.connection import RedisConnection

__all__ = ["RedisConnection"]
