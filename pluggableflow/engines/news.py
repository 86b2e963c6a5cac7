# SPDX-License-Identifier: Apache-2.0
"""What listeners are to be told, kept until the commit that holds it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pluggableflow import states
from pluggableflow.notifier import Notifier
from pluggableflow.plan import RETRY, Plan
from pluggableflow.storage import Storage

_FLOW = -1
_STARTED = (states.RUNNING, states.REVERTING)
_ENDED = (states.SUCCESS, states.FAILURE, states.REVERTED, states.REVERT_FAILURE)
_WITHDRAWN = (states.RUNNING, states.PENDING)


class News:
    """Transitions of one run that listeners have not been told of.

    The outcomes of a wake-up are told after its commit; a start is told as it is handed out.

    :ivar heard: whether a listener was told of anything, and may have written something
    """

    def __init__(self, plan: Plan, storage: Storage, flow_notifier: Notifier, atom_notifier: Notifier) -> None:
        self._kinds, self._storage = plan.kinds, storage
        self._flow_notifier, self._atom_notifier = flow_notifier, atom_notifier
        self._events: list[tuple[int, str, str, Mapping[str, Any]]] = []  # node (or _FLOW), new state, old, outcome
        self._starts: dict[int, str] = {}
        self.heard = False

    @property
    def atoms_wanted(self) -> bool:
        """Whether anybody listens to atoms; only then :meth:`atom` is to be called."""
        return bool(self._atom_notifier)

    def atom(self, node: int, state: str, old: str) -> None:
        if old != state and (old, state) != _WITHDRAWN:
            self._events.append((node, state, old, self._outcome(node, state)))

    def flow(self, state: str, old: str) -> None:
        self._events.append((_FLOW, state, old, {}))

    def tell(self, starts: Collection[int] = ()) -> None:
        """Tell all but the starts, which wait for :meth:`tell_start`."""
        self._starts = dict.fromkeys(starts, "")
        events, self._events = self._events, []
        for node, state, old, outcome in events:
            if node == _FLOW:
                self.tell_flow(state, old)
            elif node in self._starts and state == self._storage.node_detail(node).state and state in _STARTED:
                self._starts[node] = old
            elif node not in self._starts or state not in _STARTED:
                self._tell_atom(node, state, old, outcome)

    def tell_start(self, node: int) -> None:
        if self._atom_notifier:
            state = self._storage.node_detail(node).state
            self._tell_atom(node, state, self._starts[node] or state, {})

    def tell_flow(self, state: str, old: str) -> None:
        if self._flow_notifier:
            storage = self._storage
            details = {"flow_name": storage.flow_name, "flow_uuid": storage.flow_uuid, "old_state": old}
            self.heard = True
            self._flow_notifier.notify(state, details)

    def _outcome(self, node: int, state: str) -> Mapping[str, Any]:
        """What came out, asked at once: what follows in the same wake-up may put the atom back to its beginning."""
        if state not in _ENDED:
            return {}
        detail = self._storage.node_detail(node)
        if state == states.SUCCESS:
            return {"result": detail.last_results}
        if state == states.FAILURE:
            return {"result": detail.failure}
        return {"result": detail.revert_failure if detail.revert_failure is not None else detail.revert_results}

    def _tell_atom(self, node: int, state: str, old: str, outcome: Mapping[str, Any]) -> None:
        detail, kind = self._storage.node_detail(node), "retry" if self._kinds[node] == RETRY else "task"
        details = {
            f"{kind}_name": detail.name,
            f"{kind}_uuid": detail.uuid,
            "flow_name": self._storage.flow_name,
            "flow_uuid": self._storage.flow_uuid,
            "old_state": old,
            **outcome,
        }
        self.heard = True
        self._atom_notifier.notify(state, details)
