# SPDX-License-Identifier: Apache-2.0
"""Text for people on why an atom failed: its failure, and what ran before it with which values.

The text is bounded, and so is the work: every node and link of the flow is looked at once at most, and of values only
as much as is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from pluggableflow import states
from pluggableflow.exceptions import NotFound
from pluggableflow.failure import Failure
from pluggableflow.plan import END, Plan
from pluggableflow.secret import MASK

if TYPE_CHECKING:
    from pluggableflow.engine import Engine
    from pluggableflow.storage import Storage

#: Atoms that are listed; of the others only their number is given.
ATOMS_LIMIT = 50
#: Characters shown of one text or object inside a value.
TEXT_LIMIT_CHARACTERS = 200
#: Items shown of one list or dictionary inside a value.
ITEMS_LIMIT = 20
#: Characters shown of the inputs of one atom, and of its outputs.
VALUE_LIMIT_CHARACTERS = 500
#: Parts looked at of one value, all its levels together.
PARTS_LIMIT = 200
_DEPTH_LIMIT = 6
_RUNNING_WHEN_IT_FAILED = (states.FAILURE, states.REVERTING)


class FailureFormatter:
    """Shows what led to the failure of an atom.

    :param hide_inputs_outputs_of: names of atoms whose values are not shown at all
    :param mask_inputs_keys: parameters, names and keys in dictionaries, at any depth, whose values are masked
        among the inputs of atoms
    :param mask_outputs_keys: the same for what atoms provide
    """

    def __init__(
        self,
        engine: Engine,
        hide_inputs_outputs_of: Iterable[str] = (),
        mask_inputs_keys: Iterable[str] = (),
        mask_outputs_keys: Iterable[str] = (),
    ) -> None:
        self._engine = engine
        self._hide_inputs_outputs_of = frozenset(hide_inputs_outputs_of)
        self._mask_inputs_keys = frozenset(mask_inputs_keys)
        self._mask_outputs_keys = frozenset(mask_outputs_keys)

    def format(self, failure: Failure, atom_name: str) -> tuple[Any, str]:
        """What there is to log of an atom's failure.

        :returns: ``exc_info`` if the live exception is at hand, else ``None``; and text, which has the traceback if
            ``exc_info`` has not, and what ran before the atom unless that has been undone since. May be empty.
        """
        parts = [] if failure.exc_info is not None else [self._engine.storage.masked(failure.pformat(traceback=True))]
        plan = self._engine.plan
        node = None if plan is None else plan.index.get(atom_name)
        if plan is not None and node is not None and self._is_current(atom_name):
            parts.extend(self._led_to(plan, node))
        return failure.exc_info, "\n".join(parts)

    def _is_current(self, atom_name: str) -> bool:
        storage = self._engine.storage
        try:
            return (
                storage.get_atom_intention(atom_name) == states.EXECUTE
                or storage.get_atom_state(atom_name) in _RUNNING_WHEN_IT_FAILED
            )
        except NotFound:
            return False

    def _led_to(self, plan: Plan, node: int) -> Iterator[str]:
        before = list(_atoms_before(plan, node))
        yield f"{len(before)} atom(s) came before {plan.names[node]!r} (nearest first):"
        for each in before[:ATOMS_LIMIT]:
            yield "  " + self._format_node(each)
        if len(before) > ATOMS_LIMIT:
            yield f"  ... and {len(before) - ATOMS_LIMIT} more"

    def _format_node(self, node: int) -> str:
        """One line for an atom."""
        plan, storage = self._engine.plan, self._engine.storage
        assert plan is not None
        name = plan.names[node]
        try:
            line = f"{name!r} {storage.get_atom_state(name)}"
        except NotFound:
            return repr(name)
        if name in self._hide_inputs_outputs_of:
            return line
        inputs = [(parameter, key, True, places) for parameter, key, _optional, places in plan.execute_inputs[node]]
        found = storage.arguments(name, inputs, reveal=False)
        if found:
            bound = {parameter: key for parameter, key, _optional, _places in inputs}
            masked = {each: MASK if bound[each] in self._mask_inputs_keys else value for each, value in found.items()}
            line += f"; requires {self.show(masked, self._mask_inputs_keys)}"
        try:
            result = storage.get_execute_result(name)
        except NotFound:
            return line
        return f"{line}; provides {self.show_result(name, result)}"

    def show_result(self, atom_name: str, result: Any) -> str:
        """Bounded text for what an atom returned, without what is to be masked of it."""
        hidden, plan = self._mask_outputs_keys, self._engine.plan
        node = plan.index.get(atom_name) if plan is not None else None
        atom = plan.atoms[node] if plan is not None and node is not None else None
        parts = {part for name, part in atom.save_as.items() if name in hidden} if atom is not None and hidden else ()
        if parts and not isinstance(result, Failure):
            if None in parts:
                return MASK
            if isinstance(result, Mapping):
                return self.show(result, hidden | parts)
            if isinstance(result, (list, tuple)):
                masked = [MASK if index in parts else each for index, each in enumerate(result)]
                result = tuple(masked) if isinstance(result, tuple) else masked
        return self.show(result, hidden)

    def show(self, value: Any, masked_keys: Collection[Any] = ()) -> str:
        """Bounded text for a value, without the values of some keys and without secrets."""
        return _cut(self._text(value, masked_keys, _DEPTH_LIMIT, iter(range(PARTS_LIMIT))), VALUE_LIMIT_CHARACTERS)

    def _text(self, value: Any, masked_keys: Collection[Any], depth: int, left: Iterator[int]) -> str:
        if next(left, None) is None:
            return "..."
        if isinstance(value, dict):
            if not depth:
                return "{...}"
            shown = (
                f"{self._leaf(key)}: {MASK if key in masked_keys else self._text(item, masked_keys, depth - 1, left)}"
                for key, item in islice(value.items(), ITEMS_LIMIT)
            )
            return "{" + _joined(shown, len(value)) + "}"
        if type(value) in (list, tuple):
            opening, closing = "[]" if type(value) is list else "()"
            if not depth:
                return f"{opening}...{closing}"
            items = (self._text(item, masked_keys, depth - 1, left) for item in islice(value, ITEMS_LIMIT))
            return opening + _joined(items, len(value)) + closing
        return self._leaf(value)

    def _leaf(self, value: Any) -> str:
        storage: Storage = self._engine.storage
        if isinstance(value, Failure):
            return f"<{_cut(storage.masked(str(value)), TEXT_LIMIT_CHARACTERS)}>"
        if type(value) is str:
            return repr(_cut(storage.masked(value), TEXT_LIMIT_CHARACTERS))
        try:
            text = repr(value)
        except Exception as error:
            return f"<{type(value).__name__}, whose __repr__ raised {type(error).__name__}>"
        return _cut(storage.masked(text), TEXT_LIMIT_CHARACTERS)

    def _mask_keys(self, data: Any, mask_keys: Collection[Any]) -> Any:
        """A copy of dictionaries and lists in which the values of some keys are masked."""
        if isinstance(data, dict):
            return {key: MASK if key in mask_keys else self._mask_keys(item, mask_keys) for key, item in data.items()}
        return [self._mask_keys(item, mask_keys) for item in data] if isinstance(data, list) else data


def _atoms_before(plan: Plan, node: int) -> Iterator[int]:
    """All atoms on ways to a node, each once, those with the fewest others in between first."""
    seen, layer = {node}, [node]
    while layer:
        following: list[int] = []
        waiting = list(reversed(layer))
        while waiting:
            for before in plan.predecessors[waiting.pop()]:
                if before in seen:
                    continue
                seen.add(before)
                if plan.kinds[before] > END:
                    following.append(before)
                else:  # a gate is no step of its own
                    waiting.append(before)
        yield from following
        layer = following


def _joined(shown: Iterable[str], total: int) -> str:
    found = list(shown)
    return ", ".join(found if total == len(found) else [*found, f"... {total - len(found)} more"])


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-(limit // 2) :]}"
