# SPDX-License-Identifier: Apache-2.0
"""Cost of a claim by scan, and of its release, by the number of flows in the store.

    python benchmarks/claims.py                                       PostgreSQL and Redis, to 100,000 flows
    python benchmarks/claims.py --sizes 1000,1000000 --others finished,sleeping
    python benchmarks/claims.py --stores mariadb,mongodb,sqlite,directory --sizes 1000,10000

A store of each size is filled first, all on one server. Then the sizes take turns, claim by claim, so that they meet
the same machine; the ratios are to the smallest size of the same run. A claim names no flow: the store looks for the
one that is to be run next. Each claimed flow is released at once.

--others says what all flows but the last ten are, all older than these: runnable (then the oldest of them is what is
claimed again and again), finished, sleeping (their wake_at is a month away) or leased by somebody else for a month. The
last ten can be run, so with the other kinds a claim has to get past all the rest. The first claims of each size are
not measured. Flows have no atoms here, since no claim looks at them.

The flows are written in the store's own form (INSERT ... SELECT, insert_many, a pipeline), as copies of one that was
stored through the package; some are read back and looked for through the package, and each claim must get a flow that
it may get. A directory is filled through the package, which takes long. With SQL the statistics of the tables are
brought up to date after that, as a server does by itself in time. Times are medians in microseconds, p95 the time that
one in twenty exceeds. No duration passes or fails.

WHERE
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import secrets
import signal
import statistics
import sys
import time
from typing import Any

import bulk
from core import choice, numbers, positive
from places import PLACES, Place
from stores import STARTS, WHERE, Stores, leave

from pluggableflow import api
from pluggableflow.connection import Connection
from pluggableflow.middleware import new_uuid

#: Flows of each store that can be claimed and are younger than all others.
WORK = 10
#: Claims of each size that are not measured.
_WARM_UP = 20
_LEASE_SECONDS = 60.0


class Filled:
    """A store of one size."""

    def __init__(self, place: Place, connection: Connection, kind: str, size: int) -> None:
        self.size, self._connection = size, connection
        begun = time.perf_counter()
        others = max(size - WORK, 0)
        if others:
            bulk.fill(place, connection, kind, others)
        work = bulk.saved(connection, "runnable", min(size, WORK))
        self.fill_seconds = time.perf_counter() - begun
        self.claims: list[float] = []
        self.releases: list[float] = []
        if kind == "runnable":
            self._next = connection.find_flows(limit=1)[0].uuid
        else:
            self._next = min(work, key=lambda flow: (flow.created_at, flow.uuid)).uuid

    def turn(self) -> None:
        """One claim and its release.

        :raises RuntimeError: another flow was claimed than the oldest that can be run
        """
        begun = time.perf_counter()
        claim = self._connection.claim(token=new_uuid(), owner="claims", lease_seconds=_LEASE_SECONDS)
        claimed = time.perf_counter()
        if claim is None or claim.lease.flow_uuid != self._next:
            raise RuntimeError(f"{claim} was claimed of {self.size} flows, not {self._next}")
        self.claims.append(claimed - begun)
        begun = time.perf_counter()
        self._connection.release(claim.lease)
        self.releases.append(time.perf_counter() - begun)

    def forget(self) -> None:
        self.claims, self.releases = [], []


def measure(stores: Stores, store: str, kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fill a store in each size, claim, and remove it; a row for each size."""
    address = stores.address(store)
    if address is None:
        return []
    with contextlib.ExitStack() as opened:
        filled = []
        for size in sorted(set(options.sizes)):
            place = PLACES[store](address, f"bench_{secrets.token_hex(4)}_")
            place.is_private = stores.is_private(store)
            opened.push(place)
            connection = api.connect(place.url())
            opened.callback(connection.close)
            filled.append(Filled(place, connection, kind, size))
        for _ in range(_WARM_UP):
            for each in filled:
                each.turn()
        for each in filled:
            each.forget()
        for number in range(options.claims):
            for each in filled if number % 2 else reversed(filled):
                each.turn()
        durability = place.durability()
    smallest = filled[0]
    rows = []
    for each in filled:
        row = {"store": store, "durability": durability, "others": kind, "flows": each.size, "claims": options.claims}
        for name in ("claims", "releases"):
            taken, least = getattr(each, name), getattr(smallest, name)
            row[f"{name[:-1]}_us"] = round(statistics.median(taken) * 1e6, 1)
            row[f"{name[:-1]}_p95_us"] = round(sorted(taken)[len(taken) * 95 // 100] * 1e6, 1)
            row[f"{name[:-1]}_to_smallest"] = round(statistics.median(taken) / statistics.median(least), 2)
        rows.append({**row, "fill_seconds": round(each.fill_seconds, 1)})
    return rows


def _parser() -> argparse.ArgumentParser:
    description = str(__doc__).replace("WHERE", WHERE)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(name: str, kind: Any, default: str, text: str) -> None:
        parser.add_argument(name, type=kind, default=default, metavar="A,B", help=f"{text} (default: {default})")

    add("--stores", choice(*STARTS), "postgresql,redis", "where the flows are, of " + ", ".join(STARTS))
    add("--sizes", numbers, "1000,10000,100000", "numbers of flows; 1,000,000 takes minutes and a few gigabytes")
    add("--others", choice(*bulk.KINDS), "runnable,finished,sleeping", "what all flows but the youngest ten are, of "
        + ", ".join(bulk.KINDS))  # fmt: skip
    parser.add_argument("--claims", type=positive, default=500, metavar="N",
        help="claims of each size (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print each row as one line of JSON")
    return parser


def main() -> None:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, leave)
    logging.disable(logging.WARNING)  # the column durability says what a store would warn of
    try:
        with Stores(lambda line: print(line, file=sys.stderr if options.json else sys.stdout, flush=True)) as stores:
            for store in options.stores:
                for kind in options.others:
                    for row in measure(stores, store, kind, options):
                        words = "  ".join(f"{name}={value}" for name, value in row.items())
                        print(json.dumps(row) if options.json else words, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
