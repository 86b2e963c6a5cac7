# SPDX-License-Identifier: Apache-2.0
"""Every error that pluggableflow raises by itself, each with the stdlib parent that a caller expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class PluggableFlowError(Exception):
    """The root of all errors of this package.

    :param cause: what led to it, as with ``raise ... from cause``; it is then part of its text
    """

    _tells_cause = False

    def __init__(self, *args: Any, cause: BaseException | None = None) -> None:
        super().__init__(*args)
        if cause is not None:
            self.__cause__, self._tells_cause = cause, True

    def __str__(self) -> str:
        return self.pformat() if self._tells_cause else super().__str__()

    @property
    def cause(self) -> BaseException | None:
        """What led to it, or ``None``."""
        return self.__cause__

    def pformat(self, indent: int = 2, indent_text: str = " ", show_root_class: bool = False) -> str:
        """The message, and below it those of its causes, each indented by ``indent`` times ``indent_text`` more.

        :raises ValueError: ``indent`` is negative
        """
        if indent < 0:
            raise ValueError(f"indent must not be negative, as {indent} is")
        message = super().__str__()
        lines = [f"{type(self).__name__}: {message}" if show_root_class else message]
        seen: set[int] = {id(self)}
        at = self.__cause__
        while at is not None and id(at) not in seen:
            seen.add(id(at))
            message = Exception.__str__(at) if isinstance(at, PluggableFlowError) else str(at)
            lines.append(f"{indent_text * (indent * len(lines))}{type(at).__name__}: {message}")
            at = at.__cause__
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(kind: type[PluggableFlowError], args: tuple[Any, ...], attributes: dict[str, Any]) -> PluggableFlowError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class DefinitionError(PluggableFlowError, ValueError):
    """A task, retry or flow is declared in a way that cannot run."""


class WrongType(DefinitionError, TypeError):
    """Something in a declaration is of a type that cannot stand there."""


class Duplicate(DefinitionError):
    """Two things carry a name that must be unique."""


class DependencyFailure(DefinitionError):
    """Atoms depend on each other in a way that has no order."""


class AmbiguousDependency(DependencyFailure):
    """An input has several providers, and nothing says which is meant."""


class CompilationFailure(DefinitionError):
    """A flow has faults; all that were found are listed together.

    :ivar faults: one :class:`DefinitionError` per fault, in the order of the flow
    """

    def __init__(self, flow_name: str, faults: Sequence[DefinitionError]) -> None:
        self.flow_name = flow_name
        self.faults = tuple(faults)
        lines = "".join(f"\n  - {fault}" for fault in faults)
        super().__init__(f"flow {flow_name!r} cannot be compiled, {len(faults)} fault(s):{lines}")


class Missing:
    """One input that nothing provides.

    :ivar atom: name of the atom that asks for it
    :ivar argument: parameter of the method that would receive it
    :ivar name: name under which it is looked up
    :ivar candidates: atoms that provide the name but do not come before ``atom``
    """

    def __init__(self, atom: str, argument: str, name: str, candidates: Sequence[str]) -> None:
        self.atom, self.argument, self.name = atom, argument, name
        self.candidates = tuple(candidates)

    def __str__(self) -> str:
        what = f"{self.atom!r} needs {self.name!r}"
        if self.argument != self.name:
            what += f" (for its argument {self.argument!r})"
        if self.candidates:
            names = ", ".join(repr(name) for name in self.candidates)
            return f"{what}, which only {names} provides, and that does not come before it"
        return f"{what}, which nothing provides"


class MissingDependencies(DependencyFailure):
    """Inputs that nothing provides, all of them together.

    :ivar missing: one :class:`Missing` per input
    """

    def __init__(self, flow_name: str, missing: Sequence[Missing]) -> None:
        self.flow_name = flow_name
        self.missing = tuple(missing)
        lines = "".join(f"\n  - {each}" for each in missing)
        super().__init__(
            f"flow {flow_name!r} lacks {len(missing)} input(s); pass them in `store`, inject them,"
            f" or add an atom that provides them:{lines}"
        )


class MissingSecrets(DependencyFailure):
    """Secrets that a flow was given in an earlier run and that were not stored. Nothing was run.

    :ivar names: under which they are looked up
    """

    def __init__(self, flow_name: str, names: Sequence[str]) -> None:
        self.flow_name, self.names = flow_name, tuple(names)
        again = ", ".join(f"{name!r}: Secret(...)" for name in names)
        super().__init__(
            f"flow {flow_name!r} needs {len(names)} secret(s) that were not stored; give them again:"
            f" store={{{again}}}, or as the inject of the atom that had them"
        )


class FlowMismatch(PluggableFlowError, ValueError):
    """A flow differs from its stored detail in what has already begun. Nothing was run or changed.

    :ivar added: atoms of the flow that would come before what has begun
    :ivar removed: atoms that have begun and that the flow no longer has
    :ivar changed: atom name to the list of its aspects that differ
    """

    def __init__(
        self,
        flow_uuid: str,
        added: Sequence[str],
        removed: Sequence[str],
        changed: Mapping[str, Sequence[str]],
    ) -> None:
        self.flow_uuid = flow_uuid
        self.added, self.removed = tuple(added), tuple(removed)
        self.changed = {name: tuple(aspects) for name, aspects in changed.items()}
        lines = [f"\n  - added: {name!r}" for name in added]
        lines += [f"\n  - removed: {name!r}" for name in removed]
        lines += [f"\n  - changed: {name!r} ({', '.join(why)})" for name, why in changed.items()]
        super().__init__(
            f"the flow differs from its stored detail {flow_uuid} in what has already begun"
            f' (run it with on_mismatch="accept" to go on all the same, or with a new detail):{"".join(lines)}'
        )


class InvalidState(PluggableFlowError, RuntimeError):
    """A call or a transition that the present state does not allow."""


class InvalidFormat(PluggableFlowError, ValueError):
    """Data that does not have the documented shape."""


class NotFound(PluggableFlowError, LookupError):
    """A record or a value that does not exist."""


class EncodingError(PluggableFlowError, TypeError):
    """A value that the codec cannot encode.

    :ivar path: where in the value, such as ``$['servers'][3]``
    :ivar type_name: the type found there
    """

    def __init__(self, path: str, type_name: str, reason: str = "") -> None:
        self.path, self.type_name, self.reason = path, type_name, reason
        super().__init__(
            f"{path} is a {type_name}, which cannot be stored"
            f"{': ' + reason if reason else ''}; return plain data, or register the type with the codec"
        )


class DecodingError(PluggableFlowError, ValueError):
    """Stored text that the codec cannot decode."""


class DamagedRecord(DecodingError):
    """A stored record that cannot be read: damaged, of a type this process does not know, or of a newer release.

    :ivar record_kind: "logbook", "flow" or "atom"
    """

    def __init__(self, record_kind: str, uuid: str, reason: str) -> None:
        self.record_kind, self.uuid, self.reason = record_kind, uuid, reason
        super().__init__(f"{record_kind} {uuid} cannot be read: {reason}")


class StorageFailure(PluggableFlowError, OSError):
    """The store did not answer, or could not do what was asked. It is never the failure of a task."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class ForeignStore(StorageFailure):
    """The store holds tables or keys of another program, or of a version that this release cannot read."""


