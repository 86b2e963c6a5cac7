# SPDX-License-Identifier: Apache-2.0
"""Options of ini files: those of the core, and of the stores that publish their own, through oslo.config.

A backend publishes options by naming a module as ``config_module`` of its connection class. The module has ``SUFFIX``,
which makes the name of its group (``pluggableflow_redis``); ``OPTIONS``; ``FILES``, the names of those that name a
file; and ``PARAMETERS``, the name of an option to the :class:`Parameter` of URLs that it stands for, by URL scheme.
What a URL says itself wins over its group. The module of an executor has ``SUFFIX`` and ``OPTIONS``, which are named
like the arguments of its class.

Nothing here touches the global configuration of oslo.config; the caller passes the one that is meant.
"""

from __future__ import annotations

import copy
import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from oslo_config import cfg

from pluggableflow import api
from pluggableflow.conductor import Conductor
from pluggableflow.connection import Connection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import OptionError
from pluggableflow.executor import Executor
from pluggableflow.flow import Flow
from pluggableflow.loader import CONNECTIONS, ENGINES, EXECUTORS, load_plugin
from pluggableflow.middleware import FlowDetail, LogBook

GROUP = "pluggableflow"

OPTIONS: Sequence[cfg.Opt] = (
    cfg.StrOpt(
        "connection",
        default="sqlite:///pluggableflow.sqlite",
        secret=True,
        help="URL of the store that keeps the flows: sqlite:////var/lib/me/flows.db,"
        " postgresql://user:password@host/database, mariadb://user:password@host/database,"
        " mongodb://user:password@host/database, redis://user:password@host/0, or dir:///var/lib/me/flows."
        " What its query says wins over the group of the store.",
    ),
    cfg.StrOpt("engine", default="serial", help="Engine type that runs flows: serial, parallel, asyncio, or a plugin."),
    cfg.StrOpt(
        "executor",
        help="Where the tasks of the parallel engine run: threads, processes, asyncio, or a plugin. Default: threads.",
    ),
    cfg.IntOpt("max_workers", min=1, help="How many tasks of one flow run at a time. Default: the executor's."),
    cfg.IntOpt(
        "prefetch",
        min=0,
        help="How many more tasks are handed to the executor, so that no worker waits for a commit. Default: as many"
        " as it has workers.",
    ),
    cfg.FloatOpt(
        "lease_seconds",
        default=30,
        min=1,
        help="Seconds without a renewal after which another process may take a flow over.",
    ),
    cfg.FloatOpt(
        "grace_seconds",
        default=10,
        min=0,
        help="Seconds that tasks of a cancelled flow have to end by themselves, before they are ended or given up.",
    ),
    cfg.ListOpt(
        "allowed_prefixes",
        default=[],
        help="Packages and modules whose factories a worker may call to make stored flows again; others are refused.",
    ),
    cfg.IntOpt("max_flows", default=4, min=1, help="How many flows a worker runs at a time."),
    cfg.FloatOpt(
        "poll_seconds",
        default=1.0,
        min=0.01,
        help="Seconds that a worker waits before it asks the store again when there was nothing to run.",
    ),
    cfg.IntOpt(
        "max_attempts",
        default=5,
        min=1,
        help="A flow that workers began so often in a row, without a task of it ending, is set aside.",
    ),
)


class Parameter(NamedTuple):
    """A parameter of a store's URL.

    :ivar name: as it stands in the query
    :ivar text: makes its text of the option's value
    """

    name: str
    text: Callable[[Any], str] = str


def flag(value: bool) -> str:
    """How a boolean stands in a URL."""
    return "true" if value else "false"


def retries_option(name: str) -> cfg.IntOpt:
    """The option of a store that says how often a call is repeated; its text in a URL is made by :func:`attempts`."""
    return cfg.IntOpt(
        name,
        min=0,
        help="How often a call is made again that met an error which may pass, such as a cut connection. Default: 5.",
    )


def attempts(retries: int) -> str:
    """How a number of repetitions stands in a URL that counts attempts."""
    return str(retries + 1)


