# SPDX-License-Identifier: Apache-2.0
"""Values that tasks are given and that nobody else sees: not the store, not a log, not the text of a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from typing import Any
from urllib.parse import quote, quote_plus

from pluggableflow import codec
from pluggableflow.exceptions import EncodingError, NotFound

#: What is shown instead.
MASK = "***"
#: Lines of a secret that are at least so long, such as those of a key, are masked by themselves too.
_LINE_CHARACTERS = 8
#: Shorter numbers inside a secret, such as a port, are left: they would mask every other number there is.
_NUMBER_CHARACTERS = 4
_DEPTH = 8
_ABSENT: Any = object()


class Secret:
    """A value to be wrapped before it is put into ``store`` or ``inject``; a task is given what is inside.

    What is marked is the whole value: a secret inside a list or dictionary is refused where it would be stored.
    Whoever writes a secret down, the store or a pickle, writes an empty one unless ``stored`` is set; a flow that is
    resumed from there must be given the secret again. Two secrets are equal if their values are and neither is empty.

    :param stored: keep the value in the store, in the clear, so that a resumed flow need not be given it
    """

    __slots__ = ("_value", "stored")

    def __init__(self, value: Any, stored: bool = False) -> None:
        self._value = value.reveal() if isinstance(value, Secret) else value
        self.stored = stored

    @classmethod
    def empty(cls) -> Secret:
        """What is left of a secret whose value was not stored."""
        return cls(_ABSENT)

    @property
    def is_empty(self) -> bool:
        """Whether the value was lost because it was not to be stored."""
        return self._value is _ABSENT

    def reveal(self) -> Any:
        """The value.

        :raises NotFound: it was not stored
        """
        if self._value is _ABSENT:
            raise NotFound("the value of this secret was not stored; it must be given again")
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self is other or not (self.is_empty or other.is_empty) and bool(self._value == other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Secret(not stored)" if self.is_empty else f"Secret({MASK})"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (Secret, (self._value, True)) if self.stored else (Secret.empty, ())


def for_store(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, with empty secrets in place of those that are not to be stored."""
    return {
        name: Secret.empty() if isinstance(value, Secret) and not value.stored else value
        for name, value in pairs.items()
    }


def withheld(pairs: Mapping[str, Any]) -> dict[str, Secret]:
    """Those of the values that :func:`for_store` leaves empty."""
    found = {name: value for name, value in pairs.items() if isinstance(value, Secret)}
    return {name: value for name, value in found.items() if not value.stored and not value.is_empty}


def still_secret(stored: Any, value: Any) -> Any:
    """A value that takes the place of a stored one: what was marked stays so, if it is given again without a mark."""
    return Secret(value, stored.stored) if isinstance(stored, Secret) and not isinstance(value, Secret) else value


class Masks:
    """Masks secrets in text: as they are, and as ``repr``, JSON and URLs write them.

    Of a secret that is a structure, every text and every longer number in it is masked.
    """

    def __init__(self) -> None:
        self._learned: dict[int, Secret] = {}
        self._texts: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, secret: Secret) -> None:
        """From now on, mask this secret."""
        if id(secret) in self._learned:
            return
        self._learned[id(secret)] = secret
        value = secret.reveal()
        self._texts.update(_number(value) if isinstance(value, (int, float)) else (), *map(_forms, _leaves(value)))
        self._texts.discard("")
        longest_first = sorted(self._texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def apply(self, text: str) -> str:
        """The text without the secrets."""
        return self._pattern.sub(MASK, text) if self._pattern is not None else text

    def hit(self, text: str) -> bool:
        """Whether a secret is in the text."""
        return self._pattern is not None and self._pattern.search(text) is not None


def _number(value: float) -> tuple[str, ...]:
    return () if isinstance(value, bool) else (repr(value),)


def _leaves(value: Any, depth: int = _DEPTH) -> Iterator[str | bytes]:
    """The texts in a value."""
    if isinstance(value, (str, bytes)):
        yield value
    elif isinstance(value, (bytearray, memoryview)):
        yield bytes(value)
    elif isinstance(value, (int, float)):
        yield from (text for text in _number(value) if len(text) >= _NUMBER_CHARACTERS)
    elif depth:
        if isinstance(value, Mapping):
            parts = list(value.values())
        elif isinstance(value, (list, tuple, Set)):
            parts = list(value)
        else:
            slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
            parts = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
        for part in parts:
            yield from _leaves(part, depth - 1)


def _forms(leaf: str | bytes) -> set[str]:
    """The ways in which a text may be written."""
    if isinstance(leaf, bytes):
        return {repr(leaf)[2:-1], leaf.hex(), *_forms(leaf.decode("utf-8", "replace"))}
    lines = {line.strip() for line in leaf.splitlines()}
    forms = set()
    for text in (leaf, *(line for line in lines if len(line) >= _LINE_CHARACTERS)):
        url = text.encode("utf-8", "replace")
        both_quotes = text + "'\"", url + b"'\""  # so that repr escapes a quote, as it does next to another one
        forms |= {repr(both_quotes[0])[1:-4], repr(both_quotes[1])[2:-4], repr(url)[2:-1]}
        forms |= {text, repr(text)[1:-1], quote(url, safe=""), quote(url), quote_plus(url)}
        forms |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return forms


def _to_plain(secret: Secret) -> Any:
    if secret.is_empty:
        return []
    if secret.stored:
        return [secret.reveal()]
    reason = "a secret is not stored unless it was made with stored=True"
    raise EncodingError("$", "Secret", reason)


def _from_plain(content: Any) -> Secret:
    return Secret(content[0], stored=True) if content else Secret.empty()


codec.register(Secret, "secret", _to_plain, _from_plain)
