# SPDX-License-Identifier: Apache-2.0
"""What may not change of an atom once it has begun, as short text, and the check of a flow against its detail.

A signature is five parts joined by colons: kind, then digests of the resolved inputs, the retry scope, what comes
before the atom, and the deciders in front of it. Class paths, values, defaults and an order that means nothing are
not in it. A gate between flows stands for what comes before it, so wrapping a flow into another changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b

from pluggableflow import states
from pluggableflow.exceptions import FlowMismatch
from pluggableflow.middleware import AtomDetail, FlowDetail
from pluggableflow.plan import END, RETRY, Plan
from pluggableflow.storage import INJECTOR

_ASPECTS = ("its kind", "its inputs", "its retry", "what comes before it", "its deciders")


def _digest(parts: Iterable[str]) -> str:
    text = "\0".join(parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest() if text else ""


def signatures(plan: Plan, given: Collection[str]) -> dict[int, str]:
    """The signature of every atom, by node.

    :param given: names in the flow's store
    """
    names, kinds, predecessors = plan.names, plan.kinds, plan.predecessors
    before: list[str] = []
    found: dict[int, str] = {}
    for node, kind in enumerate(kinds):
        links = plan.deciders.get(node, ())
        deciders = _digest(sorted(f"{names[link.source]}>{link.depth.name}" for link in links))
        if kind <= END:
            own = sorted({before[each] if kinds[each] <= END else names[each] for each in predecessors[node]} - {""})
            if deciders:
                own.append(deciders)
            before.append(own[0] if len(own) == 1 else "(" + _digest(own) + ")" if own else "")
            continue
        before.append("")
        preds = {before[each] if kinds[each] <= END else names[each] for each in predecessors[node]} - {""}
        retry = plan.retry_of[node]
        inputs = []
        for method in (plan.execute_inputs, plan.revert_inputs):
            for parameter, name, _optional, providers in method[node]:
                source = "" if name in given else names[providers[0]] if providers else "-"
                inputs.append(f"{parameter}={name}@{source}")
        found[node] = ":".join(
            (
                "retry" if kind == RETRY else "task",
                _digest(sorted(set(inputs))),
                _digest((names[retry],)) if retry >= 0 else "",
                _digest(sorted(preds)),
                deciders,
            )
        )
    return found


def check(plan: Plan, detail: FlowDetail, now: dict[int, str]) -> None:
    """Compare a flow with what its detail says has begun.

    :raises FlowMismatch: lists what was added, removed and changed; nothing was changed in the store
    """
    removed, changed = [], {}
    added: dict[str, None] = {}
    begun = {stored.name for stored in detail if stored.state != states.PENDING}
    for stored in detail:
        if stored.name == INJECTOR or stored.state == states.PENDING:
            continue
        node = plan.index.get(stored.name)
        if node is None:
            if stored.state != states.REVERTED:
                removed.append(stored.name)
            continue
        why = _differences(stored, now[node], plan)
        if why:
            changed[stored.name] = why
            for before in _atoms_before(plan, node):
                if plan.names[before] not in begun:
                    added[plan.names[before]] = None
    if removed or changed:
        raise FlowMismatch(detail.uuid, list(added), removed, changed)


def _differences(stored: AtomDetail, signature: str, plan: Plan) -> list[str]:
    node = plan.index[stored.name]
    atom = plan.atoms[node]
    why = []
    if atom is not None and str(atom.version[0]) != (major := stored.version.partition(".")[0]):
        why.append(f"its major version, {major} then and {atom.version[0]} now")
    if stored.signature is not None and stored.signature != signature:
        pairs = zip(_ASPECTS, stored.signature.split(":"), signature.split(":"), strict=True)
        why += [aspect for aspect, then, now in pairs if then != now]
    return why


def _atoms_before(plan: Plan, node: int) -> list[int]:
    found, seen, stack = [], set(), list(plan.predecessors[node])
    while stack:
        each = stack.pop()
        if each in seen:
            continue
        seen.add(each)
        if plan.kinds[each] <= END:
            stack.extend(plan.predecessors[each])
        else:
            found.append(each)
    return sorted(found)