def milliseconds(seconds: float) -> str:
    """How a time in seconds stands in a URL that counts milliseconds."""
    return str(round(seconds * 1000))


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """The options of the core by group, for oslo-config-generator."""
    return [(GROUP, OPTIONS)]


def register_opts(conf: cfg.ConfigOpts, group: str = GROUP) -> None:
    """Make the options of the core known to a configuration. May be called again."""
    conf.register_opts(OPTIONS, group=group)


def set_defaults(**defaults: Any) -> None:
    """Change defaults of the core's options for this process, before they are registered or read."""
    known = {option.dest for option in OPTIONS}
    for name in defaults:
        if name not in known:
            raise OptionError(f"there is no option {name!r}; there are {', '.join(sorted(known))}")
    cfg.set_defaults(list(OPTIONS), **defaults)


def read(files: Sequence[str]) -> cfg.ConfigOpts:
    """A configuration made from files; what a later one says wins.

    :raises OptionError: a file is missing, cannot be parsed, or has an impossible value for an option of the core
    """
    conf = cfg.ConfigOpts()
    try:
        conf([], project="pluggableflow", default_config_files=list(files), default_config_dirs=[])
    except (cfg.Error, OSError, UnicodeError) as error:
        raise OptionError(f"{', '.join(files)}: {error}") from error
    register_opts(conf)
    for option in OPTIONS:
        value(conf, GROUP, option.dest)
    return conf


def value(conf: cfg.ConfigOpts, group: str, name: str) -> Any:
    """The value of an option.

    :raises OptionError: it is impossible; names option, group, file and what is allowed
    """
    try:
        configured = conf[group][name]
    except (cfg.TemplateSubstitutionError, cfg.NoSuchOptError) as error:
        raise OptionError(
            f"option {name} of group [{group}] is not valid: {error}; write $$ where a $ is meant"
        ) from error
    except (cfg.Error, ValueError) as error:
        found = re.search(r"LocationInfo\(.*detail='(.*?)'\) is not valid: (.*)", str(error), re.DOTALL)
        where, why = (f" in {found[1]}", found[2]) if found else ("", str(error))
        raise OptionError(f"option {name} of group [{group}]{where} is not valid: {why}") from error
    if isinstance(configured, float) and not math.isfinite(configured):
        raise OptionError(f"option {name} of group [{group}] is not valid: it must be a finite number")
    return configured


def url(conf: cfg.ConfigOpts, group: str = GROUP) -> str:
    """The URL of the store, with what the group of the store says as its parameters.

    :raises OptionError: an option is impossible, or none of this store
    """
    register_opts(conf, group)
    given: str = value(conf, group, "connection")
    module = _module(given)
    if module is None:
        return given
    own, scheme = f"{group}_{module.SUFFIX}", given.partition(":")[0].partition("+")[0]
    conf.register_opts(module.OPTIONS, group=own)
    said = {name.lower() for name, _value in parse_qsl(urlsplit(given).query, keep_blank_values=True)}
    more = []
    for option in module.OPTIONS:
        wanted = value(conf, own, option.dest)
        if wanted is None:
            continue
        parameter = module.PARAMETERS[option.dest].get(scheme)
        if parameter is None:
            raise OptionError(f"option {option.dest} of group [{own}] says nothing of {scheme}://; remove it")
        if option.dest in module.FILES and not Path(wanted).is_file():
            raise OptionError(f"option {option.dest} of group [{own}] names {wanted!r}, which is no file")
        if parameter.name.lower() not in said:
            more.append(f"{parameter.name}={quote(parameter.text(wanted), safe='')}")
    if not more:
        return given
    return given + ("&" if urlsplit(given).query else "?") + "&".join(more)


def _module(given: str) -> ModuleType | None:
    """The module that publishes the options of a URL's store."""
    kind: type[Connection] = load_plugin(CONNECTIONS, given.partition(":")[0].partition("+")[0])
    return None if kind.config_module is None else importlib.import_module(kind.config_module)


