# SPDX-License-Identifier: Apache-2.0
"""What a process does that fights with others for flows: it claims whatever it can get and runs it, to the end."""

from __future__ import annotations

import contextlib
import os
import random
from typing import Any

import fight_flows
from fight_flows import log
from zygote import tell

from pluggableflow import api, owner, states
from pluggableflow.connection import Changes, Claim, Connection, Lease
from pluggableflow.engine import Engine
from pluggableflow.exceptions import FlowOwned, LeaseLost, StorageFailure
from pluggableflow.middleware import new_uuid

LEASE_SECONDS = 2.0
#: How many of the oldest flows a process chooses from; more than there are processes.
CHOICE = 10
#: Part of the claims by uuid that take the flow from a live process too, whose next commit must then be refused.
FORCE = 0.5


class AlreadyEnded(Exception):
    """The flow was unfinished when it was found, and is not any more: to run it would be to run it anew."""


class Fighter:
    """A connection that logs what it claims, what it is about to commit and what it has committed."""

    def __init__(self, connection: Connection, chance: random.Random) -> None:
        self.connection, self.chance = connection, chance
        self.engine: Engine | None = None
        self._scanned: Claim | None = None
        self._real_claim, self._real_commit = connection.claim, connection.commit
        connection.claim = self._claim  # type: ignore[method-assign]
        connection.commit = self._commit  # type: ignore[method-assign]

    def _claim(self, **options: Any) -> Claim | None:
        scanned, self._scanned = self._scanned, None
        if scanned is not None:  # the engine claims the flow that the scan has claimed for it
            return scanned
        claimed = self._real_claim(**options)
        if claimed is None:
            return None
        lease = claimed.lease
        if self.connection.get_flow_details(lease.flow_uuid, lazy=True).state in states.FINISHED:
            if "flow_uuid" not in options:  # it was unfinished when it was scanned, so somebody must have taken it
                self._assert_lost(lease)
            self.connection.release(lease)
            raise AlreadyEnded
        fight_flows.epoch = lease.epoch
        log(do="claim", flow=lease.flow_uuid, epoch=lease.epoch, token=lease.token, revision=claimed.revision)
        tell(pid=os.getpid(), did="claim")
        return claimed

    def _assert_lost(self, lease: Lease) -> None:
        with contextlib.suppress(LeaseLost):
            self.connection.renew(lease, LEASE_SECONDS)
            raise AssertionError(f"a scan has claimed {lease.flow_uuid}, which had ended")

    def _commit(self, lease: Lease, revision: int, changes: Changes) -> int:
        line = {"flow": lease.flow_uuid, "epoch": lease.epoch, "token": lease.token, "revision": revision + 1}
        log(do="try", atoms=self._atoms(changes), **line)
        tell(pid=os.getpid(), did="try")
        assert self._real_commit(lease, revision, changes) == revision + 1
        log(do="commit", **line)
        tell(pid=os.getpid(), did="commit")
        return revision + 1

    def _atoms(self, changes: Changes) -> list[tuple[Any, Any, Any]]:
        """Uuid, attempt and state of each atom whose state is written."""
        atoms: list[tuple[Any, Any, Any]] = [(atom["uuid"], atom["attempt"], atom["state"]) for atom in changes.added]
        for uuid, columns in changes.changed.items():
            detail = None if self.engine is None else self.engine.storage.flow_detail.find(uuid)
            assert detail is not None
            if "state" in columns:
                atoms.append((uuid, detail.attempt, columns["state"]))
        return atoms

    def fight(self) -> str:
        """Run flows until all have finished ("done"), or all others are held by live processes ("idle")."""
        while True:
            if self.chance.random() < 0.5 and (claimed := self._scan()) is not None:
                self._scanned = claimed
                self._run(claimed.lease.flow_uuid)
                continue
            found = self.connection.find_flows(states=states.UNFINISHED, limit=CHOICE)
            if not found:
                return "done"
            self.chance.shuffle(found)
            if not any(self._run(detail.uuid, force=self.chance.random() < FORCE) for detail in found):
                return "idle"

    def _scan(self) -> Claim | None:
        try:
            return self._claim(token=new_uuid(), owner=owner.identity(), lease_seconds=LEASE_SECONDS)
        except AlreadyEnded:
            return None
        except StorageFailure as failure:
            log(do="failure", text=str(failure))
            return None

    def _run(self, uuid: str, force: bool = False) -> bool:
        """Whether the flow could be had."""
        detail = self.connection.get_flow_details(uuid)
        options: dict[str, Any] = {"engine": self.chance.choice(["serial", "parallel"])}
        options |= {"max_workers": 2} if options["engine"] == "parallel" else {}
        self.engine = api.load_from_detail(
            self.connection, detail, ["fight_flows"], lease_seconds=LEASE_SECONDS, force=force, **options
        )
        try:
            self.engine.run()
        except (FlowOwned, AlreadyEnded):
            return False
        except LeaseLost:
            log(do="lost", flow=uuid)
        except StorageFailure as failure:
            log(do="failure", text=str(failure))
        except Exception:
            if self.engine.storage.get_flow_state() not in states.FINISHED:
                raise
        return True


def main(url: str, path: str, seed: int) -> None:
    """Fight, and tell how it ended."""
    fight_flows.LOG = path
    connection = api.connect(url)
    tell(pid=os.getpid(), did=Fighter(connection, random.Random(seed)).fight())
    connection.close()
