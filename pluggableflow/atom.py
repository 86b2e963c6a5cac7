# SPDX-License-Identifier: Apache-2.0
"""The smallest unit of a flow: named inputs, named outputs, and how they are found out from a method's signature.

What a method needs is worked out once per class and way of declaring it, and shared by all its atoms.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

from pluggableflow.exceptions import DefinitionError, WrongType

#: parameter, name it is looked up under, whether it may be missing
Input = tuple[str, str, bool]
Rebind = Mapping[str, str] | list[str] | tuple[str, ...] | None
Names = str | Iterable[str] | None

_Method = TypeVar("_Method", bound=Callable[..., Any])

_LONGEST_NAME = 255
_LONGEST_LIMIT_SECONDS = 1e9
_NOTHING: frozenset[str] = frozenset()


class Atom:
    """What tasks and retries have in common.

    :param name: unique in its flow, 1 to 255 characters
    :param provides: name of the result; a list or tuple names its items by index, a set its values by key
    :param requires: further inputs besides those of the signature
    :param auto_extract: take inputs from the signature of the methods
    :param rebind: names under which parameters are looked up: a dict, or a list in the order of the parameters
    :param inject: values for this atom alone, by name
    :param ignore_list: parameters of the signature that are no inputs
    :param revert_rebind: like ``rebind``, for revert; default: ``rebind``
    :param revert_requires: like ``requires``, for revert; default: ``requires``
    :raises DefinitionError: names what does not fit the methods
    :ivar execute_inputs: what execute is given, ``revert_inputs`` what revert is given
    :ivar revert_accepts: which of the reserved parameters revert takes
    :ivar version: major and minor; a stored atom of another major version is not resumed
    :ivar save_as: provided name to the part of the result it stands for, ``None`` for all of it
    :ivar time_limit_seconds: how long it may take, or the flow that it controls, from when it first begins
    :ivar priority: among atoms that could start, the highest starts first
    """

    priority: int = 0
    time_limit_seconds: float | None = None
    default_provides: ClassVar[Any] = None
    #: Parameters of the methods that the engine fills in itself.
    reserved_execute: ClassVar[frozenset[str]] = _NOTHING
    reserved_revert: ClassVar[frozenset[str]] = frozenset({"result", "flow_failures"})

    version: tuple[int, ...] = (1, 0)

    def __init__(
        self,
        name: str,
        provides: Any = None,
        requires: Names = None,
        auto_extract: bool = True,
        rebind: Rebind = None,
        inject: Mapping[str, Any] | None = None,
        ignore_list: Iterable[str] | None = None,
        revert_rebind: Rebind = None,
        revert_requires: Names = None,
    ) -> None:
        self.name = check_name(name)
        if self.time_limit_seconds is not None:
            check_limit(f"{type(self).__qualname__} {name!r}", self.time_limit_seconds)
        self.inject: Mapping[str, Any] = inject or {}
        try:
            if not isinstance(self.inject, Mapping):
                raise WrongType(f"inject must be a dict, not {inject!r}")
            self.save_as = save_as(self.default_provides if provides is None else provides)
            execute, revert = self._signature_of("execute"), self._signature_of("revert")
            reserved = self.reserved_execute, self.reserved_revert
            if requires or rebind or ignore_list or revert_requires or revert_rebind:
                needs = _declared_needs(
                    execute,
                    revert,
                    *reserved,
                    auto_extract,
                    names_of("requires", requires),
                    _pairs("rebind", rebind),
                    names_of("ignore_list", ignore_list),
                    names_of("revert_requires", revert_requires),
                    _pairs("revert_rebind", revert_rebind),
                )
            else:
                needs = _inferred_needs(execute, revert, *reserved, auto_extract)
        except DefinitionError as error:
            raise type(error)(f"{error} ({type(self).__qualname__} {name!r})") from None
        self.execute_inputs, self.revert_inputs, self.revert_accepts = needs

    @property
    def provides(self) -> frozenset[str]:
        """The names that it provides."""
        return frozenset(self.save_as)

    @property
    def requires(self) -> frozenset[str]:
        """The names that execute or revert cannot do without, but for those injected into this atom."""
        return frozenset([name for _parameter, name, optional in self._inputs() if not optional]) - self.inject.keys()

    @property
    def optional(self) -> frozenset[str]:
        """The names that execute can do without, but for those injected into this atom."""
        found = frozenset([name for _parameter, name, optional in self.execute_inputs if optional])
        return found - self.requires - self.inject.keys() if found else found

    def _inputs(self) -> tuple[Input, ...]:
        return self.execute_inputs + self.revert_inputs if self.revert_inputs else self.execute_inputs

    def _signature_of(self, method: str) -> Signature:
        function = getattr(type(self), method)
        return _NO_PARAMETERS if function in _IDLE else signature_of(function, True)

    @property
    def rebind(self) -> dict[str, str]:
        """Parameter of execute to the name it is looked up under."""
        return {parameter: name for parameter, name, _optional in self.execute_inputs}

    @property
    def revert_rebind(self) -> dict[str, str]:
        """Parameter of revert to the name it is looked up under."""
        return {parameter: name for parameter, name, _optional in self.revert_inputs}

    @property
    def revert_optional(self) -> frozenset[str]:
        """The names that revert can do without."""
        return frozenset(name for _parameter, name, optional in self.revert_inputs if optional)

    def pre_execute(self) -> None:
        """Runs before execute."""

    def post_execute(self) -> None:
        """Runs after execute, whether or not that failed."""

    def pre_revert(self) -> None:
        """Runs before revert."""

    def post_revert(self) -> None:
        """Runs after revert, whether or not that failed."""

    @property
    def version_text(self) -> str:
        """Its version as details have it, such as ``1.0``."""
        return ".".join(map(str, self.version))

    def __str__(self) -> str:
        return f'"{self.name}=={self.version_text}"'

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self}>"


class Signature:
    """The parameters of a method, without self."""

    __slots__ = ("required", "all", "accepts_any")

    def __init__(self, required: tuple[str, ...], every: tuple[str, ...], accepts_any: bool) -> None:
        self.required, self.all, self.accepts_any = required, every, accepts_any


_NO_PARAMETERS = Signature((), (), False)
_IDLE: set[Callable[..., Any]] = set()


def idle(method: _Method) -> _Method:
    """Marks a method of a base class that does nothing, so that nothing is looked up for it."""
    _IDLE.add(method)
    return method


def signature_of(function: Callable[..., Any], is_method: bool) -> Signature:
    """What can be passed to a function by name.

    :raises DefinitionError: it has no signature, or takes what cannot be passed by name
    """
    cached = getattr(type(function), "__hash__", None) is not None
    return (_cached_signature if cached else _read_signature)(function, is_method)


def _read_signature(function: Callable[..., Any], is_method: bool) -> Signature:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        raise DefinitionError(f"{function!r} has no signature to take inputs from; wrap it in a function") from None
    if is_method:
        parameters = parameters[1:]
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    if any(each.kind is each.POSITIONAL_ONLY for each in parameters):
        name = getattr(function, "__qualname__", repr(function))
        raise DefinitionError(f"{name} has positional-only parameters; inputs are passed by name")
    return Signature(
        tuple(each.name for each in named if each.default is each.empty),
        tuple(each.name for each in named),
        any(each.kind is each.VAR_KEYWORD for each in parameters),
    )


_cached_signature = lru_cache(maxsize=4096)(_read_signature)

#: Inputs of execute, inputs of revert, reserved parameters that revert takes.
_Needs = tuple[tuple[Input, ...], tuple[Input, ...], frozenset[str]]


@lru_cache(maxsize=4096)
def _inferred_needs(
    execute: Signature,
    revert: Signature,
    reserved_execute: frozenset[str],
    reserved_revert: frozenset[str],
    auto_extract: bool,
) -> _Needs:
    return _declared_needs(execute, revert, reserved_execute, reserved_revert, auto_extract, (), None, (), (), None)


def _declared_needs(
    execute: Signature,
    revert: Signature,
    reserved_execute: frozenset[str],
    reserved_revert: frozenset[str],
    auto_extract: bool,
    requires: tuple[str, ...],
    rebind: Rebind,
    ignored: tuple[str, ...],
    revert_requires: tuple[str, ...],
    revert_rebind: Rebind,
) -> _Needs:
    if revert is _NO_PARAMETERS:
        inputs = inputs_of(execute, reserved_execute, auto_extract, requires, rebind, ignored, "execute")
        return inputs, (), _NOTHING
    accepts = reserved_revert if revert.accepts_any else reserved_revert & set(revert.all)
    return (
        inputs_of(execute, reserved_execute, auto_extract, requires, rebind, ignored, "execute"),
        inputs_of(
            revert, reserved_revert, auto_extract, revert_requires or requires, revert_rebind or rebind, ignored,
            "revert",
        ),
        frozenset(accepts),
    )  # fmt: skip


def inputs_of(
    signature: Signature,
    reserved: frozenset[str],
    auto_extract: bool,
    requires: tuple[str, ...],
    rebind: Rebind,
    ignored: tuple[str, ...],
    method: str,
) -> tuple[Input, ...]:
    """The inputs of one method.

    :raises DefinitionError: it does not take what was declared, or takes what was not
    """
    if not rebind and not signature.all and signature.accepts_any:
        return tuple([(name, name, False) for name in requires])
    required = [each for each in signature.required if each not in ignored and each not in reserved]
    mapping = {each: each for each in required} if auto_extract else {}
    mapping.update((each, each) for each in requires)
    if isinstance(rebind, Mapping):
        mapping.update(rebind)
    elif rebind:
        mapping.update(zip(required, rebind, strict=False))
        mapping.update((each, each) for each in rebind[len(required) :])
    if not signature.accepts_any:
        extra = [each for each in mapping if each not in signature.all]
        if extra and method == "revert":
            for each in extra:  # a revert takes what it names of the inputs of execute
                del mapping[each]
        elif extra:
            raise DefinitionError(f"Extra arguments: {method} does not take {', '.join(map(repr, extra))}")
    missing = [each for each in required if each not in mapping]
    if missing:
        raise DefinitionError(
            f"Missing arguments: {method} needs {', '.join(map(repr, missing))}; require or rebind them"
        )
    inputs = [(parameter, name, False) for parameter, name in mapping.items()]
    if auto_extract:
        left = (each for each in signature.all if each not in mapping and each not in ignored)
        inputs += [(each, each, True) for each in left if each not in reserved]
    return tuple(inputs)


def names_of(argument: str, names: Names) -> tuple[str, ...]:
    """The names that were given for an argument, in their order.

    :raises DefinitionError: they are no names
    """
    if not names:
        return ()
    found = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else (names,)
    if not all(isinstance(each, str) for each in found):
        raise WrongType(f"{argument} must be a name or several, not {names!r}")
    return found


def _pairs(argument: str, rebind: Any) -> Rebind:
    if not rebind:
        return None
    if isinstance(rebind, (list, tuple, Mapping)):
        both = [*rebind, *rebind.values()] if isinstance(rebind, Mapping) else rebind
        if all(isinstance(each, str) for each in both):
            return rebind
    raise WrongType(f"Invalid rebind value: {argument} must be a dict, a list or a tuple of names, not {rebind!r}")


def check_name(name: Any) -> str:
    """The name, if it can be stored.

    :raises DefinitionError: it cannot
    """
    if not isinstance(name, str):
        raise WrongType(f"a name must be a string, not {name!r}")
    if not 0 < len(name) <= _LONGEST_NAME or "\0" in name or not name.isascii() and _has_surrogate(name):
        raise DefinitionError(f"a name must have 1 to {_LONGEST_NAME} characters, no NUL or surrogates, not {name!r}")
    return name


def check_limit(what: str, seconds: Any) -> float:
    """The time limit, if it is one.

    :raises DefinitionError: it is not
    """
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= _LONGEST_LIMIT_SECONDS:
        raise DefinitionError(f"{what}: time_limit_seconds must be a number of more than 0, not {seconds!r}")
    return float(seconds)


def _has_surrogate(name: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in name)


def save_as(provides: Any) -> dict[str, Any]:
    """Provided name to the part of the result that it stands for.

    :raises DefinitionError: ``provides`` is none of the shapes that it may have
    """
    if provides is None:
        return _NOTHING_SAVED
    if isinstance(provides, str):
        return {_provided(provides): None}
    if isinstance(provides, (list, tuple)):
        parts = {_provided(name): index for index, name in enumerate(provides)}
        if len(parts) < len(provides):
            twice = next(name for index, name in enumerate(provides) if parts[name] != index)
            raise DefinitionError(f"provides has {twice!r} twice; each part of the result needs a name of its own")
        return parts
    if isinstance(provides, (set, frozenset)):
        return {name: name for name in sorted(map(_provided, provides))}
    raise WrongType(f"Atom provides must be a string, list, tuple or set, not {provides!r}")


def _provided(name: Any) -> str:
    try:
        return check_name(name)
    except DefinitionError as error:
        raise type(error)(f"provides: {error}") from None


_NOTHING_SAVED: dict[str, Any] = {}
