# SPDX-License-Identifier: Apache-2.0
"""``taskflow.persistence.base``: a backend, and the connections that it gives out, over one connection of the core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pluggableflow import api
from pluggableflow.connection import Connection as CoreConnection
from pluggableflow.exceptions import NotFound
from pluggableflow.middleware import AtomDetail, FlowDetail, LogBook

_Detail = TypeVar("_Detail")


class Backend:
    """A place where flows are kept.

    :param conf: ``connection`` is the URL of the store
    :ivar connection: to the store; it is opened when it is first needed, and again after :meth:`close`
    """

    def __init__(self, conf: Mapping[str, Any] | None = None) -> None:
        self._conf = dict(conf or {})
        self._opened: CoreConnection | None = None

    def _target(self) -> Any:
        return self._conf["connection"]

    @property
    def connection(self) -> CoreConnection:
        if self._opened is None:
            self._opened = api.connect(self._target())
        return self._opened

    def get_connection(self) -> Connection:
        return Connection(self)

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()


class Connection:
    """Reads and writes what a backend keeps. To close it leaves the backend open."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def backend(self) -> Backend:
        return self._backend

    @property
    def _core(self) -> CoreConnection:
        return self._backend.connection

    def close(self) -> None:
        """Does nothing: the backend is what is closed."""

    def upgrade(self) -> None:
        self._core.upgrade()

    def validate(self) -> None:
        self._core.validate()

    def clear_all(self) -> None:
        self._core.clear_all()

    def save_logbook(self, book: LogBook) -> LogBook:
        self._core.save_logbook(book)
        for detail in book:
            self._core.update_flow_details(detail)
        return book

    def destroy_logbook(self, book_uuid: str) -> None:
        self._core.destroy_logbook(book_uuid)

    def get_logbook(self, book_uuid: str, lazy: bool = False) -> LogBook:
        book = self._core.get_logbook(book_uuid, lazy)
        if book.updated_at == book.created_at:
            book.updated_at = None  # as TaskFlow says of a book that was only created
        return book

    def get_logbooks(self, lazy: bool = False) -> Iterator[LogBook]:
        yield from self._core.get_logbooks(lazy)

    def get_flow_details(self, fd_uuid: str, lazy: bool = False) -> FlowDetail:
        return self._core.get_flow_details(fd_uuid, lazy)

    def get_flows_for_book(self, book_uuid: str, lazy: bool = False) -> Iterator[FlowDetail]:
        yield from self._core.get_flows_for_book(book_uuid, lazy)

    def get_atom_details(self, ad_uuid: str) -> AtomDetail:
        return self._core.get_atom_details(ad_uuid)

    def get_atoms_for_flow(self, fd_uuid: str) -> Iterator[AtomDetail]:
        yield from self._core.get_atoms_for_flow(fd_uuid)

    def update_flow_details(self, flow_detail: FlowDetail, ignore_missing: bool = False) -> FlowDetail:
        return _written(self._core.update_flow_details, flow_detail, ignore_missing)

    def update_atom_details(self, atom_detail: AtomDetail, ignore_missing: bool = False) -> AtomDetail:
        return _written(self._core.update_atom_details, atom_detail, ignore_missing)


def _written(write: Callable[[_Detail], None], detail: _Detail, ignore_missing: bool) -> _Detail:
    try:
        write(detail)
    except NotFound:
        if not ignore_missing:
            raise
    return detail
