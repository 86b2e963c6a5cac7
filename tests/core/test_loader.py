# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.engines.serial import SerialActionEngine
from pluggableflow.exceptions import PluginError
from pluggableflow.loader import (
    CONNECTIONS,
    ENGINES,
    EXECUTORS,
    connection_for,
    connection_for_client,
    load_plugin,
    plugin_names,
)

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution that registers one plugin, as pip would lay it out."""
    from stevedore.extension import ExtensionManager

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})

    def make(distribution: str, group: str, name: str, target: str, code: str = "") -> None:
        folder = tmp_path / f"{distribution}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
        if code:
            (tmp_path / f"{target.partition(':')[0]}.py").write_text(code)
        ExtensionManager.ENTRY_POINT_CACHE.clear()

    yield make  # type: ignore[misc]
    for module in [name for name in sys.modules if name.startswith("loader_test_")]:
        del sys.modules[module]


def message(group: str, name: str) -> str:
    with pytest.raises(PluginError) as caught:
        load_plugin(group, name)
    return str(caught.value)


def test_our_plugins_are_registered() -> None:
    assert {"memory", "sqlite"} <= set(plugin_names(CONNECTIONS))
    assert {"serial", "parallel"} <= set(plugin_names(ENGINES))
    assert {"serial", "threads"} <= set(plugin_names(EXECUTORS))


def test_a_plugin_is_found_by_its_name() -> None:
    assert load_plugin(ENGINES, "serial") is SerialActionEngine


def test_a_plugin_of_another_distribution_is_found_the_same_way(install: Install) -> None:
    install("other", ENGINES, "other", "loader_test_other:Engine", "class Engine:\n    contract_version = 1\n")
    assert load_plugin(ENGINES, "other").__module__ == "loader_test_other"


def test_a_missing_plugin_names_what_is_installed_the_nearest_and_the_command() -> None:
    text = message(ENGINES, "paralel")
    assert "serial" in text
    assert "did you mean 'parallel'?" in text
    assert "pip install" in text


def test_a_broken_plugin_names_its_distribution_the_error_and_the_command(install: Install) -> None:
    install("broken", ENGINES, "broken", "loader_test_broken:Engine", "raise RuntimeError('no such device')\n")
    text = message(ENGINES, "broken")
    assert "broken 1.5" in text
    assert "RuntimeError: no such device" in text
    assert "pip install --force-reinstall broken" in text


def test_a_plugin_whose_extra_is_not_installed_names_the_extra(install: Install) -> None:
    install("lean", ENGINES, "lean", "loader_test_lean:Engine [steam]", "import no_such_boiler\n")
    text = message(ENGINES, "lean")
    assert "'lean' of pluggableflow.engines needs no_such_boiler" in text and "pip install 'lean[steam]'" in text


def test_a_plugin_whose_module_is_gone_is_broken(install: Install) -> None:
    install("gone", ENGINES, "gone", "loader_test_gone:Engine")
    assert "ModuleNotFoundError" in message(ENGINES, "gone")


def test_a_doubled_plugin_names_both_distributions(install: Install) -> None:
    install("impostor", ENGINES, "serial", "loader_test_impostor:Engine", "class Engine:\n    contract_version = 1\n")
    text = message(ENGINES, "serial")
    assert "impostor 1.5" in text
    assert "pluggableflow" in text
    assert "pip uninstall" in text


@pytest.mark.parametrize("code", ["class Engine: pass\n", "class Engine:\n    contract_version = 99\n"])
def test_a_plugin_of_another_contract_version_is_refused(install: Install, code: str) -> None:
    install("strange", ENGINES, "strange", "loader_test_strange:Engine", code)
    text = message(ENGINES, "strange")
    assert "strange 1.5" in text
    assert "version 1" in text


@pytest.mark.parametrize("url", ["memory://", "memory+anything://"])
def test_a_url_is_served_by_the_plugin_of_its_scheme(url: str) -> None:
    assert isinstance(connection_for(url), MemoryConnection)


@pytest.mark.parametrize("url", ["flows.sqlite", "", "://", "sqlite:flows", "1x://"])
def test_what_is_no_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(PluginError, match="sqlite:///flows.sqlite"):
        connection_for(url)


def test_a_client_that_no_backend_knows_is_refused_by_its_type() -> None:
    with pytest.raises(PluginError, match=r"builtins\.int"):
        connection_for_client(5)


def test_a_client_is_used_by_the_backend_that_knows_it(install: Install) -> None:
    code = (
        "class Connection:\n    contract_version = 1\n"
        "    @classmethod\n    def from_client(cls, client):\n        return cls() if client == 'mine' else None\n"
    )
    install("clients", CONNECTIONS, "clients", "loader_test_clients:Connection", code)
    assert type(connection_for_client("mine")).__module__ == "loader_test_clients"


def test_an_error_names_the_engine_that_is_not_there() -> None:
    flow: Any = None
    with pytest.raises(PluginError, match="'quantum'"):
        api.load(None, flow, engine="quantum")
