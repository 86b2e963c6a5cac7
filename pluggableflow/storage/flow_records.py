# SPDX-License-Identifier: Apache-2.0
"""The records of one flow, by the nodes of its plan, and what is to be written of them."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, cast

from pluggableflow import codec, states
from pluggableflow.atom import Atom
from pluggableflow.connection import Changes, Connection
from pluggableflow.exceptions import Duplicate, EncodingError, NotFound, ValueTooLarge
from pluggableflow.failure import Failure
from pluggableflow.flow import Depth
from pluggableflow.middleware import AtomDetail, FlowDetail, Record, RetryDetail, TaskDetail, new_uuids
from pluggableflow.retry import Retry
from pluggableflow.secret import Masks, Secret

LOG = logging.getLogger(__name__)

#: Name of the pseudo-atom that keeps the injected initial arguments.
INJECTOR = "_PluggableFlow_INJECTOR"

META_PROGRESS = "progress"
META_PROGRESS_DETAILS = "progress_details"
META_INJECTED = "injected"
META_DEPTH = "decider_depth"
#: Of a flow, next to the embedder's own: why it was cancelled, also while it is still being reverted for that.
META_CANCELLED = "_PluggableFlow_CANCELLED"

PROVIDING = (states.SUCCESS, states.RETRYING)

Providers = Any  # the linked list of pluggableflow.plan: (node, selector, next) or None
Input = tuple[str, str, bool, Providers]

RESET: Record = {
    "intention": states.EXECUTE, "results": None, "failure": None, "revert_results": None, "revert_failure": None,
    "not_before": None, "deadline_at": None, "started_at": None, "finished_at": None,
}  # fmt: skip
_NEW_RECORD: Record = {"state": states.PENDING, "attempt": 0, "signature": None, "meta": None, **RESET}
_NEW_RECORD |= {"revision": 0}


def _live(failure: Failure | None, before: Failure | None) -> Failure | None:
    """The one of two equal failures that has an exception to raise."""
    return before if failure is not None and before is not None and failure == before else failure


_Method = TypeVar("_Method", bound=Callable[..., Any])


def locked(method: _Method) -> _Method:
    """Let one thread at a time change what is collected, or collect it: tasks and listeners may write as well."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(_Method, call)


