# SPDX-License-Identifier: Apache-2.0
"""Work and outcomes as bytes, for another process."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from pluggableflow.exceptions import NotPicklable
from pluggableflow.executor import Outcome, Work

#: Begins the names of the modules that flow files become, as the command makes them.
_FLOW_FILE = "pluggableflow_file_"


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Find the function of ``@task`` through the maker that stands in its place."""
        if isinstance(value, FunctionType):
            maker = sys.modules.get(value.__module__)
            for name in value.__qualname__.split("."):
                maker = getattr(maker, name, None)
            if maker is not value and getattr(maker, "function", None) is value:
                return getattr, (maker, "function")
        return NotImplemented


def _dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _fault(value: Any) -> Exception | None:
    try:
        _dumps(value)
    except Exception as error:
        return error
    return None


def pack(work: Work) -> bytes:
    """Work as bytes.

    :raises NotPicklable: a part of it cannot be pickled
    """
    task = work.task.copy(retain_listeners=False)
    task._report = None
    files = [
        module.__file__ for name, module in list(sys.modules.items()) if name.startswith(_FLOW_FILE) and module.__file__
    ]
    head = (work.node, task.name, work.revert, work.key, work.task._notifier is not None, files, work.cancelled)
    try:
        return pickle.dumps((*head, _dumps((task, work.arguments))))
    except Exception as error:
        parts = {f"argument {name!r}": value for name, value in work.arguments.items()}
        parts |= {f"attribute {name!r} of the task": value for name, value in vars(task).items()}
        for what, value in parts.items():
            if (fault := _fault(value)) is not None:
                raise NotPicklable(task.name, f"{what} ({type(value).__name__})", _line(fault)) from fault
        raise NotPicklable(task.name, "the task", _line(error)) from error


def unpack(message: bytes, report: Callable[..., None]) -> Work:
    """Work that :func:`pack` has packed in another process.

    :raises NotPicklable: it cannot be made again here
    """
    node, name, revert, key, listened, files, cancelled, content = pickle.loads(message)
    try:
        from pluggableflow.cli.flow_file import FlowFile, module_name

        for path in files:
            if module_name(path) not in sys.modules:
                FlowFile(path)
        task, arguments = pickle.loads(content)
    except Exception as error:
        raise NotPicklable(name, "the task, or an argument of it,", _line(error)) from error
    assert not listened or task.notifier is not None, "makes one, so that progress begins with 0 as it does at home"
    return Work(node, task, revert, arguments, key, report, cancelled)


def pack_outcome(name: str, outcome: Outcome) -> bytes:
    """An outcome as bytes; a result that cannot be pickled becomes a failure that says so."""
    try:
        return _dumps((outcome.value, outcome.failure, outcome.begun))
    except Exception as error:
        fault = NotPicklable(name, f"the result ({type(outcome.value).__name__})", _line(error))
        return pack_failure(fault)


def pack_failure(error: BaseException) -> bytes:
    """The outcome of work that could not be run, as bytes."""
    from pluggableflow.failure import Failure

    return pickle.dumps((None, Failure.from_exception(error), True))


def unpack_outcome(work: Work, content: bytes) -> Outcome:
    """What :func:`pack_outcome` has packed in another process."""
    try:
        value, failure, begun = pickle.loads(content)
    except Exception as error:
        fault = NotPicklable(work.task.name, "the result", _line(error))
        fault.__cause__ = error
        return work.failed(fault)
    return Outcome(work.node, work.revert, value, failure, begun)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
