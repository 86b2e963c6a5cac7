# SPDX-License-Identifier: Apache-2.0
"""A process that is a conductor; what it claims, is about to commit and has committed is in the log."""

from __future__ import annotations

import os
import random
from typing import Any

import fight_flows
from fighter import LEASE_SECONDS, AlreadyEnded, Fighter
from zygote import tell

from pluggableflow import api, states
from pluggableflow.conductor import Conductor
from pluggableflow.connection import Claim
from pluggableflow.engine import Engine


def main(url: str, path: str, seed: int) -> None:
    """Conduct until nothing can be had, and tell whether all have finished."""
    fight_flows.LOG = path
    connection, chance = api.connect(url), random.Random(seed)
    fighter = Fighter(connection, chance)
    logged = connection.claim

    def claim(**options: Any) -> Claim | None:
        fighter.engine = None
        try:
            return logged(**options)
        except AlreadyEnded:
            return None

    def take(engine: Engine) -> None:
        fighter.engine = engine

    connection.claim = claim  # type: ignore[method-assign]
    kind = chance.choice(["serial", "parallel"])
    options = {"max_workers": 2} if kind == "parallel" else {}
    Conductor(
        connection, ["fight_flows"], max_flows=1, lease_seconds=LEASE_SECONDS, max_attempts=1000, engine=kind,
        on_engine=take, **options,
    ).run(until_idle=True)  # fmt: skip
    tell(pid=os.getpid(), did="idle" if connection.find_flows(states=states.UNFINISHED, limit=1) else "done")
    connection.close()
