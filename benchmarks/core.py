# SPDX-License-Identifier: Apache-2.0
"""Cost of a task by pattern, size and store, per phase, next to its floor and its peers.

The whole thing takes minutes; where TaskFlow or DBOS is not installed, one line says so and the rest runs:

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -e . sqlalchemy taskflow==6.5.0 dbos
    /tmp/peers/bin/python benchmarks/core.py

Each part by itself, and a quick look at all of them:

    python benchmarks/core.py --parts time          microseconds a task, garbage collector on and off
    python benchmarks/core.py --parts operations    calls a task, counted: the same on each machine, busy or not
    python benchmarks/core.py --parts memory        bytes a task at the peak
    python benchmarks/core.py --parts statements    SQL statements and commits a task, SQLite only
    python benchmarks/core.py --parts durable       every durable store next to its own plainest write
    python benchmarks/core.py --parts peers         TaskFlow and DBOS, each next to a run of ours of the same size
    python benchmarks/core.py --sizes 100,1000 --counted-sizes 100,1000 --peer-sizes 100

Each row is one run in a process of its own, so no run heats or fills another, after a small one that is not measured
(warm_up_ms: imports, and what is made once). *_us is microseconds a task, total_us all phases (build, load, compile,
prepare, run) together, run_cpu_us what all threads of the process computed in the run, which a busy disk changes least.
Where calls are counted, a column is calls a task through sys.setprofile, of Python and of C functions. The floor is,
without a durable store, one plain call that keeps a distinct value, and with SQLite one plain commit of one row with a
distinct value in the same journal and synchronous mode, both in the process of the row. A row of SQLite says the modes
as read back from the connections that the package itself opened, the growth of the database and its log, the bytes the
process wrote, and how many distinct values the database holds afterwards; too few of either ends the benchmark, since
it would then measure nothing. The exponents at the end (1.00 is linear) are fitted to all sizes from 1,000 on: those of
calls to the calls above those of a flow of ten tasks, which are also given as calls for each further task; those of
time to the time without load, which is paid once for each flow whatever its size; those of cpu to total_cpu_us. Where
calls grow less than computing, a call got longer, such as one that copies all there is. No duration passes or fails.

The part durable runs a chain with the serial engine, and a graph with the parallel one (4 threads, prefetch 16), with
--workflows also the graphs of real workflows, in SQLite, a directory, PostgreSQL, MariaDB, MongoDB (alone, and as a
replica set of one) and Redis (without and with an append-only file); the other parts know no servers. A row durable has
the medians of --rounds rounds in one process. A round is a new flow of --round-tasks tasks between two lots of the
floor, together as many writes as there are tasks: one plain write of one record with a distinct value, by the same
driver, as durable as a commit (an UPDATE that commits by itself; update_one; SET; a line and fsync). run_to_floor is
the median of the rounds' ratios, ratios the least and the largest. As often, and in between as well, two other kinds of
a single write: library_us is one row by SQLAlchemy, in a transaction of a pooled connection and with a statement built
once, for the stores whose backend is made with it (for the others the floor is that of their library already);
single_us is a commit of one column of one atom through the connection, with its fence and its checks, and no engine.

A row sent is one flow in a process of its own, from claim to release, counted and not timed: round trips (times that
the driver sends and then waits, see trips.py) and statements or commands a task, or "not counted" where there is no
server or the driver does not tell; fsyncs of a directory; and bytes by which the store's log grew: SQLite's WAL,
PostgreSQL's pg_current_wal_lsn, MariaDB's Innodb_os_log_written, MongoDB's "log bytes written", the size of Redis's
append-only file, and of a directory's journal. Values are read back by a new connection and must all be there and
distinct.

WHERE

DBOS runs N steps of one workflow in a row (linear), N steps of one workflow gathered by asyncio, and N steps put on a
queue, each then a workflow of its own (both unordered). By itself it leaves SQLite its rollback journal; the peer
dbos-wal is the same on a file that was put into WAL mode before. Its launch is not part of its time. It has no graphs
and no reverting of its own, so it has no rows there.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import secrets
import signal
import sqlite3
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import durable
import ours
import peers
from stores import STARTS, WHERE, Stores, leave
from workloads import parents_of, read_workflow

PATTERNS = ("linear", "unordered", "graph", "revert")
PARTS = ("operations", "time", "memory", "statements", "durable", "peers")
#: Stores that all parts but the durable one know.
PLAIN_STORES = ("none", "memory", "sqlite")
STORES = (*PLAIN_STORES, *(store for store in STARTS if store not in PLAIN_STORES))
#: From this size on the exponents are fitted; below, what is paid once weighs too much.
FITTED_FROM = 1000
#: Largest size at which SQL is counted: what a task executes does not depend on how many there are.
STATEMENTS_LIMIT = 1000

#: Size whose calls are taken off before the fit: they are, but for ten tasks, what is paid once for each flow.
BASE = 10

Points = list[tuple[int, float]]


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in this process and return its row."""
    if case["what"] in ("durable", "sent"):
        return durable.measure(case)
    signal.signal(signal.SIGTERM, leave)
    return peers.measure(case) if "peer" in case else ours.measure(case)


