# SPDX-License-Identifier: Apache-2.0
"""The page on stores says what the code does: every option, URL, size and extra."""

from __future__ import annotations

import configparser
import re
from collections.abc import Collection
from pathlib import Path

import pluggableflow_mongodb.client as mongodb
import pluggableflow_redis.client as redis
import pytest
from pluggableflow_mongodb import MongoDBConnection
from pluggableflow_redis import RedisConnection
from pluggableflow_sqlalchemy.database import LOCK_SECONDS, Database
from pluggableflow_sqlalchemy.mysql import MySQL
from pluggableflow_sqlalchemy.postgresql import PostgreSQL
from pluggableflow_sqlalchemy.sqlite import SQLite

from pluggableflow.connection import Connection
from pluggableflow.connections import directory
from pluggableflow.connections.directory import DirectoryConnection
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.exceptions import OptionError
from pluggableflow.loader import CONNECTIONS, connection_for, plugin_names

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "choosing-a-store.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
URL = re.compile(r"`([a-z]+(?:\+[a-z0-9]+)?://[^`]*)`")
MIB = 2**20

#: Section to the options that the code takes.
OPTIONS: dict[str, Collection[str]] = {
    "SQLite": {*SQLite.parameters, *SQLite.driver_parameters},
    "PostgreSQL": {*PostgreSQL.parameters, *PostgreSQL.driver_parameters},
    "MariaDB and MySQL": {*MySQL.parameters, *MySQL.driver_parameters},
    "MongoDB": {"prefix", "attempts", *mongodb._DRIVER_PARAMETERS},
    "Redis": {*redis._OURS, *redis._DRIVER, *redis._SENTINEL},
    "Directory": set(directory._PARAMETERS),
    "Memory": set(),
}
#: First cell of a row of the table of sizes to the class that states them.
SIZES: dict[str, type[Connection] | type[Database]] = {
    "SQLite": SQLite,
    "SQLite in memory": SQLite,
    "PostgreSQL": PostgreSQL,
    "MongoDB": MongoDBConnection,
    "Redis": RedisConnection,
    "directory": DirectoryConnection,
    "memory": MemoryConnection,
}


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of all tables, heads included."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def options_in(section: str) -> list[str]:
    """What the tables of parameters and the list for the driver name."""
    named = []
    for table in re.findall(r"^\| parameter .*?(?=^[^|]|\Z)", section, re.DOTALL | re.MULTILINE):
        for row in rows(table):
            named += re.findall(r"`([^`]+)`", row[0])
    for paragraph in re.findall(r"^To the driver: (.*?)\.\n\n", section, re.DOTALL | re.MULTILINE):
        named += re.findall(r"`([^`]+)`", paragraph)
    return named


@pytest.mark.parametrize("section", OPTIONS)
def test_the_page_names_exactly_the_options_that_a_store_takes(section: str) -> None:
    assert sorted(options_in(SECTIONS[section])) == sorted(OPTIONS[section])


@pytest.mark.parametrize("url", sorted(set(URL.findall(PAGE)) - {"file://"}))
def test_every_url_of_the_page_is_taken(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if url.startswith("mongodb"):  # whose client connects, and asks the DNS, when it is made
        prefix, driver_url, _options = mongodb.options_of(url)
        assert (prefix, driver_url.partition("?")[0]) == ("pluggableflow_", url.partition("?")[0])
    else:
        connection_for(url).close()


def test_the_page_shows_a_url_of_every_scheme() -> None:
    schemes = {url.partition(":")[0].partition("+")[0] for url in URL.findall(PAGE)} | {"rediss"}
    assert schemes == set(plugin_names(CONNECTIONS)) and "`rediss`" in SECTIONS["Redis"]
    shown = {url.partition("://")[0] for url in URL.findall(SECTIONS["Redis"])}
    assert shown == {scheme for scheme in redis._SCHEMES if not scheme.startswith("rediss")}


def test_the_sizes_are_those_of_the_classes() -> None:
    table = {row[0]: row[3:] for row in rows(SECTIONS["Side by side"]) if len(row) == 5 and row[3].endswith("MiB")}
    assert table == {
        name: [f"{kind.largest_value_bytes // MIB} MiB", f"{kind.largest_commit_bytes // MIB} MiB"]
        for name, kind in SIZES.items()
    }


def test_the_extras_are_those_of_the_distribution() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = re.findall(r"pluggableflow\[(\w+)\]", PAGE)
    assert sorted(named) == sorted([PostgreSQL.extra, MySQL.extra, "mongodb", "redis"])
    assert set(named) <= set(setup["options.extras_require"])


def test_the_defaults_are_those_of_the_code() -> None:
    for product in (SQLite, PostgreSQL, MySQL):
        assert "`pluggableflow_`" in next(row[1] for row in rows(SECTIONS[_section(product)]) if row[0] == "`prefix`")
        with pytest.raises(OptionError, match="at most 30"):
            connection_for(f"{product.__name__.lower()}://host/name?prefix={'x' * 31}")
    with pytest.raises(OptionError, match="at most 60"):
        connection_for(f"redis://host?prefix={'x' * 61}")
    client, _options = redis.client_from_url("redis://host")
    known = client.driver.connection_pool.connection_kwargs
    client.close()
    table = {row[0]: row[1] for row in rows(SECTIONS["Redis"])}
    for name in ("socket_timeout", "socket_connect_timeout"):
        assert float(table[f"`{name}`"]) == known[name]
    table = {row[0]: row[1] for row in rows(SECTIONS["MongoDB"])}
    assert int(table["`serverSelectionTimeoutMS`"]) == mongodb._SERVER_SELECTION_MS
    for section in ("PostgreSQL", "MariaDB and MySQL"):
        assert f"for up to {LOCK_SECONDS} seconds" in " ".join(SECTIONS[section].split())


def _section(product: type[Database]) -> str:
    return {SQLite: "SQLite", PostgreSQL: "PostgreSQL", MySQL: "MariaDB and MySQL"}[product]


def test_the_values_of_an_option_stand_with_their_default_first() -> None:
    for section, values in (
        ("SQLite", SQLite.parameters["synchronous"]),
        ("Directory", directory._PARAMETERS["synchronous"]),
    ):
        (row,) = (row for row in rows(SECTIONS[section]) if row[0] == "`synchronous`")
        assert tuple(re.findall(r"`(\w+)`", row[1])) == values


def test_the_links_of_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, heading = target.partition("#")
            to = page.parent / path if path else page
            assert to.exists(), f"{page.name}: {target}"
            if heading:
                names = re.findall(r"^#+ (.+)$", to.read_text(), re.MULTILINE)
                assert heading in {name.lower().replace(" ", "-") for name in names}, f"{page.name}: {target}"
