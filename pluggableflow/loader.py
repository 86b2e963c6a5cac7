# SPDX-License-Identifier: Apache-2.0
"""Finds plugins by name: connections, engines and executors, ours in the same way as anybody's."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pluggableflow.exceptions import IncompatibleVersion, PluginError

if TYPE_CHECKING:
    from pluggableflow.connection import Connection

CONNECTIONS, ENGINES, EXECUTORS = "pluggableflow.connections", "pluggableflow.engines", "pluggableflow.executors"

#: Distribution to install for a name that is not there.
_KNOWN_ELSEWHERE = {"dask": "pluggableflow-dask"}


@runtime_checkable
class FromClient(Protocol):
    """A connection class that can work with a client of its driver that the embedder made."""

    def from_client(self, client: Any) -> Any:
        """A connection that uses ``client`` and leaves it open, or ``None`` if it is not one of its driver."""


def _contract_version(group: str) -> int:
    if group == CONNECTIONS:
        from pluggableflow.connection import CONTRACT_VERSION as version
    elif group == ENGINES:
        from pluggableflow.engine import CONTRACT_VERSION as version
    else:
        from pluggableflow.executor import CONTRACT_VERSION as version
    return version


def _extensions(group: str) -> list[Any]:
    from stevedore import ExtensionManager

    failures: list[Any] = []
    manager = ExtensionManager(
        group, invoke_on_load=False, on_load_failure_callback=lambda _manager, point, error: failures.append(point)
    )
    return list(manager.list_entry_points())


def load_plugin(group: str, name: str) -> Any:
    """The plugin of that name.

    :raises PluginError: there is none, several distributions offer it, or it cannot be imported
    :raises IncompatibleVersion: it was written against another version of the contract
    """
    points = _extensions(group)
    found = {(point.value, _distribution(point)): point for point in points if point.name == name}
    kind = group.rpartition(".")[2].rstrip("s")
    if not found:
        names = sorted({point.name for point in points})
        message = f"there is no {kind} {name!r}; installed: {', '.join(names) or 'none'}"
        near = difflib.get_close_matches(name, names, 1)
        if near:
            message += f"; did you mean {near[0]!r}?"
        package = _KNOWN_ELSEWHERE.get(name, f"pluggableflow-{name}")
        raise PluginError(f"{message} A plugin comes with its distribution: pip install {package}")
    if len(found) > 1:
        owners = ", ".join(sorted(f"{value} from {distribution}" for value, distribution in found))
        raise PluginError(f"the {kind} {name!r} is offered by several distributions: {owners}; uninstall all but one")
    ((value, distribution), point) = next(iter(found.items()))
    try:
        plugin = point.load()
    except Exception as error:
        raise PluginError(
            f"the {kind} {name!r} ({value} from {distribution}) cannot be loaded: {type(error).__name__}: {error};"
            f" pip install --force-reinstall {distribution}"
        ) from error
    wanted, declared = _contract_version(group), getattr(plugin, "contract_version", None)
    if declared != wanted:
        raise IncompatibleVersion(
            f"the {kind} {name!r} from {distribution} follows contract version {declared}, this release needs {wanted};"
            f" pip install --upgrade {distribution}"
        )
    return plugin


def _distribution(point: Any) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"


def connection_for(url: str) -> Connection:
    """The connection to the store that a URL names; its scheme up to ``+`` or ``:`` is the plugin's name.

    :raises PluginError: no installed backend has that scheme
    """
    scheme, separator, _rest = url.partition(":")
    if not separator or not scheme:
        raise PluginError(f"{url!r} is not the URL of a store; one looks like sqlite:///flows.db")
    made: Connection = load_plugin(CONNECTIONS, scheme.partition("+")[0]).from_url(url)
    return made


def connection_for_client(client: Any) -> Connection:
    """A connection that uses a client of a driver, and leaves it open when it is closed.

    :raises PluginError: no installed backend knows such clients
    """
    for name in sorted({point.name for point in _extensions(CONNECTIONS)}):
        plugin = load_plugin(CONNECTIONS, name)
        if isinstance(plugin, FromClient):
            made: Connection | None = plugin.from_client(client)
            if made is not None:
                return made
    raise PluginError(f"no installed backend can use {client!r} as a connection; pass a URL, or its driver's client")