def in_own_process(case: dict[str, Any], repeat: int = 1) -> dict[str, Any]:
    """The row of a case, each time in a fresh process; of several the fastest."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for _ in range(repeat):
        with context.Pool(1) as pool:
            rows.append(pool.apply(measure, (case,)))
            pool.close()
            pool.join()
    return min(rows, key=lambda row: row.get("total_us", 0))


def exponent(points: Points, fitted_from: int) -> float | None:
    """Slope of log(cost) over log(size) by least squares; ``None`` where it cannot be told."""
    points = [(size, cost) for size, cost in points if size >= fitted_from and cost > 0]
    if len({size for size, _ in points}) < 2:
        return None
    return statistics.linear_regression(*zip(*[(math.log(x), math.log(y)) for x, y in points], strict=True)).slope


class Bench:
    """Runs the parts that were asked for, prints each row as it is there, and keeps what the exponents need."""

    def __init__(self, options: argparse.Namespace, stores: Stores) -> None:
        self._options, self._stores = options, stores
        self._calls: dict[tuple[str, str], dict[str, Points]] = defaultdict(lambda: defaultdict(list))
        self._times: dict[tuple[str, str], dict[str, Points]] = defaultdict(lambda: defaultdict(list))

    def run(self) -> None:
        options = self._options
        self._say(_machine())
        absent = {peer: line for peer in options.peers if (line := peers.missing(peer))}
        if "peers" in options.parts:
            for line in absent.values():
                print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
        parts = {
            "operations": self._operations, "time": self._time, "memory": self._memory, "statements": self._statements
        }  # fmt: skip
        plain = [store for store in options.stores if store in PLAIN_STORES]
        for store in plain:
            for pattern in options.patterns:
                case = {"store": store, "pattern": pattern, "engine": options.engine, "gc": "on"}
                for part in options.parts:
                    if part in parts:
                        parts[part](case)
        if "durable" in options.parts:
            for store in options.stores:
                if store in STARTS:
                    self._durable(store)
        if "peers" in options.parts:
            for store in plain:
                for pattern in options.patterns:
                    for count in self._sizes(store, options.peer_sizes):
                        self._peers(store, pattern, count, [peer for peer in options.peers if peer not in absent])
        self._exponents()

    def _sizes(self, store: str, sizes: list[int]) -> list[int]:
        return [count for count in sizes if store == "none" or count <= self._options.durable_limit]

    def _operations(self, case: dict[str, Any]) -> None:
        series = self._calls[case["store"], case["pattern"]]
        for count in sorted({BASE, *self._sizes(case["store"], self._options.counted_sizes)}):
            row = self._say(in_own_process({"what": "operations", **case, "count": count}))
            for phase in (*ours.PHASES, "total"):
                series[phase].append((count, row[phase] * count))

    def _time(self, case: dict[str, Any]) -> None:
        for collector in self._options.gc:
            for count in self._sizes(case["store"], self._options.sizes):
                timed = {"what": "time", **case, "gc": collector, "count": count}
                row = self._say(in_own_process(timed, self._options.repeat))
                spent = sum(row[f"{phase}_us"] for phase in ours.PHASES)
                self._times[case["store"], case["pattern"]][f"time_gc_{collector}"].append((count, spent * count))
                computed = row["total_cpu_us"] * count
                self._times[case["store"], case["pattern"]][f"cpu_gc_{collector}"].append((count, computed))

    def _memory(self, case: dict[str, Any]) -> None:
        for count in self._sizes(case["store"], self._options.counted_sizes):
            self._say(in_own_process({"what": "memory", **case, "count": count}))

    def _statements(self, case: dict[str, Any]) -> None:
        if case["store"] == "sqlite":
            for count in sorted({min(count, STATEMENTS_LIMIT) for count in self._options.counted_sizes}):
                self._say(in_own_process({"what": "statements", **case, "count": count}))

    def _durable(self, store: str) -> None:
        address, options = self._stores.address(store), self._options
        if address is None:
            return
        flows: list[dict[str, Any]] = [
            {"pattern": pattern, "tasks": options.round_tasks}
            for pattern in durable.ENGINES
            if pattern in options.patterns
        ]
        for workflow in options.workflows:
            flows.append(
                {"pattern": "graph", "tasks": len(parents_of(read_workflow(workflow))), "workflow": str(workflow)}
            )
        for flow in flows:
            for what in ("durable", "sent"):
                prefix = f"bench_{secrets.token_hex(4)}_"
                case = {"what": what, "store": store, "address": address, "prefix": prefix, "rounds": options.rounds}
                self._say(in_own_process({**case, **flow}))

    def _peers(self, store: str, pattern: str, count: int, present: list[str]) -> None:
        """A run of ours, then the peers at once after it, so that they meet the same machine; again for each repeat."""
        case = {"store": store, "pattern": pattern, "count": count, "engine": self._options.engine, "gc": "on"}
        todo = [(peer, way) for peer in present for way in peers.ways(peer, store, pattern, count)]
        if not todo:
            return
        cases = [case, *({**case, "peer": peer, "way": way} for peer, way in todo)]
        rounds = [[in_own_process({"what": "time", **each}) for each in cases] for _ in range(self._options.repeat)]
        own = None
        for rows in zip(*rounds, strict=True):
            row = self._with_statements(min(rows, key=lambda row: row["total_us"]))
            own = own or row
            if row is not own:
                for column in ("run", "run_cpu", "total"):
                    row[f"{column}_to_ours"] = round(row[f"{column}_us"] / own[f"{column}_us"], 2)
            self._say(row)

    def _with_statements(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row of a timed run, with the SQL of another one of at most ``STATEMENTS_LIMIT`` tasks."""
        if row["store"] == "sqlite":
            keys = ("store", "pattern", "engine", "gc", "peer", "way")
            case: dict[str, Any] = {key: row[key] for key in keys if key in row}
            case |= {"what": "statements", "count": min(row["count"], STATEMENTS_LIMIT)}
            other = in_own_process(case)
            row |= {key: other[key] for key in ("reads_a_task", "writes_a_task", "commits_a_task")}
        return row

    def _exponents(self) -> None:
        """For each store and pattern: calls for each further task, and exponents of calls and of time."""
        for key in {**self._calls, **self._times}:
            further, slopes = {}, {}
            for phase, points in self._calls[key].items():
                (base, paid_once), *larger = points
                above = [(size - base, calls - paid_once) for size, calls in larger if size > base]
                if above:
                    further[phase] = round(above[-1][1] / above[-1][0], 2)
                slopes[f"calls_{phase}"] = exponent(above, FITTED_FROM - base)
            for name, points in self._times[key].items():
                slopes[name] = exponent(points, FITTED_FROM)
            where = {"store": key[0], "pattern": key[1]}
            if further:
                self._say({"what": "calls for each further task", **where, **further})
            fitted = {name: f"{slope:.3f}" for name, slope in slopes.items() if slope is not None}
            if fitted:
                self._say({"what": "exponents", **where, **fitted})

    def _say(self, row: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(row) if self._options.json else "  ".join(f"{key}={value}" for key, value in row.items())
        print(text, flush=True)
        return row


def _machine() -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "what": "machine", "python": platform.python_version(), "sqlite": sqlite3.sqlite_version,
        "processors": os.cpu_count(), "load": load if load is None else round(load, 2),
    }  # fmt: skip


