# SPDX-License-Identifier: Apache-2.0
"""Tells registered callbacks of events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

LOG = logging.getLogger(__name__)


class Notifier:
    """Callbacks by event type, called in the order in which they were registered.

    A callback is called as ``callback(event_type, details, *args, **kwargs)``. One that raises is logged, and the
    others are called all the same.
    """

    #: Registers for every event type.
    ANY = "*"

    def __init__(self) -> None:
        self._listeners: dict[str, list[tuple[Any, ...]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._listeners.values()))

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def listeners_iter(self) -> Iterator[tuple[str, list[Callable[..., Any]]]]:
        """Event type and its callbacks."""
        for event_type, listeners in self._listeners.items():
            yield event_type, [listener[0] for listener in listeners]

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
        """
        if not callable(callback) or (details_filter is not None and not callable(details_filter)):
            raise ValueError("a callback and its filter must be callable")
        if not self.can_be_registered(event_type):
            raise ValueError(f"nothing can be registered for {event_type!r}")
        if self.is_registered(event_type, callback, details_filter):
            raise ValueError(f"{callback!r} is registered for {event_type!r} already")
        listener = (callback, tuple(args or ()), dict(kwargs or {}), details_filter)
        self._listeners.setdefault(event_type, []).append(listener)

    def is_registered(
        self, event_type: str, callback: Callable[..., Any], details_filter: Callable[..., Any] | None = None
    ) -> bool:
        """Whether the callback is registered for that type, with that filter."""
        return any(each[0] == callback and each[3] == details_filter for each in self._listeners.get(event_type, ()))

    def deregister(
        self, event_type: str, callback: Callable[..., Any], details_filter: Callable[..., Any] | None = None
    ) -> bool:
        """Stop calling a callback; returns whether it was registered."""
        listeners = self._listeners.get(event_type, [])
        for listener in listeners:
            if listener[0] == callback and listener[3] == details_filter:
                self._listeners[event_type] = [each for each in listeners if each is not listener]
                if not self._listeners[event_type]:
                    del self._listeners[event_type]
                return True
        return False

    def deregister_event(self, event_type: str) -> int:
        """Stop calling all callbacks of an event type; returns how many there were."""
        return len(self._listeners.pop(event_type, ()))

    def reset(self) -> None:
        """Forget all callbacks."""
        self._listeners.clear()

    def copy(self) -> Notifier:
        """A notifier of the same callbacks."""
        clone = type(self).__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone._listeners = {event_type: list(each) for event_type, each in self._listeners.items()}
        return clone

    def notify(self, event_type: str, details: Mapping[str, Any] | None = None) -> None:
        """Tell the callbacks of that type, and those of any type."""
        if not self.can_trigger_notification(event_type):
            LOG.debug("%r triggers no notification", event_type)
            return
        details = dict(details or {})
        for listener in (*self._listeners.get(event_type, ()), *self._listeners.get(self.ANY, ())):
            callback, args, kwargs, details_filter = listener
            try:
                if details_filter is None or details_filter(details):
                    callback(event_type, details, *args, **kwargs)
            except Exception:
                LOG.warning("listener %r failed on %s of %s", callback, event_type, details, exc_info=True)


class RestrictedNotifier(Notifier):
    """A notifier of a fixed set of event types.

    :param allow_any: whether callbacks may register for any of them at once
    """

    def __init__(self, watchable_events: Iterable[str], allow_any: bool = True) -> None:
        super().__init__()
        self._watchable = frozenset(watchable_events)
        self._allow_any = allow_any

    def can_be_registered(self, event_type: str) -> bool:
        return event_type in self._watchable or (event_type == self.ANY and self._allow_any)
