# SPDX-License-Identifier: Apache-2.0
"""Leases that a process has and does not use, because the store did not answer."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pluggableflow import api, task
from pluggableflow.connection import Claim, Lease
from pluggableflow.connections.memory import MemoryConnection
from pluggableflow.exceptions import FlowOwned, StorageFailure
from pluggableflow.flow import Flow
from pluggableflow.patterns import linear_flow


def noting(calls: list[str]) -> Flow:
    return linear_flow.Flow("f").add(task.FunctorTask(lambda: calls.append("a"), name="a"))


class Silent(MemoryConnection):
    """Does not answer the next call of one method; a claim was made all the same, the others did nothing."""

    method = ""

    def _fail(self, method: str) -> None:
        if method == self.method:
            self.method = ""
            raise StorageFailure("the store is silent")

    def claim(self, **options: Any) -> Claim | None:
        claimed = super().claim(**options)
        self._fail("claim")
        return claimed

    def get_flow_details(self, flow_uuid: str, lazy: bool = False) -> Any:
        self._fail("get_flow_details")
        return super().get_flow_details(flow_uuid, lazy)

    def release(self, lease: Lease) -> None:
        self._fail("release")
        super().release(lease)


@pytest.mark.parametrize("method", ["claim", "get_flow_details", "release"])
def test_a_process_takes_a_flow_again_whose_lease_the_store_has_left_it_with(method: str) -> None:
    store, calls = Silent(), list[str]()
    loaded = api.load(store, noting(calls))
    store.method = method
    if method == "release":
        loaded.prepare()
        loaded.close()
    else:
        with pytest.raises(StorageFailure, match="silent"):
            loaded.run()
    assert not [each for each in threading.enumerate() if each.name == "pluggableflow-lease"]
    loaded.run()
    assert calls == ["a"]


def test_a_claim_that_was_not_answered_takes_nothing_from_another_engine_of_the_process() -> None:
    store, calls = Silent(), list[str]()
    flow = noting(calls)
    holder = api.load(store, flow)
    other = api.load(store, flow, store.get_flow_details(holder.storage.flow_uuid))
    holder.prepare()
    store.claim = lambda **options: store._fail("claim")  # type: ignore[method-assign]
    store.method = "claim"
    with pytest.raises(StorageFailure, match="silent"):
        other.run()
    del store.claim
    with pytest.raises(FlowOwned):
        other.run()
    holder.run()
    assert calls == ["a"]
