# SPDX-License-Identifier: Apache-2.0
"""What a server holds already, and how safe it keeps it."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from pluggableflow.exceptions import ForeignStore, StorageFailure
from pluggableflow_redis.client import Client
from pluggableflow_redis.keys import SCHEMA_VERSION, Keys


def set_version(client: Client, keys: Keys) -> None:
    """Note the form of the data, unless it is known.

    :raises ForeignStore: a newer release wrote it, or another program
    """
    client.command("SET", keys.version, SCHEMA_VERSION, "NX")
    check_version(client, keys)


def check_version(client: Client, keys: Keys) -> None:
    """Check that the data is of this release.

    :raises ForeignStore: a newer release wrote it, or another program
    :raises StorageFailure: there is none
    """
    stored = client.command("GET", keys.version)
    if stored is None:
        raise StorageFailure(f"{client.place} has no keys of pluggableflow; run `pluggableflow upgrade` on it")
    if not stored.isdigit():
        raise ForeignStore(f"{client.place} has a key {keys.version.decode()} of another program; use another prefix")
    if int(stored) > SCHEMA_VERSION:
        raise ForeignStore(
            f"{client.place} was written by a newer release (version {int(stored)}, this one knows"
            f" {SCHEMA_VERSION}); pip install --upgrade pluggableflow"
        )


def survey(client: Client) -> tuple[bool, list[str]]:
    """Whether every server keeps an append-only file, and what should be different.

    Managed servers forbid these questions; then nothing is known, and nothing is said.
    """
    durable, faults = True, []
    for server in client.servers():
        kept = _answer(client, server, "INFO", "persistence")
        memory = _answer(client, server, "INFO", "memory")
        snapshots = _answer(client, server, "CONFIG", "GET", "save")
        aof = str(kept.get("aof_enabled", "")) == "1"
        durable = durable and aof
        if kept and not aof and snapshots.get("save") == "":
            faults.append("it persists nothing: its flows are gone when it stops; set appendonly to yes")
        policy = str(memory.get("maxmemory_policy", ""))
        if policy.startswith("allkeys") and str(memory.get("maxmemory", "0")) != "0":
            faults.append(
                f"it evicts keys when its memory is full (maxmemory-policy {policy}), so that flows vanish;"
                " set maxmemory-policy to noeviction"
            )
    return durable, list(dict.fromkeys(faults))


def _answer(client: Client, server: Any, *command: str) -> dict[str, Any]:
    """The answer as a mapping; empty where the question is forbidden."""

    def work() -> Any:
        return server.execute_command(*command)

    try:
        found = client.attempt(work)
    except StorageFailure as failure:
        if isinstance(failure.__cause__, ResponseError):
            return {}
        raise
    if isinstance(found, dict):
        return {_text(name): _text(value) for name, value in found.items()}
    if isinstance(found, (list, tuple)):
        texts = [_text(each) for each in found]
        return dict(zip(texts[::2], texts[1::2], strict=True))
    lines = (line.partition(":") for line in _text(found).splitlines())
    return {name: value.strip() for name, _, value in lines}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
