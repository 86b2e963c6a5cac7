# SPDX-License-Identifier: Apache-2.0
"""``taskflow.engines.helpers``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oslo_utils import importutils

from pluggableflow import api
from pluggableflow.atom import Atom
from pluggableflow.exceptions import NotFound
from pluggableflow.flow import Flow
from pluggableflow.middleware import FlowDetail, LogBook
from pluggableflow.task import Task
from pluggableflow_taskflow.engines.action_engine.engine import (
    ActionEngine,
    ParallelActionEngine,
    SerialActionEngine,
)
from pluggableflow_taskflow.utils.persistence_utils import connection_of

_ENGINES: dict[str, type[ActionEngine]] = {
    "default": SerialActionEngine,
    "serial": SerialActionEngine,
    "parallel": ParallelActionEngine,
}


def load(
    flow: Any,
    store: Mapping[str, Any] | None = None,
    flow_detail: FlowDetail | None = None,
    book: LogBook | None = None,
    backend: Any = None,
    namespace: str = "taskflow.engines",
    engine: str = "default",
    **kwargs: Any,
) -> ActionEngine:
    """An engine for a flow.

    :raises NotFound: there is no engine type of that name
    """
    kind = _ENGINES.get(engine)
    if kind is None:
        raise NotFound(f"there is no engine {engine!r}; there are {', '.join(_ENGINES)}")
    if isinstance(flow, type) and issubclass(flow, Task):
        flow = flow()  # a task's class stands for a task with its default name
    if not isinstance(flow, (Atom, Flow)):
        raise TypeError(f"a flow or a task is run, not {flow!r}")
    options = {name: value for name, value in kwargs.items() if value is not None}
    whole: Any = flow  # a task too: the engine puts a flow around it
    loaded = api.load(connection_of(backend), whole, flow_detail, book, store, kind, **options)
    assert isinstance(loaded, ActionEngine)
    return loaded


def run(
    flow: Any,
    store: Mapping[str, Any] | None = None,
    flow_detail: FlowDetail | None = None,
    book: LogBook | None = None,
    backend: Any = None,
    namespace: str = "taskflow.engines",
    engine: str = "default",
    **kwargs: Any,
) -> dict[str, Any]:
    """Run a flow and return everything that it provides."""
    loaded = load(flow, store, flow_detail, book, backend, namespace, engine, **kwargs)
    loaded.run()
    return loaded.storage.fetch_all()


def _name_of(factory: str | Callable[..., Any]) -> str:
    if isinstance(factory, str):
        return factory
    name = f"{factory.__module__}.{factory.__qualname__}"
    try:
        if importutils.import_class(name) is factory:
            return name
    except (ImportError, ValueError):
        pass
    raise ValueError(f"Flow factory {factory!r} is not reimportable by name {name}")


def save_factory_details(
    flow_detail: FlowDetail,
    flow_factory: str | Callable[..., Any],
    factory_args: Sequence[Any] | None,
    factory_kwargs: Mapping[str, Any] | None,
    backend: Any = None,
) -> None:
    """Keep in the metadata of a detail what its flow is made from again."""
    flow_detail.meta["factory"] = {
        "name": _name_of(flow_factory),
        "args": list(factory_args or ()),
        "kwargs": dict(factory_kwargs or {}),
    }
    connection = connection_of(backend)
    if connection is not None:
        connection.update_flow_details(flow_detail)


def load_from_factory(
    flow_factory: str | Callable[..., Any],
    factory_args: Sequence[Any] | None = None,
    factory_kwargs: Mapping[str, Any] | None = None,
    store: Mapping[str, Any] | None = None,
    book: LogBook | None = None,
    backend: Any = None,
    namespace: str = "taskflow.engines",
    engine: str = "default",
    **kwargs: Any,
) -> ActionEngine:
    """An engine for the flow that a factory makes, so that :func:`load_from_detail` can make both again."""
    factory = importutils.import_class(_name_of(flow_factory))
    flow = factory(*(factory_args or ()), **(factory_kwargs or {}))
    loaded = load(flow, store, None, book, backend, namespace, engine, **kwargs)
    save_factory_details(loaded.storage.flow_detail, flow_factory, factory_args, factory_kwargs, backend)
    return loaded


def flow_from_detail(flow_detail: FlowDetail) -> Any:
    """Make the flow of a detail again, from the factory in its metadata.

    :raises ValueError: there is none
    :raises ImportError: it cannot be imported
    """
    factory = flow_detail.meta.get("factory")
    if factory is None:
        raise ValueError(f"Cannot make flow {flow_detail.name} {flow_detail.uuid}: no factory information saved.")
    try:
        made = importutils.import_class(factory["name"])
    except (ImportError, ValueError) as error:
        raise ImportError(f"Could not import factory for flow {flow_detail.name} {flow_detail.uuid}") from error
    return made(*factory.get("args", ()), **factory.get("kwargs", {}))


def load_from_detail(
    flow_detail: FlowDetail,
    store: Mapping[str, Any] | None = None,
    backend: Any = None,
    namespace: str = "taskflow.engines",
    engine: str = "default",
    **kwargs: Any,
) -> ActionEngine:
    """An engine that goes on with a stored detail, for the flow that its factory makes again."""
    flow = flow_from_detail(flow_detail)
    return load(flow, store, flow_detail, None, backend, namespace, engine, **kwargs)
