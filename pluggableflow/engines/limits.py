# SPDX-License-Identifier: Apache-2.0
"""The time limits of tasks and of the flows of retries, as deadlines that are stored when what they limit begins."""

from __future__ import annotations

from pluggableflow.plan import Plan
from pluggableflow.storage import Storage

_OUTERMOST = -1


class Limits:
    """The deadlines of a plan's atoms. False where no atom has a limit.

    :ivar late: node to deadline and text of the limit, of what was handed out and has not come back
    """

    def __init__(self, plan: Plan, storage: Storage) -> None:
        self._plan, self._storage = plan, storage
        self._seconds: dict[int, float] = {}
        for node, atom in enumerate(plan.atoms):
            if atom is not None and atom.time_limit_seconds is not None:
                self._seconds[node] = atom.time_limit_seconds
        self.late: dict[int, tuple[int, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._seconds)

    def is_limited(self, node: int) -> bool:
        """Whether an atom has a limit of its own."""
        return node in self._seconds

    def begin(self, node: int, now: int) -> None:
        """An atom begins: store its deadline, if it has a limit and did not begin before."""
        seconds = self._seconds.get(node)
        if seconds is not None and self._storage.node_detail(node).deadline_at is None:
            self._storage.keep_deadline(node, now + int(seconds * 1_000_000))

    def of(self, node: int) -> tuple[int, str] | None:
        """The earliest deadline that holds for an atom, its own or that of a retry around it, and whose it is."""
        found = []
        each, what = node, "its limit"
        while each != _OUTERMOST:
            deadline = self._storage.node_detail(each).deadline_at if each in self._seconds else None
            if deadline is not None:
                found.append((deadline, f"{what} of {self._seconds[each]:g} s has passed"))
            each = self._plan.retry_of[each]
            what = f"the limit of {self._plan.names[each]!r}" if each != _OUTERMOST else ""
        return min(found) if found else None
