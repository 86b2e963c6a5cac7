# SPDX-License-Identifier: Apache-2.0
"""The flows that one connection writes to."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

from pluggableflow.connections import folders
from pluggableflow.connections.flow_folder import FlowFolder
from pluggableflow.connections.folders import Writer
from pluggableflow.connections.journal import FlowGone
from pluggableflow.connections.store_folder import StoreFolder

#: Folders that are kept open between writes; each takes three descriptors.
_OPEN_FOLDERS = 80


class OpenFlows:
    """Gives the lock of a flow, and keeps the flows open that were written last.

    :ivar fold_bytes: see :meth:`FlowFolder.fold_if_long`
    """

    def __init__(self, store: StoreFolder, writer: Writer, fold_bytes: int) -> None:
        self._store, self._writer, self.fold_bytes = store, writer, fold_bytes
        self._open: OrderedDict[tuple[str, bool], FlowFolder] = OrderedDict()
        self._lock, self._pid = threading.Lock(), os.getpid()

    def clear(self) -> None:
        with self._turn():
            self._open.clear()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if os.getpid() != self._pid:  # a thread of the parent may have held it during the fork
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            yield

    def _folder(self, flow_uuid: str, apart: bool) -> FlowFolder:
        key = flow_uuid, apart
        with self._turn():
            folder = self._open.get(key)
            if folder is not None:
                self._open.move_to_end(key)
                return folder
        path = self._store.found_flow(flow_uuid)
        with self._turn():
            folder = self._open.setdefault(key, FlowFolder(path, flow_uuid, self._writer))
            while len(self._open) > _OPEN_FOLDERS:
                self._open.popitem(last=False)  # closed when nobody uses it any more
            return folder

    def forget(self, flow_uuid: str) -> None:
        """Close a flow."""
        with self._turn():
            for apart in (False, True):
                self._open.pop((flow_uuid, apart), None)

    @contextlib.contextmanager
    def writing(
        self,
        flow_uuid: str,
        *,
        with_atoms: bool = False,
        patience_seconds: float | None = None,
        renewing: bool = False,
    ) -> Iterator[FlowFolder]:
        """Hold the lock of a flow to append to its journal; what was appended is on the disk afterwards.

        :param renewing: do not wait for what another call of this process reads, and do not sync: a lease that was
            extended before a loss of power has no holder after it
        :raises NotFound: there is no such flow
        :raises Busy: the lock was not free within ``patience_seconds``
        """
        with self._store.errors():
            while True:
                folder = self._folder(flow_uuid, apart=renewing)
                to_sync: Callable[[], None] | None = None
                try:
                    with folder.locked(with_atoms, patience_seconds):
                        yield folder
                        if not renewing:
                            to_sync = folder.to_sync()
                except FlowGone:
                    self.forget(flow_uuid)
                    continue  # deleted, or made anew elsewhere: found_flow tells
                if to_sync is not None:
                    to_sync()
                    folder.fold_if_long(self.fold_bytes)
                return

    @contextlib.contextmanager
    def book_of(self, flow_uuid: str, patience_seconds: float | None = None) -> Iterator[None]:
        """Keep the book of a flow from being destroyed.

        :raises NotFound: there is no such flow
        :raises Busy: somebody is destroying it, and did not finish within ``patience_seconds``
        """
        with self._store.errors(), contextlib.ExitStack() as stack:
            while True:
                book_path = os.path.dirname(self._store.found_flow(flow_uuid))
                try:
                    stack.enter_context(folders.locked(book_path, True, patience_seconds))
                    break
                except FileNotFoundError:
                    continue  # destroyed meanwhile; found_flow tells
            yield