class ValueTooLarge(StorageFailure):
    """A value or commit exceeds what the store can hold; nothing was written."""


class LeaseLost(PluggableFlowError, RuntimeError):
    """Another owner holds the flow now, or it is gone; nothing was changed."""

    def __init__(self, flow_uuid: str) -> None:
        self.flow_uuid = flow_uuid
        super().__init__(
            f"the lease on flow {flow_uuid} was lost: another owner took it, or it was deleted;"
            " this engine has stopped and wrote nothing more"
        )


class FlowOwned(PluggableFlowError, RuntimeError):
    """A live lease of another owner forbids the call; nothing was changed.

    :ivar owner: identity of the owner
    :ivar epoch: number of its lease, with which a claim can evict it
    :ivar seconds_left: until the lease runs out, by the store's clock
    """

    def __init__(self, flow_uuid: str, owner: str, epoch: int, seconds_left: float) -> None:
        self.flow_uuid, self.owner, self.epoch, self.seconds_left = flow_uuid, owner, epoch, seconds_left
        super().__init__(
            f"flow {flow_uuid} is held by {owner}; its lease runs out in {seconds_left:.1f} s unless it is renewed"
        )


class ExecutionFailure(PluggableFlowError, RuntimeError):
    """A failure whose original exception is not available in this process."""


