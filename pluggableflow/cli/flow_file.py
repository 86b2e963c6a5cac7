# SPDX-License-Identifier: Apache-2.0
"""Makes flows from files that define ``create_flow(**params) -> Flow``."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pluggableflow import codec
from pluggableflow.exceptions import DefinitionError, FlowFileError
from pluggableflow.flow import Flow

#: Before the file's stem in the name of its module, so that ``json.py`` does not hide the module ``json``.
MODULE_PREFIX = "pluggableflow_file_"


class FlowFile:
    """A flow file that was read and executed.

    :ivar path: absolute
    :ivar sha256: of the bytes that were executed
    """

    def __init__(self, path: str) -> None:
        self.path, source = _read(path)
        self.sha256 = hashlib.sha256(source).hexdigest()
        self.module = _execute(self.path, source)
        self._create: Any = getattr(self.module, "create_flow", None)
        if not callable(self._create):
            raise FlowFileError(f"{self.path} defines no create_flow; add a function create_flow(**params) -> Flow")

    def parameters(self, pairs: Iterable[str]) -> dict[str, Any]:
        """The parameters that ``key=value`` pairs mean: JSON where it is some, otherwise text.

        A value stays text where ``create_flow`` declares its parameter as ``str``.

        :raises FlowFileError: a pair has no ``=``
        """
        declared = inspect.signature(self._create).parameters
        parameters = {}
        for pair in pairs:
            key, separator, text = pair.partition("=")
            if not separator or not key:
                raise FlowFileError(f"parameter {pair!r} is not of the form key=value")
            annotation = declared[key].annotation if key in declared else None
            parameters[key] = text if annotation in (str, "str") else _value(text)
        return parameters

    def create_flow(self, parameters: Mapping[str, Any]) -> Flow:
        """Call the file's ``create_flow``.

        :raises FlowFileError: the parameters do not fit, it raised, or it made no flow
        """
        signature = inspect.signature(self._create)
        try:
            signature.bind(**parameters)
        except TypeError as error:
            known = ", ".join(str(each) for each in signature.parameters.values()) or "none"
            raise FlowFileError(f"create_flow of {self.path}: {error}; its parameters are: {known}") from error
        try:
            flow = self._create(**parameters)
        except Exception as error:
            raise FlowFileError(f"create_flow of {_where(self.path, error)}: {_line(error)}") from error
        if not isinstance(flow, Flow):
            raise FlowFileError(f"create_flow of {self.path} returned {flow!r}, which is not a flow; return a Flow")
        return flow

    def report(self, results: Mapping[str, Any]) -> str | None:
        """What the file's ``report`` says of the results, or ``None`` if it has none."""
        report = getattr(self.module, "report", None)
        return str(report(results)) if callable(report) else None


def module_name(path: str) -> str:
    """The name under which a flow file is imported; it depends on the file's own name only."""
    return MODULE_PREFIX + re.sub(r"\W", "_", Path(path).stem)


def sha256_of(path: str) -> str:
    """The SHA-256 of a file.

    :raises FlowFileError: it cannot be read
    """
    return hashlib.sha256(_read(path)[1]).hexdigest()


def _read(path: str) -> tuple[str, bytes]:
    absolute = Path(path).absolute()
    try:
        return str(absolute), absolute.read_bytes()
    except OSError as error:
        raise FlowFileError(f"flow file {absolute} cannot be read: {error.strerror}; check the path") from error


def _execute(path: str, source: bytes) -> ModuleType:
    name, folder = module_name(path), str(Path(path).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as for a script, so that it can import its neighbours
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise FlowFileError(f"flow file {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except Exception as error:
        sys.modules.pop(name, None)
        raise FlowFileError(f"flow file {_where(path, error)} cannot be loaded: {_line(error)}") from error
    _register_classes(module)
    return module


def _register_classes(module: ModuleType) -> None:
    """Let stored values of the classes that the file names be read again: who runs the file trusts it."""
    for value in list(vars(module).values()):
        if isinstance(value, type):
            with contextlib.suppress(DefinitionError):
                codec.register_class(value)


def _where(path: str, error: BaseException) -> str:
    """The file, with the line at which it failed if that is known."""
    number = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            number = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{number}" if number else path


def _line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
