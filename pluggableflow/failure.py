# SPDX-License-Identifier: Apache-2.0
"""An exception as data: compared, stored, sent elsewhere, and raised again."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

from pluggableflow import codec
from pluggableflow.exceptions import InvalidFormat, WrappedFailure
from pluggableflow.secret import Masks

MESSAGE_LIMIT_CHARACTERS = 16 * 1024
TRACEBACK_LIMIT_CHARACTERS = 64 * 1024
CAUSES_LIMIT = 20
ARGS_LIMIT = 20

_ROOTS = ("Exception", "BaseException")
_UNSET: Any = object()

ExcInfo = tuple[type[BaseException], BaseException, "TracebackType | None"]


class Failure:
    """One captured exception, with its causes.

    ``Failure()`` in an ``except`` block captures the current exception, :meth:`from_exception` any other one, and
    the keywords make one from data. Capturing keeps the live exception and takes only its message; the traceback text,
    arguments and causes are worked out when they are first asked for. Nothing but the live exception is lost when a
    failure is stored or pickled. Capturing and storing never raise, whatever the exception does.

    Iterating yields :attr:`exc_type_names`. Failures are equal if names, message, arguments and causes are; the live
    exception and the traceback do not count, so a stored copy equals its original.

    :raises TypeError: there is no exception to capture, or a keyword is none of these
    :raises ValueError: ``exc_info`` does not have three elements
    """

    DICT_VERSION = 1

    __slots__ = ("_args", "_causes", "_exc_info", "_message", "_names", "_raw_args", "_traceback")

    def __init__(
        self,
        exc_info: Sequence[Any] | None = None,
        *,
        exception_str: str = _UNSET,
        traceback_str: str | None = None,
        exc_type_names: Iterable[str] = (),
        exc_args: Iterable[Any] = (),
        causes: Iterable[Failure] | None = None,
        **unknown: NoReturn,
    ) -> None:
        if unknown:
            raise TypeError(f"Failure.__init__ got unexpected keyword argument(s): {', '.join(unknown)}")
        self._args: tuple[Any, ...] | None = None
        self._exc_info: ExcInfo | None = None
        self._names: tuple[str, ...] | None = None
        self._raw_args: tuple[Any, ...] | None = None
        self._traceback: str | None = None
        self._causes: tuple[Failure, ...] | None = None
        if exception_str is _UNSET:
            self._exc_info = _live(sys.exc_info() if exc_info is None else exc_info)
            self._message = _message(self._exc_info[1])
            return
        self._message = _bounded(_exact(exception_str), MESSAGE_LIMIT_CHARACTERS)
        self._names = tuple(_exact(name) for name in exc_type_names)
        self._raw_args = tuple(exc_args)
        self._traceback = _bounded(_exact(traceback_str or ""), TRACEBACK_LIMIT_CHARACTERS)
        self._causes = () if causes is None else tuple(causes)[:CAUSES_LIMIT]

    @classmethod
    def from_exception(cls, exception: BaseException) -> Failure:
        """Capture an exception that need not be the current one."""
        return cls((type(exception), exception, exception.__traceback__))

    @property
    def exception(self) -> BaseException | None:
        """The live exception; ``None`` if this failure was made from data."""
        return None if self._exc_info is None else self._exc_info[1]

    @property
    def exc_info(self) -> ExcInfo | None:
        """The live exception as ``sys.exc_info()`` gives it; ``None`` if this failure was made from data."""
        return self._exc_info

    @property
    def exc_type_names(self) -> tuple[str, ...]:
        """The classes of the exception as ``module.QualName``, most derived first, builtins without module.

        ``object`` is left out, and ``BaseException`` too unless it is the only root that there is.
        """
        if self._names is None:
            self._names = _type_names(self._exc_info[0]) if self._exc_info is not None else ()
        return self._names

    @property
    def exception_str(self) -> str:
        """The message, of at most :data:`MESSAGE_LIMIT_CHARACTERS` and a note."""
        return self._message

    @property
    def exception_args(self) -> tuple[Any, ...]:
        """The arguments of the exception; those that the codec cannot encode, or only at length, as their repr."""
        if self._args is None:
            raw = self._raw_args
            if raw is None:  # past what a subclass may have made of the attribute
                raw = BaseException.args.__get__(self.exception)  # type: ignore[attr-defined]
            self._args = tuple(_storable(arg) for arg in raw[:ARGS_LIMIT])
            if len(raw) > ARGS_LIMIT:
                self._args += (f"... {len(raw) - ARGS_LIMIT} more",)
        return self._args

    @property
    def traceback_str(self) -> str:
        """The frames of the traceback as text, empty if there are none; long ones lose their middle."""
        if self._traceback is None:
            self._traceback = _render(self._exc_info) if self._exc_info is not None else ""
        return self._traceback

    @property
    def causes(self) -> tuple[Failure, ...]:
        """The causes of this failure, nearest first, each with the rest as its own; at most :data:`CAUSES_LIMIT`.

        Follows ``__cause__``, and ``__context__`` where it is not suppressed.
        """
        if self._causes is None:
            chain = [] if self._exc_info is None else _chain(self._exc_info[1])
            self._causes = _linked([Failure.from_exception(cause) for cause in chain])
        return self._causes

    def check(self, *kinds: type | str) -> Any:
        """The first of ``kinds``, classes or their names, of which the exception is an instance, or ``None``."""
        names = self.exc_type_names
        for kind in kinds:
            name = codec.type_name(kind) if isinstance(kind, type) else kind
            if name in names or name == "BaseException":
                return kind
        return None

    def matches(self, other: object) -> bool:
        """Whether ``other`` is an equal failure."""
        return isinstance(other, Failure) and self == other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Failure):
            return NotImplemented
        if self is other:
            return True
        mine, others = self.causes, other.causes
        return (
            _alike(self, other)
            and len(mine) == len(others)
            and all(_alike(one, another) for one, another in zip(mine, others, strict=False))
        )

    def __hash__(self) -> int:
        return hash((self.exc_type_names, self._message))

    def __iter__(self) -> Iterator[str]:
        return iter(self.exc_type_names)

    def reraise(self) -> None:
        """Raise the exception again, with the traceback it was captured with.

        :raises WrappedFailure: this failure was made from data; it holds this one
        """
        if self._exc_info is None:
            raise WrappedFailure([self])
        raise self._exc_info[1].with_traceback(self._exc_info[2])

    @staticmethod
    def reraise_if_any(failures: Iterable[Failure]) -> None:
        """Raise one failure's exception, or several together; do nothing if there are none.

        :raises WrappedFailure: there are several failures, or one that was made from data
        """
        failures = list(failures)
        if len(failures) == 1:
            failures[0].reraise()
        if failures:
            raise WrappedFailure(failures)

    def copy(self) -> Failure:
        """An equal failure that shares the live exception."""
        new = Failure.__new__(Failure)
        for name in Failure.__slots__:
            setattr(new, name, getattr(self, name))
        return new

    def without_traceback(self) -> Failure:
        """A copy whose text, and that of its causes, leaves the tracebacks out: what a long history keeps."""
        brief = self.copy()
        brief._traceback, brief._causes = "", tuple(cause.copy() for cause in self.causes)
        for cause in brief._causes:
            cause._traceback = ""
        return brief

    def masked(self, masks: Masks) -> Failure:
        """This failure if none of its texts shows a secret, else a copy without the live exception and the secrets.

        What an exception shows is not only its message, so one that has a secret in a note, an argument, or a cause
        beyond those that are kept is not passed on either.
        """
        chain = [each._without(masks) for each in (self, *self.causes)]
        clean = all(_same_texts(one, other) for one, other in zip((self, *self.causes), chain, strict=True))
        if clean and (self._exc_info is None or not masks.hit(_everything(self._exc_info[1]))):
            return self
        return _linked(chain)[0]

    def _without(self, masks: Masks) -> Failure:
        """This failure as data, each text masked before it is cut, without causes."""
        live = self._exc_info
        raw = self.exception_args if live is None else BaseException.args.__get__(live[1])  # type: ignore[attr-defined]
        more = self.exception_args[ARGS_LIMIT:]
        return Failure(
            exception_str=masks.apply(self._message) if live is None else _message(live[1], masks),
            traceback_str=masks.apply(self.traceback_str) if live is None else _render(live, masks),
            exc_type_names=self.exc_type_names,
            exc_args=(*(_masked_arg(arg, masks) for arg in raw[:ARGS_LIMIT]), *more),
        )

    def __copy__(self) -> Failure:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Failure:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (codec.dumps(self),)

    def to_dict(self, include_args: bool = True) -> dict[str, Any]:
        """The failure as plain data, for :meth:`from_dict`.

        The causes are one flat list, and have no ``causes`` of their own: those are what follows each in the list.

        :param include_args: whether the arguments of the exception and of its causes are part of it
        """
        data = self._own_dict(include_args)
        data["causes"] = [cause._own_dict(include_args) for cause in self.causes]
        return data

    def _own_dict(self, include_args: bool) -> dict[str, Any]:
        return {
            "version": self.DICT_VERSION,
            "exc_type_names": list(self.exc_type_names),
            "exception_str": self.exception_str,
            "exc_args": self.exception_args if include_args else (),
            "traceback_str": self.traceback_str,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Failure:
        """The failure that :meth:`to_dict` described, without the live exception.

        Also reads the form of TaskFlow, in which each cause holds its own causes once more.

        :raises InvalidFormat: the data has another version or shape
        """
        try:
            failure = cls._own_from_dict(data)
            causes = [cls._own_from_dict(cause) for cause in (data.get("causes") or ())[:CAUSES_LIMIT]]
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidFormat(f"this is not the data of a failure: {error!r}") from error
        failure._causes = _linked(causes)
        return failure

    @classmethod
    def _own_from_dict(cls, data: Mapping[str, Any]) -> Failure:
        version = data.get("version")
        if version != cls.DICT_VERSION:
            raise InvalidFormat(f"the data of a failure has version {version!r}; this release reads {cls.DICT_VERSION}")
        return cls(
            exception_str=data["exception_str"],
            traceback_str=data.get("traceback_str"),
            exc_type_names=data["exc_type_names"],
            exc_args=data.get("exc_args", ()),
        )

    @classmethod
    def validate(cls, data: Any) -> None:
        """Check that data has the form of :meth:`to_dict`, its causes included.

        :raises InvalidFormat: it has not; the message says what is wrong
        """
        waiting = [data]
        while waiting:
            each = waiting.pop()
            if not isinstance(each, Mapping):
                raise InvalidFormat(f"the data of a failure is a {type(each).__name__} instead of a dictionary")
            _demand("exception_str", isinstance(each.get("exception_str"), str), "a string")
            _demand("traceback_str", "traceback_str" in each, "present")
            _demand("traceback_str", isinstance(each["traceback_str"], (str, type(None))), "a string or None")
            names = each.get("exc_type_names")
            named = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
            _demand("exc_type_names", bool(named and names), "a list of at least one string")
            _demand("exc_type_names", bool(names and names[-1] in _ROOTS), f"a list that ends with one of {_ROOTS}")
            version = each.get("version", 0)
            _demand("version", type(version) is int and version >= 0, "an integer >= 0")
            for key in ("exc_args", "causes"):
                _demand(key, isinstance(each.get(key, ()), (list, tuple)), "a list")
            waiting.extend(each.get("causes", ()))

    def pformat(self, traceback: bool = False) -> str:
        """The failure in one line, or with its traceback below."""
        text = ": ".join(("Failure", *self.exc_type_names[:1], self._message))
        if not traceback:
            return text
        frames = self.traceback_str.rstrip()
        if not frames:
            return f"{text}\nTraceback not available."
        return f"{text}\nTraceback (most recent call last):\n{frames}"

    def __str__(self) -> str:
        return self.pformat()

    def __repr__(self) -> str:
        return f"<{_bounded(self.pformat(), 200)}>"


# -- taking exceptions apart without trusting them --------------------------------------------------------------------


def _live(exc_info: Sequence[Any]) -> ExcInfo:
    if len(exc_info) != 3:
        raise ValueError(f"exc_info has {len(exc_info)} elements; pass the three that sys.exc_info() gives")
    kind, exception, tb = exc_info
    if exception is None and isinstance(kind, type) and issubclass(kind, BaseException):
        exception = kind()
    if not isinstance(exception, BaseException):
        raise TypeError(f"there is no exception to capture: {exc_info!r}; call Failure() inside an except block")
    return type(exception), exception, tb


def _exact(text: Any) -> str:
    """A string of the very type ``str``, because the codec refuses subclasses."""
    return str.__str__(text) if isinstance(text, str) else str.__str__(str(text))


def _bounded(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _message(exception: BaseException, masks: Masks | None = None) -> str:
    try:
        text = _exact(exception)
    except Exception as error:
        return f"<the message is lost: its __str__ raised {type(error).__name__}>"
    return _bounded(masks.apply(text) if masks is not None else text, MESSAGE_LIMIT_CHARACTERS)


def _repr(value: Any, masks: Masks | None = None) -> str:
    try:
        text = _exact(repr(value))
        return _bounded(masks.apply(text) if masks is not None else text, MESSAGE_LIMIT_CHARACTERS)
    except Exception as error:
        return f"<{type(value).__name__}, whose __repr__ raised {type(error).__name__}>"


def _type_names(kind: type[BaseException]) -> tuple[str, ...]:
    roots = (object, BaseException, Exception)
    names = [_exact(codec.type_name(cls)) for cls in type.mro(kind) if cls not in roots]
    return (*names, "Exception" if issubclass(kind, Exception) else "BaseException")


def _storable(arg: Any) -> Any:
    try:
        return arg if len(codec.dumps(arg)) <= MESSAGE_LIMIT_CHARACTERS else _repr(arg)
    except Exception:
        return _repr(arg)


def _masked_arg(arg: Any, masks: Masks) -> Any:
    """The argument, or its masked text if the secret is in it, be it in a part that its repr does not show."""
    try:
        stored = codec.dumps(arg)
    except Exception:
        stored = ""
    if not masks.hit(stored):
        try:
            if not masks.hit(repr(arg)):
                return arg
        except Exception:
            return _repr(arg)
    return masks.apply(arg) if type(arg) is str else _repr(arg, masks)


def _everything(exception: BaseException) -> str:
    """All that is shown of an exception, its notes, the members of a group, and of all that led to it."""
    try:
        shown = traceback.format_exception(type(exception), exception, exception.__traceback__)
    except Exception:
        shown = []
    return "".join((*shown, *(_repr(each) for each in (exception, *_chain(exception)))))


def _same_texts(one: Failure, other: Failure) -> bool:
    return one._message == other._message and one.traceback_str == other.traceback_str and _alike(one, other)


def _render(exc_info: ExcInfo, masks: Masks | None = None) -> str:
    _, exception, tb = exc_info
    try:
        text = "".join(traceback.format_tb(tb))
        if isinstance(getattr(exception, "exceptions", None), tuple):  # a group: its members have tracebacks too
            text += "".join(traceback.format_exception(type(exception), exception, None, chain=False))
    except Exception as error:
        return f"  <the traceback is lost: rendering it raised {type(error).__name__}>\n"
    text = _exact(text)
    return _bounded(masks.apply(text) if masks is not None else text, TRACEBACK_LIMIT_CHARACTERS)


def _chain(exception: BaseException) -> list[BaseException]:
    seen = {id(exception)}
    chain: list[BaseException] = []
    while len(chain) < CAUSES_LIMIT:
        nearest = [exception.__cause__, None if exception.__suppress_context__ else exception.__context__]
        following = next((each for each in nearest if each is not None and id(each) not in seen), None)
        if following is None:
            break
        chain.append(following)
        seen.add(id(following))
        exception = following
    return chain


def _linked(chain: list[Failure]) -> tuple[Failure, ...]:
    for index, failure in enumerate(chain):
        failure._causes = tuple(chain[index + 1 :])
    return tuple(chain)


def _alike(one: Failure, other: Failure) -> bool:
    if one.exception_str != other.exception_str or one.exc_type_names != other.exc_type_names:
        return False
    try:
        same = bool(one.exception_args == other.exception_args)
    except Exception:
        same = False
    # The encoded form decides where == cannot, as for NaN.
    return same or codec.dumps(_plain_args(one)) == codec.dumps(_plain_args(other))


def _demand(key: str, fulfilled: bool, what: str) -> None:
    if not fulfilled:
        raise InvalidFormat(f"the data of a failure is wrong: {key!r} must be {what}")


# -- storing ----------------------------------------------------------------------------------------------------------


def _plain_args(failure: Failure) -> list[Any]:
    """Arguments for the codec: readers that lack the class of one get its repr instead of no failure at all."""
    return [
        arg if arg is None or type(arg) in (str, int, bool) else codec.Fallback(arg, _repr(arg))
        for arg in failure.exception_args
    ]


def _to_plain(failure: Failure) -> dict[str, Any]:
    data = failure.to_dict(include_args=False)
    for each, described in zip((failure, *failure.causes), (data, *data["causes"]), strict=False):
        described["exc_args"] = _plain_args(each)
    return data


def _unpickle(text: str) -> Any:
    """Read a pickled failure; who unpickles trusts the data, so every class that is at hand will do."""
    return codec.loads(text, codec.ANY_IMPORTED_MODULE)


codec.register(Failure, "failure", _to_plain, Failure.from_dict)