class Cancelled(ExecutionFailure):
    """A flow, or an atom of it, was stopped for good.

    :ivar what: ``flow 'name'`` or ``atom 'name'``
    :ivar why: who asked for it, or which time limit has passed
    """

    def __init__(self, what: str, why: str) -> None:
        self.what, self.why = what, why
        super().__init__(f"{what} was cancelled: {why}")


class TimedOut(PluggableFlowError, TimeoutError):
    """A task, or the flow of a retry around it, has passed its time limit.

    :ivar atom_name: the task
    """

    def __init__(self, atom_name: str, why: str) -> None:
        self.atom_name, self.why = atom_name, why
        super().__init__(f"atom {atom_name!r} ran out of time: {why}")


class WorkerDied(ExecutionFailure):
    """The process or machine that ran an atom died, each time that it was tried, or none could be started.

    :ivar atom_name: the atom
    :ivar deaths: how often its worker died
    """

    def __init__(self, atom_name: str, deaths: int, last: str) -> None:
        self.atom_name, self.deaths = atom_name, deaths
        times = "once" if deaths == 1 else f"{deaths} times"
        super().__init__(f"atom {atom_name!r}: the worker died {times}, at last by {last}; it is not tried again")


class NotRun(ExecutionFailure):
    """An executor was stopped at once: an atom was not begun, or was ended before its time."""


class NotPicklable(PluggableFlowError, TypeError):
    """An atom or one of its values cannot go to another process, or cannot come back.

    :ivar atom_name: the atom
    :ivar what: the part of it: ``argument 'x'``, ``attribute 'x' of the task``, ``the result``
    """

    def __init__(self, atom_name: str, what: str, reason: str) -> None:
        self.atom_name, self.what = atom_name, what
        super().__init__(
            f"atom {atom_name!r}: {what} cannot be passed between processes: {reason};"
            " make it picklable and importable there, or use an executor that runs atoms in this process"
        )


class WrappedFailure(ExecutionFailure):
    """Several failures, raised together.

    Iterating yields the :class:`~pluggableflow.failure.Failure` objects.
    """

    def __init__(self, failures: Iterable[Any]) -> None:
        flat: list[Any] = []
        for failure in failures:
            inner = getattr(failure, "exception", None)
            flat.extend(inner) if isinstance(inner, WrappedFailure) else flat.append(failure)
        self.failures = tuple(flat)
        super().__init__("WrappedFailure: [" + ", ".join(str(failure) for failure in flat) + "]")

    def __iter__(self) -> Any:
        return iter(self.failures)

    def __len__(self) -> int:
        return len(self.failures)

    def check(self, *kinds: type[BaseException] | str) -> Any:
        """The first of ``kinds`` that any of the failures is an instance of, or ``None``."""
        for failure in self.failures:
            found = failure.check(*kinds)
            if found is not None:
                return found
        return None


class PluginError(PluggableFlowError, LookupError):
    """A plugin is missing, broken, doubled, or follows another contract version."""


class OptionError(PluggableFlowError, ValueError):
    """An option is unknown, has the wrong type, or an impossible value."""


class FlowFileError(PluggableFlowError, ValueError):
    """A file or factory from which no flow can be made."""