def connect(conf: cfg.ConfigOpts, group: str = GROUP) -> Connection:
    """The connection to the configured store, ready for use; the caller closes it.

    :raises OptionError: an option is impossible
    :raises StorageFailure: the store does not answer
    """
    return api.connect(url(conf, group))


def engine_options(conf: cfg.ConfigOpts, group: str = GROUP) -> dict[str, Any]:
    """The engine type and its options, as :func:`pluggableflow.api.load` takes them."""
    register_opts(conf, group)
    names = ("engine", "executor", "max_workers", "prefetch", "lease_seconds", "grace_seconds")
    found = {name: each for name in names if (each := value(conf, group, name)) is not None}
    for name in found:
        if not takes(found["engine"], name):
            raise OptionError(
                f"option {name} of group [{group}] says nothing of the engine type {found['engine']!r};"
                " remove it, or choose another engine, such as parallel"
            )
    if "executor" in found:
        found["executor"] = _executor(conf, group, found["executor"])
    return found


def takes(engine: str, option: str) -> bool:
    """Whether an engine type has an option; what does not say which it has may have any."""
    known = getattr(load_plugin(ENGINES, engine), "option_types", None)
    return option == "engine" or known is None or option in known


def _executor(conf: cfg.ConfigOpts, group: str, name: str) -> Any:
    """The name of an executor, or what makes one with the options of its group."""
    kind: type[Executor] = load_plugin(EXECUTORS, name)
    if kind.config_module is None:
        return name
    module = importlib.import_module(kind.config_module)
    own = f"{group}_{module.SUFFIX}"
    conf.register_opts(module.OPTIONS, group=own)
    given = {option.dest: value(conf, own, option.dest) for option in module.OPTIONS}
    return partial(kind, **{option: each for option, each in given.items() if each is not None})


def load(
    conf: cfg.ConfigOpts,
    flow: Flow,
    flow_detail: FlowDetail | None = None,
    book: LogBook | None = None,
    store: Mapping[str, Any] | None = None,
    *,
    connection: Connection | None = None,
    group: str = GROUP,
    **options: Any,
) -> Engine:
    """Make an engine for a flow as configured.

    :param connection: in place of a new one to the configured store, which is the caller's to close
        (``engine.connection``)
    :param options: of the engine type, in place of configured ones
    """
    made = connect(conf, group) if connection is None else connection
    try:
        return api.load(made, flow, flow_detail, book, store, **{**engine_options(conf, group), **options})
    except BaseException:
        if connection is None:
            made.close()
        raise


def conductor(conf: cfg.ConfigOpts, connection: Connection, group: str = GROUP, **options: Any) -> Conductor:
    """A conductor as configured.

    :param options: of :class:`~pluggableflow.conductor.Conductor`, in place of configured ones
    """
    register_opts(conf, group)
    names = ("allowed_prefixes", "max_flows", "poll_seconds", "max_attempts")
    found = {name: value(conf, group, name) for name in names} | engine_options(conf, group)
    if "engine" in options:
        found = {name: each for name, each in found.items() if name in names or takes(options["engine"], name)}
    return Conductor(connection, **{**found, **options})


# -- for the samples of ini files: the options of the core, beside the URL of a store --------------------------------


def _beside(connection: str) -> Callable[[], list[tuple[str, Sequence[cfg.Opt]]]]:
    def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
        first = copy.copy(OPTIONS[0])
        first.sample_default = connection
        return [(GROUP, [first, *OPTIONS[1:]])]

    return list_opts


sqlite_opts = _beside("sqlite:////var/lib/pluggableflow/flows.db")
postgresql_opts = _beside("postgresql://pluggableflow:password@127.0.0.1/pluggableflow")
mariadb_opts = _beside("mariadb://pluggableflow:password@127.0.0.1/pluggableflow")
mongodb_opts = _beside("mongodb://pluggableflow:password@127.0.0.1/pluggableflow")
redis_opts = _beside("redis://pluggableflow:password@127.0.0.1/0")
directory_opts = _beside("dir:///var/lib/pluggableflow/flows")