class FlowRecords:
    """What an engine keeps of the atoms of one flow, addressed by node.

    While the engine holds the flow's lease the changes of a wake-up are collected, and :meth:`take_changes` hands
    them over for one commit. Without a lease every change is written at once.
    """

    def __init__(self, flow_detail: FlowDetail, connection: Connection | None) -> None:
        self.flow_detail = flow_detail
        self._connection = connection
        self._lock = threading.RLock()
        self._leased = False
        self._by_name: dict[str, AtomDetail] = {}
        self._atoms: dict[str, Atom] = {}
        self._newer: dict[str, str] = {}  # versions of atoms that their details do not have yet
        self._nodes: list[AtomDetail | None] = []
        self._transient: dict[str, Any] = {}
        self._atom_args: dict[str, dict[str, Any]] = {}
        self._providers: dict[str, list[tuple[AtomDetail, Any]]] | None = None
        self._flow_patch: Record = {}
        self._patches: dict[str, Record] = {}
        self._failures: dict[str, Failure] = {}
        self._masks: Masks | None = None  # of the secrets that atoms were given
        self.given: dict[str, Any] = {}
        self.pending_bytes = 0
        self.reload(flow_detail)

    def reload(self, flow_detail: FlowDetail) -> None:
        """Take over what a store now says of the same flow; atoms must be bound again.

        A failure that was captured in this process keeps its live exception.
        """
        for detail in flow_detail:
            before = self._by_name.get(detail.name)
            if before is not None:
                detail.failure = _live(detail.failure, before.failure)
                detail.revert_failure = _live(detail.revert_failure, before.revert_failure)
        self.flow_detail = flow_detail
        self._by_name = {detail.name: detail for detail in flow_detail}
        self._stored = set(flow_detail._atoms) if self._connection is not None else set()
        self._nodes, self._newer = [], {}
        self._providers = None
        self._flow_patch, self._patches = {}, {}
        self._failures = {each.name: each.failure for each in flow_detail if each.failure is not None}
        self._atom_args = {
            detail.name: {**detail.meta[META_INJECTED], **self._atom_args.get(detail.name, {})}
            for detail in flow_detail
            if META_INJECTED in detail.meta
        } | {name: args for name, args in self._atom_args.items() if name not in self._by_name}
        self._merge_given()

    def _merge_given(self) -> None:
        injector = self._by_name.get(INJECTOR)
        self.given = {**(injector.results or {} if injector else {}), **self._transient}

    # -- identity -------------------------------------------------------------------------------------------------

    @property
    def flow_name(self) -> str:
        return self.flow_detail.name

    @property
    def flow_uuid(self) -> str:
        return self.flow_detail.uuid

    @property
    def flow_meta(self) -> dict[str, Any]:
        """A copy of the flow's metadata."""
        return dict(self.flow_detail.meta)

    # -- atoms ----------------------------------------------------------------------------------------------------

    @locked
    def ensure_atom(self, atom: Atom) -> str:
        """Make sure that an atom has a detail, and return its uuid.

        :raises Duplicate: an atom of another kind has one of that name
        """
        detail = self._by_name.get(atom.name)
        if detail is not None and isinstance(detail, RetryDetail) != isinstance(atom, Retry):
            raise Duplicate(f"Atom detail {atom.name!r} is that of another kind of atom; choose another name")
        self.ensure_atoms([atom])
        return self._by_name[atom.name].uuid

    @locked
    def ensure_atoms(self, atoms: Iterable[Atom | None]) -> None:
        """Make sure that all these atoms have details; the nodes of the plan are numbered by their order."""
        nodes: list[AtomDetail | None] = []
        atoms = list(atoms)
        fresh = iter(new_uuids(len(atoms)))
        by_name, details = self._by_name, self.flow_detail._atoms
        for atom in atoms:
            if atom is None:
                nodes.append(None)
                continue
            detail = by_name.get(atom.name)
            if detail is None:
                kind = RetryDetail if isinstance(atom, Retry) else TaskDetail
                detail = kind(atom.name, next(fresh))
                detail.parent_uuid = self.flow_detail.uuid
                detail.version = atom.version_text
                details[detail.uuid] = detail
                by_name[atom.name] = detail
            elif detail.version != atom.version_text:
                self._newer[atom.name] = atom.version_text
            self._atoms[atom.name] = atom
            nodes.append(detail)
        self._nodes = nodes
        self._providers = None
        self._written()

    def _detail(self, atom_name: str) -> AtomDetail:
        try:
            return self._by_name[atom_name]
        except KeyError:
            raise NotFound(f"Unknown atom {atom_name!r} in flow {self.flow_name!r}") from None

    def _retry_detail(self, retry_name: str) -> RetryDetail:
        detail = self._detail(retry_name)
        if not isinstance(detail, RetryDetail):
            raise NotFound(f"{retry_name!r} is not a retry")
        return detail

    def get_atom_uuid(self, atom_name: str) -> str:
        return self._detail(atom_name).uuid

    # -- collecting what is to be committed -----------------------------------------------------------------------

    def lease(self, leased: bool) -> None:
        """From now on changes are collected for commits (``True``), or written at once (``False``)."""
        self._leased = leased

    @locked
    def take_changes(self) -> Changes:
        """What has changed since the last call, as records."""
        changes = Changes(flow=self._flow_patch)
        for uuid, patch in self._patches.items():
            if uuid in self._stored:
                changes.changed[uuid] = patch
            else:
                detail = self.flow_detail._atoms[uuid]
                changes.added.append(
                    {
                        **_NEW_RECORD,
                        "uuid": uuid,
                        "parent_uuid": detail.parent_uuid,
                        "name": detail.name,
                        "kind": detail.kind,
                        "version": detail.version,
                        **patch,
                    }
                )
                self._stored.add(uuid)
        self._flow_patch, self._patches = {}, {}
        self.pending_bytes = 0
        return changes

    def _patch(self, detail: AtomDetail, columns: Record) -> None:
        if self._connection is not None:
            patch = self._patches.get(detail.uuid)
            if patch is None:
                self._patches[detail.uuid] = columns
            else:
                patch.update(columns)

    def _patch_flow(self, columns: Record) -> None:
        if self._connection is not None:
            self._flow_patch.update(columns)

    def _written(self) -> None:
        """A public change is complete: without a lease it goes to the store at once."""
        if self._connection is not None and not self._leased:
            self._connection.update_flow_details(self.flow_detail)
            self._stored = set(self.flow_detail._atoms)
            self._flow_patch, self._patches = {}, {}

    def encode(self, value: Any) -> str | None:
        """The text that the store keeps of a value.

        :raises EncodingError: the codec cannot encode it
        :raises ValueTooLarge: the store cannot hold so much
        """
        if value is None:
            return None
        text = codec.dumps(value)
        if self._connection is not None and len(text) > self._connection.largest_value_bytes:
            raise ValueTooLarge(
                f"a value of {len(text)} bytes is larger than the store's {self._connection.largest_value_bytes};"
                " keep it elsewhere and return a reference to it"
            )
        self.pending_bytes += len(text)
        return text

    # -- hot path: by node ----------------------------------------------------------------------------------------

    def node_detail(self, node: int) -> AtomDetail:
        detail = self._nodes[node]
        assert detail is not None, "gates have no detail"
        return detail

    def apply(
        self,
        node: int,
        state: str,
        attempt: int,
        intention: str,
        depth: Depth | None,
        now: int,
        signature: str | None = None,
    ) -> str:
        """Take over one transition of the machine; returns the state before.

        :param signature: of the atom, kept when it begins
        """
        detail = self._nodes[node]
        assert detail is not None
        old_state = detail.state
        detail.state = state
        columns: Record = {"state": state}
        if detail.intention != intention:
            detail.intention = columns["intention"] = intention
        if state == states.RUNNING:
            if attempt != detail.attempt or detail.started_at is None:
                detail.started_at = columns["started_at"] = now
            detail.attempt = columns["attempt"] = attempt
        elif state == states.PENDING:
            if old_state == states.RUNNING:
                detail.attempt = columns["attempt"] = attempt
                detail.started_at = columns["started_at"] = None
                if detail.deadline_at is not None:
                    detail.deadline_at = columns["deadline_at"] = None
            elif old_state != states.PENDING:
                detail.reset()
                self._failures.pop(detail.name, None)
                columns |= RESET
                if detail.meta.pop(META_DEPTH, None) is not None:
                    columns["meta"] = self.encode(detail.meta or None)
        elif state == states.IGNORE:
            detail.intention = columns["intention"] = states.IGNORE
            detail.meta[META_DEPTH] = depth.name if depth is not None else Depth.ATOM.name
            columns["meta"] = self.encode(detail.meta)
        elif state != states.REVERTING and state != states.RETRYING:
            detail.finished_at = columns["finished_at"] = now
        if self._connection is not None:
            if signature is not None and old_state == states.PENDING:
                self._sign(detail, signature, columns)
            self._patch(detail, columns)
        return old_state

    def keep_result(self, node: int, value: Any) -> None:
        """Keep what an atom's execute returned.

        :raises EncodingError: nothing was kept
        :raises ValueTooLarge: nothing was kept
        """
        detail = self._nodes[node]
        assert detail is not None
        if isinstance(detail, RetryDetail):
            history = [*detail.results, (value, {})]
            text = self.encode(history) if self._connection is not None else None
            detail.results = history
        else:
            text = self.encode(value) if self._connection is not None else None
            detail.results = value
        columns: Record = {"results": text}
        if detail.failure is not None:
            detail.failure = columns["failure"] = None
            self._failures.pop(detail.name, None)
        if self._connection is not None:
            self._patch(detail, columns)

    def keep_failure(self, node: int, failure: Failure) -> None:
        """Keep what an atom's execute, or a decision about it, raised."""
        detail, failure = self.node_detail(node), self.masked_failure(failure)
        detail.failure = self._failures[detail.name] = failure
        self._patch(detail, {"failure": codec.dumps(failure)})

    def keep_revert(self, node: int, value: Any, failure: Failure | None) -> None:
        """Keep how a revert ended.

        :raises EncodingError: nothing was kept
        """
        detail = self.node_detail(node)
        text = self.encode(value)
        failure = self.masked_failure(failure) if failure is not None else None
        detail.revert_results, detail.revert_failure = value, failure
        self._patch(
            detail, {"revert_results": text, "revert_failure": None if failure is None else codec.dumps(failure)}
        )

    def keep_retry_failure(self, retry: int, failed_name: str, failure: Failure) -> None:
        """Add a failure to the latest attempt in a retry's history, without tracebacks: the atom keeps those."""
        detail = self.node_detail(retry)
        assert isinstance(detail, RetryDetail)
        detail.last_failures[failed_name] = self.masked_failure(failure).without_traceback()
        self._patch(detail, {"results": codec.dumps(detail.results)})

    def keep_progress(self, node: int, progress: float, details: Mapping[str, Any] | None) -> None:
        """Keep how far a task has come, from 0 to 1, and what it last said of it; only the former if both cannot be."""
        detail = self.node_detail(node)
        before = detail.meta.get(META_PROGRESS_DETAILS)
        for said in (details or before, None):
            meta = {**detail.meta, META_PROGRESS: progress, META_PROGRESS_DETAILS: said}
            try:
                text = self.encode(meta) if self._connection is not None else None
            except (EncodingError, ValueTooLarge) as error:
                if said is None:
                    raise
                LOG.warning("what task %r said of its progress cannot be stored: %s", detail.name, error)
            else:
                break
        detail.meta = meta
        self._patch(detail, {"meta": text})

    def keep_not_before(self, retry: int, not_before: int | None) -> None:
        detail = self.node_detail(retry)
        detail.not_before = not_before
        self._patch(detail, {"not_before": not_before})

    def keep_deadline(self, node: int, deadline_at: int) -> None:
        detail = self.node_detail(node)
        detail.deadline_at = deadline_at
        self._patch(detail, {"deadline_at": deadline_at})

    def forget(self, node: int) -> None:
        """Put an atom back to PENDING, whatever state it is in."""
        detail = self.node_detail(node)
        self.apply(node, states.PENDING, detail.attempt, states.EXECUTE, None, 0)
        if detail.results or detail.failure is not None:
            detail.reset()
            self._keep_failure_of(detail)
            self._patch(detail, dict(RESET))

    def keep_signature(self, node: int, signature: str) -> None:
        """Keep what an atom is: its signature and its version."""
        detail = self.node_detail(node)
        columns: Record = {}
        self._sign(detail, signature, columns)
        if columns:
            self._patch(detail, columns)

    def _sign(self, detail: AtomDetail, signature: str, columns: Record) -> None:
        if detail.signature != signature:
            detail.signature = columns["signature"] = signature
        if detail.name in self._newer:
            detail.version = columns["version"] = self._newer.pop(detail.name)

    def arguments(self, atom_name: str, inputs: Iterable[Input], reveal: bool = True) -> dict[str, Any]:
        """The arguments for a method of an atom.

        :param reveal: take secrets out of their wrapping; leave them in it where the arguments are only to be shown
        :raises NotFound: a required one is not there; says which
        """
        arguments: dict[str, Any] = {}
        own, given, nodes = self._atom_args.get(atom_name), self.given, self._nodes
        for parameter, name, is_optional, providers in inputs:
            if own and name in own:
                arguments[parameter] = own[name]
                continue
            if name in given:
                arguments[parameter] = given[name]
                continue
            while providers is not None:
                node, selector, providers = providers
                detail = nodes[node]
                if detail is not None and detail.state in PROVIDING:
                    try:
                        value = detail.last_results
                        arguments[parameter] = value if selector is None else select(value, selector)
                        break
                    except NotFound as missing:
                        if not is_optional:
                            raise NotFound(f"{atom_name!r} needs {name!r}, but {detail.name!r}: {missing}") from None
            else:
                if not is_optional:
                    raise NotFound(f"{atom_name!r} needs {name!r}, which nothing that has run provides")
        if reveal:
            for parameter, secret in arguments.items():
                if secret.__class__ is Secret:
                    arguments[parameter] = self._reveal(parameter, secret)
        return arguments

    # -- secrets --------------------------------------------------------------------------------------------------

    def _reveal(self, parameter: str, secret: Secret) -> Any:
        if secret.is_empty:
            raise NotFound(f"the secret for {parameter!r} was not stored; give it again")
        if self._masks is None:
            self._masks = Masks()
        self._masks.learn(secret)
        return secret.reveal()

    def masked(self, text: str) -> str:
        """The text without the secrets that atoms of this run were given."""
        return text if self._masks is None else self._masks.apply(text)

    def masked_failure(self, failure: Failure) -> Failure:
        """The failure without the secrets that atoms of this run were given; then also without its live exception."""
        return failure if self._masks is None else failure.masked(self._masks)

    def empty_secrets(self, given: Collection[str], atoms: Iterable[Atom | None]) -> list[str]:
        """The names of secrets whose value was not stored, and is not given again.

        :param given: what is about to be injected; and what ``atoms`` inject into themselves is given, too
        """
        found = [name for name in self.given if name not in given and _is_empty(self.given[name])]
        if self._atom_args:
            injected = {atom.name: atom.inject for atom in atoms if atom is not None}
            for atom_name, own in self._atom_args.items():
                again = injected.get(atom_name, {})
                found += [name for name in own if name not in again and _is_empty(own[name])]
        return found

    def _keep_failure_of(self, detail: AtomDetail) -> None:
        if detail.failure is None:
            self._failures.pop(detail.name, None)
        else:
            self._failures[detail.name] = detail.failure


def _is_empty(value: Any) -> bool:
    return isinstance(value, Secret) and value.is_empty


def select(result: Any, selector: Any) -> Any:
    """The part of a result that one provided name stands for.

    :raises NotFound: the result has no such part
    """
    if selector is None:
        return result
    try:
        return result[selector]
    except (TypeError, LookupError, ValueError):
        raise NotFound(f"its result has no part {selector!r}") from None
