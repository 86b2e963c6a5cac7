# SPDX-License-Identifier: Apache-2.0
"""Tells registered callbacks of events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

LOG = logging.getLogger(__name__)

_Self = TypeVar("_Self", bound="Notifier")


class _Listener(NamedTuple):
    event_type: str
    callback: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    details_filter: Callable[[Mapping[str, Any]], bool] | None

    def is_for(self, event_type: str, callback: Any, details_filter: Any) -> bool:
        return self.event_type == event_type and self.callback == callback and self.details_filter == details_filter


class Notifier:
    """Callbacks by event type, called in the order in which they were registered.

    A callback is called as ``callback(event_type, *args, details, **kwargs)``. One that raises is logged, and the
    others are called all the same. Callbacks may come and go at any time, from any thread; a notification that is
    under way goes to those that were there as it began.
    """

    #: Registers for every event type.
    ANY = "*"

    def __init__(self) -> None:
        self._listeners: tuple[_Listener, ...] = ()
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return len(self._listeners)

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_changing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _changing=threading.Lock())

    def listeners_iter(self) -> Iterator[tuple[str, list[Callable[..., Any]]]]:
        """Event type and its callbacks."""
        found: dict[str, list[Callable[..., Any]]] = {}
        for listener in self._listeners:
            found.setdefault(listener.event_type, []).append(listener.callback)
        yield from found.items()

    def can_be_registered(self, event_type: str) -> bool:
        """Whether callbacks may register for this event type."""
        return True

    def can_trigger_notification(self, event_type: str) -> bool:
        """Whether :meth:`notify` tells of this event type."""
        return event_type != self.ANY

    def register(
        self,
        event_type: str,
        callback: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        details_filter: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        """Call ``callback`` for events of a type, or of any.

        :param details_filter: called with the details; the callback is called only where it returns true
        :raises ValueError: it is registered already, or the type cannot be registered for
        :raises KeyError: ``kwargs`` has ``details``, which every notification brings itself
        """
        if not callable(callback) or (details_filter is not None and not callable(details_filter)):
            raise ValueError("a callback and its filter must be callable")
        if kwargs and "details" in kwargs:
            raise KeyError("'details' is what a notification passes to the callback; give the argument another name")
        if not self.can_be_registered(event_type):
            raise ValueError(f"nothing can be registered for {event_type!r}")
        with self._changing:
            if self.is_registered(event_type, callback, details_filter):
                raise ValueError(f"{callback!r} is registered for {event_type!r} already")
            listener = _Listener(event_type, callback, tuple(args or ()), dict(kwargs or {}), details_filter)
            self._listeners = (*self._listeners, listener)

    def is_registered(
        self, event_type: str, callback: Callable[..., Any], details_filter: Callable[..., Any] | None = None
    ) -> bool:
        """Whether the callback is registered for that type, with that filter."""
        return any(each.is_for(event_type, callback, details_filter) for each in self._listeners)

    def deregister(
        self, event_type: str, callback: Callable[..., Any], details_filter: Callable[..., Any] | None = None
    ) -> bool:
        """Stop calling a callback; returns whether it was registered."""
        return self._forget(lambda each: each.is_for(event_type, callback, details_filter)) > 0

    def deregister_event(self, event_type: str) -> int:
        """Stop calling all callbacks of an event type; returns how many there were."""
        return self._forget(lambda each: each.event_type == event_type)

    def reset(self) -> None:
        """Forget all callbacks."""
        self._forget(lambda _each: True)

    def _forget(self, is_meant: Callable[[_Listener], bool]) -> int:
        with self._changing:
            before = self._listeners
            self._listeners = tuple(each for each in before if not is_meant(each))
            return len(before) - len(self._listeners)

    def copy(self: _Self) -> _Self:
        """A notifier of the same callbacks."""
        clone = type(self).__new__(type(self))
        clone.__setstate__(self.__getstate__())
        return clone

    def notify(self, event_type: str, details: Mapping[str, Any] | None = None) -> None:
        """Tell the callbacks of that type, and those of any type."""
        if not self.can_trigger_notification(event_type):
            LOG.debug("%r triggers no notification", event_type)
            return
        details = dict(details or {})
        for listener in self._listeners:
            if listener.event_type != event_type and listener.event_type != self.ANY:
                continue
            try:
                if listener.details_filter is None or listener.details_filter(details):
                    listener.callback(event_type, *listener.args, details, **listener.kwargs)
            except Exception:
                # The details hold results, which are no business of a log.
                LOG.warning("listener %r failed on %s", listener.callback, event_type, exc_info=True)


class RestrictedNotifier(Notifier):
    """A notifier of a fixed set of event types; it neither takes callbacks for another one nor tells of it.

    :param allow_any: whether callbacks may register for any of them at once
    """

    def __init__(self, watchable_events: Iterable[str], allow_any: bool = True) -> None:
        super().__init__()
        self._watchable = frozenset(watchable_events)
        self._allow_any = allow_any

    def can_be_registered(self, event_type: str) -> bool:
        return event_type in self._watchable or (event_type == self.ANY and self._allow_any)

    def can_trigger_notification(self, event_type: str) -> bool:
        return event_type in self._watchable
