# SPDX-License-Identifier: Apache-2.0
"""Finds plugins by name: connections, engines and executors, ours the same way as everybody's."""

from __future__ import annotations

import difflib
import functools
import re
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pluggableflow import connection as connection_contract
from pluggableflow import engine as engine_contract
from pluggableflow import executor as executor_contract
from pluggableflow.connection import Connection
from pluggableflow.exceptions import PluginError

CONNECTIONS = "pluggableflow.connections"
ENGINES = "pluggableflow.engines"
EXECUTORS = "pluggableflow.executors"

#: Group to the contract version that this release speaks; groups that are not listed have none.
_CONTRACTS = {
    CONNECTIONS: connection_contract.CONTRACT_VERSION,
    ENGINES: engine_contract.CONTRACT_VERSION,
    EXECUTORS: executor_contract.CONTRACT_VERSION,
}


@runtime_checkable
class FromClient(Protocol):
    """A connection class that can work with a client of its driver that the embedder made."""

    def from_client(self, client: Any) -> Connection | None:
        """A connection that uses ``client`` and leaves it open, or ``None`` if it is not one of its driver."""


@functools.lru_cache(maxsize=16)
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What is registered in a group. Reading it takes longer than a short flow, so it is kept for each ``sys.path``."""
    return tuple(entry_points(group=group))


def plugin_names(group: str) -> list[str]:
    """The installed names of a group, sorted."""
    return sorted({point.name for point in _entry_points(group, tuple(sys.path))})


class Plugin(NamedTuple):
    """What is known of one installed plugin.

    :ivar distribution: name and version
    :ivar contract_version: ``None`` if it cannot be loaded
    :ivar fault: why it cannot be loaded, ``None`` if it can
    """

    group: str
    name: str
    distribution: str
    contract_version: int | None
    fault: str | None


def installed(group: str) -> list[Plugin]:
    """Every plugin of a group, sorted by name; one that is registered several times is listed as often."""
    found = []
    for point in sorted(_entry_points(group, tuple(sys.path)), key=lambda point: (point.name, point.value)):
        version = fault = None
        try:
            version = load_plugin(group, point.name).contract_version
        except PluginError as error:
            fault = str(error)
        found.append(Plugin(group, point.name, _owner(point), version, fault))
    return found


def load_plugin(group: str, name: str) -> Any:
    """The object that the installed distributions register under ``name`` in the entry point group ``group``.

    :raises PluginError: there is none, or there are several, or it cannot be imported, or it was written against
        another version of the contract
    """
    found = [point for point in _entry_points(group, tuple(sys.path)) if point.name == name]
    if not found:
        _entry_points.cache_clear()  # it may be installed now
        raise PluginError(_missing(group, name))
    if len(found) > 1:
        owners = ", ".join(f"{_owner(point)} ({point.value})" for point in found)
        raise PluginError(
            f"{len(found)} distributions register {name!r} in {group}: {owners};"
            f" remove one: pip uninstall {_distribution(found[-1])}"
        )
    return _checked(group, found[0], _import(group, found[0]))


def _import(group: str, point: EntryPoint) -> Any:
    # Late, because stevedore takes longer to import than the whole core.
    from stevedore.named import NamedExtensionManager

    errors: list[BaseException] = []
    manager: Any = NamedExtensionManager(
        group,
        names=[point.name],
        on_load_failure_callback=lambda _manager, _point, error: errors.append(error),
    )
    if not errors:
        for extension in manager:
            if extension.entry_point.value == point.value:
                return extension.plugin
        try:
            # stevedore keeps a cache on disk, which may be older than what is installed.
            return point.load()
        except Exception as error:
            errors.append(error)
    if point.extras and isinstance(errors[0], ModuleNotFoundError):
        raise PluginError(
            f"{point.name!r} of {group} needs {errors[0].name}, which is not installed;"
            f" pip install '{_distribution(point)}[{','.join(point.extras)}]'"
        ) from errors[0]
    raise PluginError(
        f"{point.name!r} of {group} cannot be loaded: {point.value} of {_owner(point)} raised"
        f" {type(errors[0]).__name__}: {errors[0]}; repair it: pip install --force-reinstall {_distribution(point)}"
    ) from errors[0]


def _checked(group: str, point: EntryPoint, plugin: Any) -> Any:
    ours = _CONTRACTS.get(group)
    theirs = getattr(plugin, "contract_version", None)
    if ours is not None and theirs != ours:
        raise PluginError(
            f"{point.name!r} of {group} ({_owner(point)}) follows version {theirs} of the contract, this release"
            f" of pluggableflow version {ours}; install releases that fit:"
            f" pip install --upgrade pluggableflow {_distribution(point)}"
        )
    return plugin


def _missing(group: str, name: str) -> str:
    names = plugin_names(group)
    text = f"no installed distribution registers {name!r} in {group}"
    text += f"; installed are {', '.join(names)}" if names else "; nothing is installed there"
    near = difflib.get_close_matches(name, names, 1)
    if near:
        text += f"; did you mean {near[0]!r}?"
    if not names:
        return f"{text}; repair the installation: pip install --force-reinstall pluggableflow"
    return f"{text}; if a plugin offers it, install that one: pip install DISTRIBUTION"


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "pluggableflow"


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"


def connection_for(url: str) -> Connection:
    """A new connection to the store that ``url`` names; nothing is created or migrated yet.

    The plugin is looked up by the scheme: what stands before ``://``, up to a ``+``.

    :raises PluginError: see :func:`load_plugin`; or ``url`` has no scheme
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9.\-]*)(\+[A-Za-z0-9_.\-]+)?://", url)
    if match is None:
        raise PluginError(
            f"{url!r} is not a URL of a store; write SCHEME://..., such as sqlite:///flows.sqlite;"
            f" installed schemes are {', '.join(plugin_names(CONNECTIONS))}"
        )
    connection: Connection = load_plugin(CONNECTIONS, match[1].lower()).from_url(url)
    return connection


def connection_for_client(client: Any) -> Connection:
    """A new connection over a client of a driver, which stays the caller's to close.

    Asks each installed connection class that has ``from_client``.

    :raises PluginError: none of them knows it
    """
    for name in plugin_names(CONNECTIONS):
        try:
            kind = load_plugin(CONNECTIONS, name)
        except PluginError:
            continue  # a broken plugin for another driver must not stand in the way
        if isinstance(kind, FromClient) and (made := kind.from_client(client)) is not None:
            return made
    raise PluginError(
        f"no installed plugin of {CONNECTIONS} knows a {type(client).__module__}.{type(client).__qualname__};"
        f" pass a URL, a Connection, or a client of one of {', '.join(plugin_names(CONNECTIONS))}"
    )
