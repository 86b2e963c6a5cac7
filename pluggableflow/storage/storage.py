# SPDX-License-Identifier: Apache-2.0
"""The engine's view of one flow: results, arguments, states and failures of atoms by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pluggableflow import codec, states
from pluggableflow.connection import Connection
from pluggableflow.exceptions import NotFound
from pluggableflow.failure import Failure
from pluggableflow.middleware import AtomDetail, FlowDetail, RetryDetail, TaskDetail
from pluggableflow.retry import History
from pluggableflow.secret import Secret, for_store, withheld
from pluggableflow.storage.flow_records import (
    INJECTOR,
    META_CANCELLED,
    META_INJECTED,
    META_PROGRESS,
    META_PROGRESS_DETAILS,
    PROVIDING,
    RESET,
    FlowRecords,
    locked,
    select,
)

_OUTCOME = frozenset({"state", "results", "failure", "revert_results", "revert_failure", "started_at", "finished_at"})


class Storage(FlowRecords):
    """What is known of the atoms of one flow.

    :param connection: where it is kept; ``None`` keeps it in memory alone
    :param scope_fetcher: atom name to the names of the atoms whose results it may see, nearest first, for
        :meth:`fetch_mapped_args` of an atom; without it every atom sees every other
    """

    injector_name = INJECTOR

    def __init__(
        self,
        flow_detail: FlowDetail,
        connection: Connection | None = None,
        scope_fetcher: Callable[[str], Iterable[str]] | None = None,
    ) -> None:
        super().__init__(flow_detail, connection)
        self.scope_fetcher = scope_fetcher

    # -- injected values ------------------------------------------------------------------------------------------

    @locked
    def inject(self, pairs: Mapping[str, Any] | Iterable[tuple[str, Any]], transient: bool = False) -> None:
        """Give initial arguments to the whole flow. Of a secret, the store keeps only that there is one.

        :param transient: keep them in this process only; they are not there after a resumption elsewhere
        """
        pairs = dict(pairs)
        if transient:
            self._transient.update(pairs)
        else:
            injector = self._by_name.get(INJECTOR)
            results = {**(injector.results or {} if injector else {}), **for_store(pairs)}
            text = self.encode(results)
            if injector is None:
                injector = TaskDetail(INJECTOR)
                self.flow_detail.add(injector)
                self._by_name[INJECTOR] = injector
            injector.results, injector.state = results, states.SUCCESS
            self._patch(injector, {"results": text, "state": states.SUCCESS})
            for name in pairs:
                if isinstance(self._transient.get(name), Secret):  # it was held here in place of what was stored
                    del self._transient[name]
            self._transient.update(withheld(pairs))
        self._merge_given()
        self._written()

    @locked
    def inject_atom_args(self, atom_name: str, pairs: Mapping[str, Any], transient: bool = True) -> None:
        """Give arguments to one atom; they win over everything else it could see."""
        if not pairs:
            return
        if not transient:
            detail = self._detail(atom_name)
            meta = {**detail.meta, META_INJECTED: {**detail.meta.get(META_INJECTED, {}), **for_store(pairs)}}
            text = self.encode(meta)
            detail.meta = meta
            self._patch(detail, {"meta": text})
        self._atom_args.setdefault(atom_name, {}).update(pairs)
        self._written()

    def atom_arguments(self, atom_name: str) -> Mapping[str, Any]:
        """The values injected into one atom."""
        return self._atom_args.get(atom_name, {})

    # -- results --------------------------------------------------------------------------------------------------

    @locked
    def save(self, atom_name: str, result: Any, state: str = states.SUCCESS) -> None:
        """Keep the outcome of an atom, and its state."""
        detail = self._detail(atom_name)
        detail.put(state, self.masked_failure(result) if isinstance(result, Failure) else result)
        if detail.started_at is None:  # what has an outcome has run
            detail.started_at = detail.finished_at = time.time_ns() // 1000
        self._keep_failure_of(detail)
        self._patch(detail, {key: value for key, value in detail.to_record().items() if key in _OUTCOME})
        self._written()

    @locked
    def save_retry_failure(self, retry_name: str, failed_atom_name: str, failure: Failure) -> None:
        """Add a failure to the latest attempt in a retry's history, without tracebacks: the atom keeps those."""
        detail = self._retry_detail(retry_name)
        detail.last_failures.setdefault(failed_atom_name, self.masked_failure(failure).without_traceback())
        self._patch(detail, {"results": codec.dumps(detail.results)})
        self._written()

    @locked
    def cleanup_retry_history(self, retry_name: str, state: str) -> None:
        """Forget a retry's history."""
        detail = self._retry_detail(retry_name)
        detail.state, detail.results = state, []
        self._patch(detail, {"state": state, "results": None})
        self._written()

    @locked
    def reset(self, atom_name: str, state: str = states.PENDING) -> None:
        """Forget the outcomes of an atom."""
        if atom_name == INJECTOR:
            return
        detail = self._detail(atom_name)
        detail.reset(state)
        self._keep_failure_of(detail)
        self._patch(detail, {**RESET, "state": state})
        self._written()

    def get(self, atom_name: str) -> Any:
        """The result of an atom's execution: its value, or its failure.

        :raises NotFound: there is none
        """
        detail = self._detail(atom_name)
        if detail.failure is not None and detail.state not in PROVIDING:
            return detail.failure
        if detail.state in (states.PENDING, states.IGNORE, states.RUNNING):
            raise NotFound(f"{atom_name!r} is {detail.state} and has no result")
        return detail.last_results

    get_execute_result = get

    def get_revert_result(self, atom_name: str) -> Any:
        """What an atom's revert returned, or its failure.

        :raises NotFound: it was not reverted
        """
        detail = self._detail(atom_name)
        if detail.state not in (states.REVERTED, states.REVERT_FAILURE):
            raise NotFound(f"{atom_name!r} is {detail.state} and was not reverted")
        return detail.revert_failure if detail.revert_failure is not None else detail.revert_results

    def _provided(self) -> dict[str, list[tuple[AtomDetail, Any]]]:
        if self._providers is None:
            self._providers = {}
            for name, atom in self._atoms.items():
                for output, selector in atom.save_as.items():
                    self._providers.setdefault(output, []).append((self._by_name[name], selector))
        return self._providers

    def _values(self, name: str) -> Iterator[Any]:
        if name in self.given:
            yield self.given[name]
        for detail, selector in self._provided().get(name, ()):
            if detail.state in PROVIDING:
                try:
                    yield select(detail.last_results, selector)
                except NotFound:
                    continue

    def fetch(self, name: str, many_handler: Callable[[list[Any]], Any] | None = None) -> Any:
        """The value of a name; where several atoms have provided it, the first unless ``many_handler`` chooses.

        :raises NotFound: nothing provides it, or nothing has yet
        """
        values = list(self._values(name))
        if not values:
            if name in self._provided():
                raise NotFound(f"Unable to find result {name!r}: no atom of flow {self.flow_name!r} has provided it")
            raise NotFound(f"Name {name!r} is not mapped: no atom of flow {self.flow_name!r} provides it")
        return (many_handler or (lambda found: found[0]))(values)

    def fetch_all(self, many_handler: Callable[[list[Any]], Any] | None = None) -> dict[str, Any]:
        """All values by name; a list where several atoms have provided one name."""
        results = {}
        for name in [*self.given, *(each for each in self._provided() if each not in self.given)]:
            values = list(self._values(name))
            if values:
                results[name] = values[0] if len(values) == 1 else (many_handler or list)(values)
        return results

    def fetch_mapped_args(
        self,
        args_mapping: Mapping[str, str],
        atom_name: str | None = None,
        optional_args: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Values for parameters, by the names they are bound to, as the atom would see them.

        :raises NotFound: a parameter that is not in ``optional_args`` has none
        """
        optional = frozenset(optional_args)
        arguments = {}
        for parameter, name in args_mapping.items():
            values = list(self._visible(name, atom_name))
            if values:
                arguments[parameter] = values[0]
            elif parameter not in optional:
                raise NotFound(f"{name!r}, needed for {parameter!r} of {atom_name!r}, is not there")
        return arguments

    def fetch_unsatisfied_args(
        self,
        atom_name: str,
        args_mapping: Mapping[str, str],
        optional_args: Iterable[str] = (),
    ) -> set[str]:
        """The bound names that nothing could provide to the atom, whether or not it has run."""
        own, optional, provided = self._atom_args.get(atom_name, {}), frozenset(optional_args), self._provided()
        return {
            name
            for parameter, name in args_mapping.items()
            if parameter not in optional and name not in own and name not in self.given and name not in provided
        }

    def _visible(self, name: str, atom_name: str | None) -> Iterator[Any]:
        if atom_name is not None and name in self._atom_args.get(atom_name, {}):
            yield self._atom_args[atom_name][name]
        if name in self.given:
            yield self.given[name]
        if atom_name is None or self.scope_fetcher is None:
            yield from self._values(name)
            return
        for visible in self.scope_fetcher(atom_name):
            atom, detail = self._atoms.get(visible), self._by_name.get(visible)
            if atom is not None and detail is not None and name in atom.save_as and detail.state in PROVIDING:
                yield select(detail.last_results, atom.save_as[name])

    # -- failures -------------------------------------------------------------------------------------------------

    def get_execute_failures(self) -> dict[str, Failure]:
        """The failures of the last executions, by atom name."""
        return dict(self._failures)

    get_failures = get_execute_failures

    def get_revert_failures(self) -> dict[str, Failure]:
        """The failures of reverts, by atom name."""
        return {each.name: each.revert_failure for each in self.flow_detail if each.revert_failure is not None}

    def get_execute_failure(self, atom_name: str) -> Failure | None:
        return self._detail(atom_name).failure

    def get_revert_failure(self, atom_name: str) -> Failure | None:
        return self._detail(atom_name).revert_failure

    def has_failures(self) -> bool:
        return any(each.failure is not None or each.revert_failure is not None for each in self.flow_detail)

    # -- states ---------------------------------------------------------------------------------------------------

    def get_atom_state(self, atom_name: str) -> str:
        return self._detail(atom_name).state

    def get_atoms_states(self, atom_names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Atom name to state and intention."""
        return {name: (self._detail(name).state, self._detail(name).intention) for name in atom_names}

    @locked
    def set_atom_state(self, atom_name: str, state: str) -> None:
        detail = self._detail(atom_name)
        detail.state = state
        self._patch(detail, {"state": state})
        self._written()

    def get_atom_intention(self, atom_name: str) -> str:
        return self._detail(atom_name).intention

    @locked
    def set_atom_intention(self, atom_name: str, intention: str) -> None:
        detail = self._detail(atom_name)
        detail.intention = intention
        self._patch(detail, {"intention": intention})
        self._written()

    def get_flow_state(self) -> str:
        return self.flow_detail.state

    @locked
    def set_flow_state(self, state: str) -> None:
        self.flow_detail.state = state
        self._patch_flow({"state": state})
        self._written()

    @property
    def cancelled(self) -> str | None:
        """Why the flow was cancelled, or ``None``; also while it is still being reverted for that."""
        found: str | None = self.flow_detail.meta.get(META_CANCELLED)
        return found

    def keep_cancelled(self, why: str | None) -> None:
        """Keep why the flow is cancelled, or with ``None`` forget it."""
        if why != self.cancelled:
            meta = {name: value for name, value in self.flow_detail.meta.items() if name != META_CANCELLED}
            self.flow_detail.meta = meta if why is None else {**meta, META_CANCELLED: why}
            self._patch_flow({"meta": self.encode(self.flow_detail.meta or None)})

    def set_wake_at(self, wake_at: int | None) -> None:
        if self.flow_detail.wake_at != wake_at:
            self.flow_detail.wake_at = wake_at
            self._patch_flow({"wake_at": wake_at})

    def set_deadline_at(self, deadline_at: int | None) -> None:
        if self.flow_detail.deadline_at != deadline_at:
            self.flow_detail.deadline_at = deadline_at
            self._patch_flow({"deadline_at": deadline_at})

    def acknowledge(self, sequence: int) -> None:
        """The request of this sequence has been seen and is being followed."""
        self.flow_detail.request_handled = sequence
        self._patch_flow({"request_handled": sequence})

    # -- metadata, progress, histories ------------------------------------------------------------------------------

    @locked
    def update_flow_metadata(self, update_with: Mapping[str, Any]) -> None:
        meta = {**self.flow_detail.meta, **update_with}
        text = self.encode(meta)
        self.flow_detail.meta = meta
        self._patch_flow({"meta": text})
        self._written()

    @locked
    def update_atom_metadata(self, atom_name: str, update_with: Mapping[str, Any]) -> None:
        detail = self._detail(atom_name)
        meta = {**detail.meta, **update_with}
        text = self.encode(meta)
        detail.meta = meta
        self._patch(detail, {"meta": text})
        self._written()

    @locked
    def set_task_progress(self, task_name: str, progress: float, details: Mapping[str, Any] | None = None) -> None:
        """Keep how far a task has come, from 0 to 1, and anything that says more of it."""
        update: dict[str, Any] = {META_PROGRESS: progress}
        if details is not None:
            update[META_PROGRESS_DETAILS] = {"at_progress": progress, "details": dict(details)} if details else None
        self.update_atom_metadata(task_name, update)

    def get_task_progress(self, task_name: str) -> float:
        """How far a task has come, from 0 to 1; 0 if it never said so."""
        return float(self._detail(task_name).meta.get(META_PROGRESS, 0.0))

    def get_task_progress_details(self, task_name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._detail(task_name).meta.get(META_PROGRESS_DETAILS)
        return found

    def get_retry_history(self, retry_name: str) -> History:
        """All attempts of a retry."""
        detail = self._retry_detail(retry_name)
        return History(detail.results, detail.failure)

    def get_retry_histories(self) -> Iterator[tuple[str, History]]:
        """Name and history of every retry."""
        for detail in self.flow_detail:
            if isinstance(detail, RetryDetail):
                yield detail.name, History(detail.results, detail.failure)