def choice(*allowed: str) -> Any:
    """Parses a list of words that are allowed."""

    def parse(text: str) -> list[str]:
        found = [each.strip() for each in text.split(",") if each.strip()]
        for each in found:
            if each not in allowed:
                raise argparse.ArgumentTypeError(f"{each!r} is none of {', '.join(allowed)}")
        return found

    return parse


def numbers(text: str) -> list[int]:
    """Parses a list of numbers from 1."""
    try:
        found = [int(each) for each in text.split(",") if each.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 100,1000") from None
    if any(each < 1 for each in found):
        raise argparse.ArgumentTypeError("the numbers begin at 1")
    return found


def positive(text: str) -> int:
    """Parses one number from 1."""
    (number,) = numbers(text)
    return number


def _parser() -> argparse.ArgumentParser:
    description = str(__doc__).replace("WHERE", WHERE)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(name: str, kind: Any, default: str, text: str) -> None:
        parser.add_argument(name, type=kind, default=default, metavar="A,B", help=f"{text} (default: {default})")

    add("--parts", choice(*PARTS), ",".join(PARTS), "what to measure, of " + ", ".join(PARTS))
    add("--stores", choice(*STORES), ",".join(STORES), "where the flow is kept: none is nowhere; a server "
        "is measured in the part durable only")  # fmt: skip
    add("--patterns", choice(*PATTERNS), ",".join(PATTERNS), "shapes of flow; graph: layers of ten tasks, three "
        "inputs each; revert: linear, the last task fails and all are reverted")  # fmt: skip
    add("--sizes", numbers, "10,100,1000,10000,30000,100000", "numbers of tasks to time")
    add("--counted-sizes", numbers, "1000,3000,10000", "numbers of tasks to count calls, memory and SQL at, SQL "
        f"at no more than {STATEMENTS_LIMIT}")  # fmt: skip
    add("--peer-sizes", numbers, "100,1000", "numbers of tasks to compare at; a peer that takes too long at a size "
        "is left out there (peers.LIMITS)")  # fmt: skip
    add("--peers", choice(*peers.PACKAGES), ",".join(peers.PACKAGES), "whom to compare with, where installed")
    add("--gc", choice("on", "off"), "on,off", "states of Python's garbage collector to time with")
    parser.add_argument("--durable-limit", type=int, default=10000, metavar="N",
        help="largest number of tasks with a store, memory or SQLite (default: %(default)s)")  # fmt: skip
    parser.add_argument("--engine", default="serial", choices=("serial", "parallel"),
        help="engine of ours and of TaskFlow; parallel has four threads, and calls are counted in its own thread only "
        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--repeat", type=int, default=1, metavar="N",
        help="time each case N times and keep the fastest, for a busy machine (default: %(default)s)")  # fmt: skip
    parser.add_argument("--rounds", type=positive, default=7, metavar="N",
        help="rounds of the part durable (default: %(default)s)")  # fmt: skip
    parser.add_argument("--round-tasks", type=positive, default=500, metavar="N",
        help="tasks of each flow of the part durable (default: %(default)s)")  # fmt: skip
    parser.add_argument("--workflows", type=Path, nargs="+", default=[], metavar="FILE",
        help="real workflows (WfFormat 1.5, *.json.gz) whose graphs the part durable runs as well")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print each row as one line of JSON")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    chosen = _parser().parse_args()
    try:
        with Stores(lambda line: print(line, file=sys.stderr if chosen.json else sys.stdout, flush=True)) as opened:
            Bench(chosen, opened).run()
    except KeyboardInterrupt:
        sys.exit(130)
