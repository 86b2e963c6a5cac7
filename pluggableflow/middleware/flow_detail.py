# SPDX-License-Identifier: Apache-2.0
"""What is known of one run of a top-level flow."""

from __future__ import annotations

import copy as _copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pluggableflow import codec, states
from pluggableflow.exceptions import DamagedRecord
from pluggableflow.middleware.atom_detail import AtomDetail
from pluggableflow.middleware.records import FLOW_COLUMNS, Record, decode, encode, new_uuid, plain, unplain


class FlowDetail:
    """What is known of one run of a top-level flow, and the details of its atoms in the order they began.

    :ivar meta: the embedder's own data
    :ivar factory: what :func:`~pluggableflow.api.flow_from_detail` makes the flow from again, or ``None``
    :ivar revision: how many commits it has seen
    :ivar damage: why parts of the stored record could not be read, or ``None``
    :ivar owner: identity of the process that holds or last held it, or ``None``
    """

    __slots__ = (
        "uuid", "parent_uuid", "name", "state", "meta", "factory", "revision", "owner", "token", "epoch",
        "lease_expires_at", "request", "request_by", "request_sequence", "request_handled", "wake_at", "deadline_at",
        "priority", "codec_version", "created_at", "updated_at", "damage", "_atoms",
    )  # fmt: skip

    def __init__(self, name: str, uuid: str | None = None) -> None:
        self.name = name
        self.uuid = uuid or new_uuid()
        self.parent_uuid: str | None = None
        self.state = states.PENDING
        self.meta: dict[str, Any] = {}
        self.factory: dict[str, Any] | None = None
        self.revision = 0
        self.owner: str | None = None
        self.token: str | None = None
        self.epoch = 0
        self.lease_expires_at: int | None = None
        self.request: str | None = None
        self.request_by: str | None = None
        self.request_sequence = 0
        self.request_handled = 0
        self.wake_at: int | None = None
        self.deadline_at: int | None = None
        self.priority = 0
        self.codec_version = codec.CODEC_VERSION
        self.created_at: int | None = None
        self.updated_at: int | None = None
        self.damage: str | None = None
        self._atoms: dict[str, AtomDetail] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FlowDetail):
            return NotImplemented
        return all(getattr(self, each) == getattr(other, each) for each in FlowDetail.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<FlowDetail {self.name!r} {self.uuid} {self.state}, {len(self)} atoms>"

    def __iter__(self) -> Iterator[AtomDetail]:
        return iter(self._atoms.values())

    def __len__(self) -> int:
        return len(self._atoms)

    def add(self, detail: AtomDetail) -> None:
        """Take in an atom detail; one of the same uuid is replaced."""
        detail.parent_uuid = self.uuid
        self._atoms[detail.uuid] = detail

    def find(self, atom_uuid: str) -> AtomDetail | None:
        """The detail with that uuid, or ``None``."""
        return self._atoms.get(atom_uuid)

    def update(self, other: FlowDetail) -> FlowDetail:
        """Take over everything but the identity and the atoms from ``other``."""
        for each in FlowDetail.__slots__:
            if each not in ("uuid", "name", "_atoms"):
                setattr(self, each, getattr(other, each))
        return self

    def merge(self, other: FlowDetail, deep_copy: bool = False) -> FlowDetail:
        """Take over everything but the identity from ``other``; its atoms are merged or added."""
        self.update(other)
        if deep_copy:
            self.meta = _copy.deepcopy(self.meta)
        for theirs in other:
            mine = self._atoms.get(theirs.uuid)
            if mine is None:
                self.add(theirs.copy())
            elif mine is not theirs:
                mine.merge(theirs, deep_copy)
        return self

    def become(self, other: FlowDetail) -> FlowDetail:
        """Take over everything but the identity from ``other``, and its atom details themselves in place of its own."""
        self.update(other)._atoms = other._atoms
        return self

    def copy(self, retain_contents: bool = True) -> FlowDetail:
        """A new detail of the same identity, with copies of the atom details if asked."""
        clone = FlowDetail(self.name, self.uuid).update(self)
        clone.meta = dict(self.meta)
        if retain_contents:
            for detail in self:
                clone.add(detail.copy())
        return clone

    def reset(self, state: str = states.PENDING) -> None:
        """Forget the outcomes of all atoms."""
        self.state = state
        for detail in self:
            detail.reset()

    def to_record(self) -> Record:
        """The stored form: one scalar per column of ``FLOW_COLUMNS``, without the atoms."""
        record = {column: getattr(self, column) for column in FLOW_COLUMNS}
        record["meta"], record["factory"] = encode(self.meta or None), encode(self.factory)
        return record

    @staticmethod
    def from_record(record: Mapping[str, Any], atoms: Iterable[AtomDetail] = ()) -> FlowDetail:
        """The detail that a stored record describes.

        :raises DamagedRecord: a value cannot be decoded, or a newer release wrote it
        """
        detail = FlowDetail.listed(record)
        if detail.damage is not None:
            raise DamagedRecord("flow", detail.uuid, detail.damage)
        for atom in atoms:
            detail.add(atom)
        return detail

    @staticmethod
    def listed(record: Mapping[str, Any]) -> FlowDetail:
        """As :meth:`from_record`, but what cannot be decoded is left out, and ``damage`` says why.

        For searches, which one damaged flow must not spoil.
        """
        detail = FlowDetail(record["name"], record["uuid"])
        for column in FLOW_COLUMNS:
            setattr(detail, column, record[column])
        detail.meta, detail.factory = {}, None
        if detail.codec_version > codec.CODEC_VERSION:
            detail.damage = (
                f"a newer release wrote it (codec version {detail.codec_version}, this one reads"
                f" {codec.CODEC_VERSION}); pip install --upgrade pluggableflow"
            )
            return detail
        try:
            detail.meta, detail.factory = decode(record["meta"]) or {}, decode(record["factory"])
        except (ValueError, TypeError) as error:
            detail.damage = str(error)
        return detail

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-compatible data, atoms included."""
        return {**plain(self.to_record()), "atoms": [detail.to_dict() for detail in self]}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> FlowDetail:
        """The inverse of :meth:`to_dict`.

        :raises InvalidFormat: a key is missing
        """
        atoms = [AtomDetail.from_dict(each) for each in data.get("atoms", ())]
        return FlowDetail.from_record(unplain(data, FLOW_COLUMNS), atoms)

    def pformat(self, indent: int = 0) -> str:
        """Several lines for people, atoms included."""
        pad = " " * indent
        lines = [f"{pad}FlowDetail: {self.name!r}"]
        lines += [f"{pad} - {each} = {getattr(self, each)!r}" for each in FLOW_COLUMNS if each != "name"]
        return "\n".join(lines + [detail.pformat(indent + 1) for detail in self])
