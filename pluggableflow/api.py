# SPDX-License-Identifier: Apache-2.0
"""What an embedding program calls: connect to a store, load a flow into an engine, run it.

``connection`` is everywhere a URL (``sqlite:///flows.db``), a :class:`~pluggableflow.connection.Connection`, a
client that an installed backend knows (a SQLAlchemy ``Engine``), or ``None`` for a run that lives in memory only.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pluggableflow import states
from pluggableflow.connection import Connection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import FlowFileError, OptionError
from pluggableflow.executor import run_to_end
from pluggableflow.flow import Flow
from pluggableflow.loader import connection_for, connection_for_client, load_plugin
from pluggableflow.middleware import FlowDetail, LogBook, TaskDetail
from pluggableflow.secret import for_store
from pluggableflow.storage import INJECTOR


def connect(connection: Any = None) -> Connection:
    """The connection to a store; one that is made here is upgraded, so it is ready for use.

    A connection made from a URL is the caller's to close; one that is passed in is returned as it is.

    :param connection: a URL, a Connection, a client of a driver, or ``None`` for a new store in memory
    :raises PluginError: no installed backend knows it
    :raises StorageFailure: the store does not answer; :class:`ForeignStore` if it belongs to something else
    """
    if isinstance(connection, Connection):
        return connection
    if connection is None:
        connection = "memory://"
    made = connection_for(connection) if isinstance(connection, str) else connection_for_client(connection)
    try:
        made.upgrade()
    except BaseException:
        made.close()
        raise
    return made


@contextlib.contextmanager
def _connected(connection: Any) -> Iterator[Connection | None]:
    if connection is None or isinstance(connection, Connection):
        yield connection
        return
    made = connect(connection)
    try:
        yield made
    finally:
        made.close()


def run(
    connection: Any,
    flow: Flow,
    flow_detail: FlowDetail | None = None,
    book: LogBook | None = None,
    store: Mapping[str, Any] | None = None,
    engine: str | type[Engine] | Engine = "serial",
    **options: Any,
) -> dict[str, Any]:
    """Run a flow and return everything that it provides, by name.

    :raises Exception: the failure of the flow, see :meth:`~pluggableflow.engine.Engine.run`; and what
        :func:`load`, ``compile``, ``prepare`` and ``validate`` raise, before anything runs
    """
    with _connected(connection) as made:
        loaded = load(made, flow, flow_detail, book, store, engine, **options)
        ended = loaded.run()
        if ended is not None:
            run_to_end(ended)
        return loaded.storage.fetch_all()


def load(
    connection: Any,
    flow: Flow,
    flow_detail: FlowDetail | None = None,
    book: LogBook | None = None,
    store: Mapping[str, Any] | None = None,
    engine: str | type[Engine] | Engine = "serial",
    **options: Any,
) -> Engine:
    """Make an engine for a flow.

    :param flow_detail: the stored detail to go on with; without one a new detail is made and stored
    :param book: the logbook that a new detail belongs to; without one a new book is made
    :param store: initial arguments by name; wrap those that nobody may see in :class:`~pluggableflow.secret.Secret`.
        On a stored detail, new names are added; a value that differs from the stored one is refused with
        :class:`FlowMismatch`
    :param engine: name of an installed engine type, a class, or an engine, which is returned as it is
    :param options: of the engine type
    """
    if isinstance(engine, Engine):
        if options:
            raise OptionError(f"an engine that exists takes no options, but {', '.join(sorted(options))} were given")
        return engine
    kind: type[Engine] = load_plugin("pluggableflow.engines", engine) if isinstance(engine, str) else engine
    if connection is not None:
        connection = connect(connection)
    store = dict(store or {})
    if flow_detail is None:
        loaded = kind(flow, _new_flow_detail(flow, store), connection, options)
        _keep(loaded.storage.flow_detail, book, connection)
        loaded.storage.reload(loaded.storage.flow_detail)
    else:
        loaded = kind(flow, flow_detail, connection, options)
    loaded.store = store
    return loaded


def _new_flow_detail(flow: Flow, store: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> FlowDetail:
    detail = FlowDetail(flow.name)
    detail.meta = dict(meta or {})
    if store:
        injector = TaskDetail(INJECTOR)
        injector.state, injector.results = states.SUCCESS, for_store(store)
        detail.add(injector)
    return detail


def _keep(detail: FlowDetail, book: LogBook | None, connection: Connection | None) -> None:
    if connection is None and book is None:
        return
    book = book if book is not None else LogBook(detail.name)
    book.add(detail)
    if connection is not None:
        connection.save_logbook(book)


def create_flow_detail(
    flow: Flow,
    book: LogBook | None = None,
    connection: Any = None,
    meta: Mapping[str, Any] | None = None,
    store: Mapping[str, Any] | None = None,
) -> FlowDetail:
    """Make a detail for a flow, in a logbook (a new one if none is given), and store both.

    :param meta: the embedder's own data
    :param store: initial arguments, stored with it
    """
    detail = _new_flow_detail(flow, store or {}, meta)
    with _connected(connection) as made:
        _keep(detail, book, made)
    return detail


def temporary_log_book(connection: Any = None) -> LogBook:
    """A new logbook, stored if there is a connection."""
    book = LogBook("temporary")
    with _connected(connection) as made:
        if made is not None:
            made.save_logbook(book)
    return book


def temporary_flow_detail(connection: Any = None, meta: Mapping[str, Any] | None = None) -> tuple[LogBook, FlowDetail]:
    """A new logbook with an empty flow detail, stored if there is a connection."""
    book, detail = LogBook("temporary"), FlowDetail("temporary")
    detail.meta = dict(meta or {})
    with _connected(connection) as made:
        _keep(detail, book, made)
    return book, detail


# -- factories ----------------------------------------------------------------------------------------------------


def _factory_name(factory: str | Callable[..., Flow]) -> str:
    if isinstance(factory, str):
        name = factory
    else:
        name = f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', '')}"
        module, _, attribute = name.partition(":")
        found: Any = sys.modules.get(module)
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if found is not factory:
            raise FlowFileError(f"factory {factory!r} cannot be found again as {name}; use a function of a module")
    module, separator, attribute = name.partition(":")
    if not (separator and module and attribute):
        raise FlowFileError(f"a factory is named as module:function, not {name!r}")
    return name


def save_factory_details(
    flow_detail: FlowDetail,
    factory: str | Callable[..., Flow],
    factory_args: Sequence[Any] = (),
    factory_kwargs: Mapping[str, Any] | None = None,
    connection: Any = None,
) -> None:
    """Keep in a detail what its flow is made from again.

    :param factory: ``module:function``, or a function that can be found under its name
    """
    flow_detail.factory = {
        "name": _factory_name(factory),
        "args": list(factory_args),
        "kwargs": dict(factory_kwargs or {}),
    }
    with _connected(connection) as made:
        if made is not None:
            made.update_flow_details(flow_detail)


def flow_from_detail(flow_detail: FlowDetail, allowed_prefixes: Sequence[str] = ()) -> Flow:
    """Make the flow of a stored detail again, from its factory.

    :param allowed_prefixes: packages or modules that a factory may be imported from; others are refused
    :raises FlowFileError: there is no factory, or it is not allowed, cannot be imported, or makes no flow
    """
    stored = flow_detail.factory
    if not stored or "name" not in stored:
        raise FlowFileError(f"flow {flow_detail.uuid} was stored without a factory; load it with its flow")
    name = _factory_name(stored["name"])
    module, _, attribute = name.partition(":")
    if not any(module == prefix or module.startswith(prefix.rstrip(".") + ".") for prefix in allowed_prefixes):
        allowed = ", ".join(allowed_prefixes) or "none"
        raise FlowFileError(
            f"flow {flow_detail.uuid} is made by {name}, which is not below an allowed prefix ({allowed});"
            " name its package in allowed_prefixes if you trust it"
        )
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise FlowFileError(f"the factory {name} of flow {flow_detail.uuid} cannot be loaded: {error}") from error
    return _made_by(found, name, stored["args"], stored["kwargs"])


def _made_by(factory: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Flow:
    flow = factory(*args, **kwargs)
    if not isinstance(flow, Flow):
        raise FlowFileError(f"the factory {name} made {flow!r}, which is not a flow")
    return flow


def load_from_factory(
    connection: Any,
    factory: str | Callable[..., Flow],
    factory_args: Sequence[Any] = (),
    factory_kwargs: Mapping[str, Any] | None = None,
    store: Mapping[str, Any] | None = None,
    book: LogBook | None = None,
    engine: str | type[Engine] = "serial",
    **options: Any,
) -> Engine:
    """Make a flow by its factory, and an engine for it, so that :func:`load_from_detail` can make both again."""
    name = _factory_name(factory)
    if isinstance(factory, str):
        module, _, _attribute = name.partition(":")
        flow = flow_from_detail(_detail_with_factory(name, factory_args, factory_kwargs), [module])
    else:
        flow = _made_by(factory, name, factory_args, factory_kwargs or {})
    if connection is not None:
        connection = connect(connection)
    detail = _new_flow_detail(flow, store or {})
    save_factory_details(detail, name, factory_args, factory_kwargs)
    _keep(detail, book, connection)
    return load(connection, flow, detail, store=store, engine=engine, **options)


def _detail_with_factory(name: str, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> FlowDetail:
    detail = FlowDetail(name)
    save_factory_details(detail, name, args, kwargs)
    return detail


def load_from_detail(
    connection: Any,
    flow_detail: FlowDetail,
    allowed_prefixes: Sequence[str] = (),
    store: Mapping[str, Any] | None = None,
    engine: str | type[Engine] = "serial",
    **options: Any,
) -> Engine:
    """Make the flow of a stored detail again, and an engine that goes on with it; see :func:`flow_from_detail`."""
    flow = flow_from_detail(flow_detail, allowed_prefixes)
    return load(connection, flow, flow_detail, store=store, engine=engine, **options)
