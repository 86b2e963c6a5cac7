# SPDX-License-Identifier: Apache-2.0
"""Stands between a client and its server, and cuts their connection at a chosen byte of a chosen request."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Iterable
from types import TracebackType

#: Where a connection is cut: nothing of the request arrives, half of it, all but the last byte, all of it (the server
#: may still be at work when the client sends it again), or all of it, and its answer is lost.
BEFORE, HALF, ALL_BUT_LAST_BYTE, WHOLE, ANSWERED = CUTS = (
    "before the request",
    "in half of the request",
    "before the request's last byte",
    "after the request",
    "before the answer",
)
_CHUNK_BYTES = 2**20


class Proxy:
    """Listens on ``port`` and forwards bytes to a server of this machine and back, in a thread of its own.

    :ivar requests: how many requests with the mark have come since :meth:`arm`
    :ivar cuts: how many connections were cut
    """

    def __init__(self, server_port: int) -> None:
        self._server = ("127.0.0.1", server_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._opposite: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._unanswered: set[socket.socket] = set()  # servers whose next answer is lost
        self._lock = threading.Lock()
        self._mark, self._places = b"", deque[str]()
        self.requests = self.cuts = 0
        self._selector = selectors.DefaultSelector()
        self._stopped, self._stop = socket.socketpair()
        for each in (self._listener, self._stopped):
            self._selector.register(each, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.close()
        self._thread.join()
        for client in list(self._clients):
            self._part(client)
        for each in (self._listener, self._stopped):
            each.close()
        self._selector.close()

    def arm(self, mark: bytes, places: Iterable[str] = ()) -> None:
        """Cut at these places, one after the other, each time that a request comes which contains ``mark``."""
        with self._lock:
            self._mark, self._places, self.requests = mark, deque(places), 0

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._stopped:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._opposite:  # it may have been parted in this round
                    assert isinstance(key.fileobj, socket.socket)
                    self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._server)
        except OSError:
            client.close()
            return
        self._clients.add(client)
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._opposite[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        target = self._opposite[source]
        try:
            data = source.recv(_CHUNK_BYTES)
            if data and source in self._unanswered:
                self._cut(source)
                return
            place = self._place(data) if source in self._clients else None
            target.sendall(_passed(data, place))
        except OSError:
            data, place = b"", None
        if not data:
            self._part(source)
        elif place == ANSWERED:
            self._unanswered.add(target)
        elif place is not None:
            self._cut(source)

    def _place(self, data: bytes) -> str | None:
        """Where to cut this request."""
        with self._lock:
            if not self._mark or self._mark not in data:
                return None
            self.requests += 1
            return self._places.popleft() if self._places else None

    def _cut(self, source: socket.socket) -> None:
        self.cuts += 1
        self._part(source)

    def _part(self, source: socket.socket) -> None:
        """Close both directions, here and there."""
        for each in (source, self._opposite[source]):
            self._selector.unregister(each)
            del self._opposite[each]
            self._clients.discard(each)
            self._unanswered.discard(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _passed(data: bytes, place: str | None) -> bytes:
    if place == BEFORE:
        return b""
    if place == HALF:
        return data[: len(data) // 2]
    return data[:-1] if place == ALL_BUT_LAST_BYTE else data
