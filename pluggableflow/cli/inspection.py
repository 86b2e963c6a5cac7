# SPDX-License-Identifier: Apache-2.0
"""What is stored of flows, for people and as plain data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pluggableflow import owner, states
from pluggableflow.cli.flow_file import FlowFile, sha256_of
from pluggableflow.cli.progress import failure_line
from pluggableflow.conductor import META_ASIDE
from pluggableflow.connection import Connection
from pluggableflow.exceptions import DecodingError, FlowFileError
from pluggableflow.middleware import AtomDetail, FlowDetail
from pluggableflow.storage import INJECTOR

_COLOURS = {
    states.SUCCESS: "green",
    states.FAILURE: "red",
    states.REVERT_FAILURE: "red",
    states.REVERTED: "yellow",
    states.CANCELLED: "yellow",
    states.RUNNING: "cyan",
}
#: Wide enough for every line where the output is not a terminal, so that nothing is wrapped or cut off.
_UNBOUNDED_COLUMNS = 10_000


def read(connection: Connection, stored: FlowDetail) -> tuple[FlowDetail, str | None]:
    """A flow with its atoms; or without them, and why.

    Values of types that a flow file defines can be read only with that file, if it is unchanged.
    """
    try:
        return connection.get_flow_details(stored.uuid), None
    except DecodingError:
        factory = stored.factory or {}
    try:
        if "file" in factory and sha256_of(factory["file"]) == factory["sha256"]:
            FlowFile(factory["file"])
        return connection.get_flow_details(stored.uuid), None
    except (DecodingError, FlowFileError) as error:
        return stored, f"its atoms cannot be read: {error}"


def flow_summary(detail: FlowDetail) -> dict[str, Any]:
    return {
        "uuid": detail.uuid,
        "name": detail.name,
        "state": detail.state,
        "created_at": _iso(detail.created_at),
        "updated_at": _iso(detail.updated_at),
        "owner": detail.owner,
        "lease": lease_line(detail),
        "factory": detail.factory,
        "set_aside": _set_aside(detail),
        "damage": detail.damage,
    }


def _set_aside(detail: FlowDetail) -> str | None:
    """Why a worker has suspended a flow, if it has."""
    return detail.meta.get(META_ASIDE) if detail.state == states.SUSPENDED else None


def flow_document(detail: FlowDetail, unread: str | None) -> dict[str, Any]:
    atoms = None if unread else [_atom_document(atom) for atom in _atoms(detail)]
    return {**flow_summary(detail), "atoms": atoms}


def _atoms(detail: FlowDetail) -> list[AtomDetail]:
    return [atom for atom in detail if atom.name != INJECTOR]


def _atom_document(atom: AtomDetail) -> dict[str, Any]:
    return {
        "name": atom.name,
        "uuid": atom.uuid,
        "kind": atom.kind,
        "state": atom.state,
        "attempt": atom.attempt,
        "seconds": _seconds(atom),
        "failure": None if atom.failure is None else failure_line(atom.failure),
        "revert_failure": None if atom.revert_failure is None else failure_line(atom.revert_failure),
    }


def _seconds(atom: AtomDetail) -> float | None:
    if atom.started_at is None or atom.finished_at is None:
        return None
    return (atom.finished_at - atom.started_at) / 1e6


def _iso(time_us: int | None) -> str | None:
    if time_us is None:
        return None
    return datetime.fromtimestamp(time_us / 1e6, timezone.utc).isoformat(timespec="seconds")


def lease_line(detail: FlowDetail) -> str:
    """Who may write to the flow, by the clock of this host."""
    if detail.token is None or detail.lease_expires_at is None:
        return "free"
    left = detail.lease_expires_at / 1e6 - time.time()
    if detail.owner is not None and owner.is_gone(detail.owner):
        return "its process has ended, so it can be resumed at once"
    if left <= 0:
        return "has run out, so it can be resumed"
    return f"held for another {left:.0f} s unless renewed"


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _UNBOUNDED_COLUMNS
    return console


def _state(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, ""))


def print_list(found: Sequence[FlowDetail]) -> None:
    """A table of flows."""
    console = _console()
    if not found:
        console.print("no flows are stored")
        return
    table = Table("UUID", "STATE", "CREATED", "NAME", box=None, pad_edge=False)
    for detail in found:
        table.add_row(detail.uuid, _state(detail.state), _iso(detail.created_at) or "", Text(detail.name))
    console.print(table)
    for detail in found:
        if detail.damage is not None:
            console.print(Text(f"flow {detail.uuid} cannot be read: {detail.damage}"))


def print_tree(detail: FlowDetail, unread: str | None) -> None:
    """A flow and its atoms, in the order in which they began.

    :param unread: why there are no atoms, if they could not be read
    """
    console = _console()
    console.print(Text.assemble("flow ", (detail.name, "bold"), f" {detail.uuid} ", _state(detail.state)))
    console.print(Text(f"owner {detail.owner or 'nobody'}; lease: {lease_line(detail)}"))
    if detail.factory and "file" in detail.factory:
        console.print(Text(f"file {detail.factory['file']} {detail.factory['params']}"))
    if (reason := _set_aside(detail)) is not None:
        console.print(Text(f"set aside: {reason}"))
    if unread:
        console.print(Text(unread))
        return
    atoms = _atoms(detail)
    tree = Tree("1 atom has begun" if len(atoms) == 1 else f"{len(atoms)} atoms have begun")
    for atom in atoms:
        branch = tree.add(_atom_line(atom))
        for what, failure in (("failed", atom.failure), ("revert failed", atom.revert_failure)):
            if failure is not None:
                branch.add(Text(f"{what}: {failure_line(failure)}"))
    console.print(tree)


def _atom_line(atom: AtomDetail) -> Text:
    seconds = _seconds(atom)
    took = "" if seconds is None else f", {seconds:.3f} s"
    tries = "attempt" if atom.attempt == 1 else "attempts"
    kind = "retry " if atom.kind == "RETRY" else ""
    return Text.assemble(f"{kind}{atom.name} ", _state(atom.state), f" {atom.attempt} {tries}{took}")
