# SPDX-License-Identifier: Apache-2.0
"""Connections cut in the midst of each commit of a flow: the engine goes on, and nothing is applied twice.

``pytest -s`` shows counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from ledger import Ledger, passing, undone
from proxy import ANSWERED, BEFORE, CUTS, HALF, WHOLE, Proxy

from pluggableflow import api, states
from pluggableflow.connection import Connection
from pluggableflow.exceptions import StorageFailure, WrappedFailure
from pluggableflow.flow import Flow

#: Name to the fixture of the server's URL, what its scheme becomes, and parameters.
STORES = {
    "psycopg": ("postgresql_url", "postgresql", ""),
    "psycopg2": ("postgresql_url", "postgresql+psycopg2", ""),
    "mariadb": ("mariadb_url", "mysql", ""),
    "mongodb": ("mongodb_url", "mongodb", "directConnection=true&"),
    "redis": ("redis_url", "redis", ""),
}
#: More than any connection tries.
TOO_OFTEN = 20
Made = Callable[[Ledger], Flow]


class Stage:
    """A store seen through a proxy.

    :ivar counts: of all runs
    """

    def __init__(self, url: str, proxy: Proxy) -> None:
        self.connection, self.proxy = api.connect(url), proxy
        self.counts: Counter[str] = Counter()

    def run(self, make: Made, engine: str, calls: dict[str, int], *places: str) -> dict[str, int]:
        """Run a new flow and cut at the given places of one call; returns how often each method was called.

        :param calls: method to the number of the call that is cut
        """
        connection, proxy, called = self.connection, self.proxy, Counter[str]()
        watched = ("claim", "commit", "release")
        for method in watched:
            self._watch(connection, method, called, calls, places)
        ledger = Ledger(connection)
        before = proxy.cuts
        uuid = api.create_flow_detail(make(ledger), connection=connection).uuid
        state = run(connection, ledger, make, uuid, engine)
        if state is None:  # all attempts failed
            assert len(places) == TOO_OFTEN
            proxy.arm(b"")
            ledger.check(uuid)
            state = run(connection, ledger, make, uuid, engine)
        proxy.arm(b"")
        ledger.check(uuid)
        for method in watched:
            delattr(connection, method)
        detail = connection.get_flow_details(uuid)
        assert state == detail.state == (states.SUCCESS if make is passing else states.REVERTED)
        assert detail.token is None, "the lease was not given up"
        assert detail.revision == ledger.acknowledged + ledger.applied
        assert not ledger.repeated
        self.counts["cuts"] += proxy.cuts - before
        self.counts["commits acknowledged"] += ledger.acknowledged
        self.counts["given up"] += ledger.unanswered
        self.counts["of these applied"] += ledger.applied
        return {**called, "calls": sum(ledger.calls.values())}

    def _watch(
        self, connection: Connection, method: str, called: Counter[str], calls: dict[str, int], places: tuple[str, ...]
    ) -> None:
        real = getattr(connection, method)

        def watched(*args: Any, **options: Any) -> Any:
            called[method] += 1
            cut = calls.get(method) == called[method]
            token = options["token"] if method == "claim" else args[0].token
            self.proxy.arm(token.encode() if cut else b"", places)
            try:
                return real(*args, **options)
            finally:
                self.counts["sent again"] += max(0, self.proxy.requests - 1)
                self.proxy.arm(b"")

        setattr(connection, method, watched)


def run(connection: Connection, ledger: Ledger, make: Made, uuid: str, engine: str) -> str | None:
    """The state that the flow ends in; ``None`` if the store failed."""
    detail = connection.get_flow_details(uuid)
    options: dict[str, Any] = {"max_workers": 2} if engine == "parallel" else {}
    loaded = api.load(connection, make(ledger), detail, engine=engine, lease_seconds=3600, **options)
    try:
        loaded.run()
    except StorageFailure:
        return None
    except (ValueError, WrappedFailure) as error:
        assert make is undone and "d fails" in str(error)
    return loaded.storage.get_flow_state()


@pytest.fixture(scope="module", params=list(STORES))
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    fixture, scheme, parameters = STORES[request.param]
    url = urlsplit(request.getfixturevalue(fixture))
    assert url.port is not None
    with Proxy(url.port) as proxy:
        address = url._replace(scheme=scheme, netloc=url.netloc.replace(str(url.port), str(proxy.port)))
        made = Stage(f"{address.geturl()}?{parameters}prefix=cut_", proxy)
        made.connection.clear_all()
        yield made
        made.connection.clear_all()
        made.connection.close()
    print(f"\n{request.param}: " + ", ".join(f"{count} {what}" for what, count in made.counts.items()))


@pytest.mark.parametrize("place", CUTS)
@pytest.mark.parametrize(("make", "engine"), [(passing, "serial"), (undone, "parallel")])
def test_a_flow_whose_connection_is_cut_in_any_commit_ends_as_if_nothing_had_happened(
    stage: Stage, make: Made, engine: str, place: str
) -> None:
    whole = stage.run(make, engine, {})
    for number in range(1, whole["commit"] + 1):
        before = stage.counts["cuts"]
        assert stage.run(make, engine, {"commit": number}, place) == whole, number
        assert stage.counts["cuts"] == before + 1


@pytest.mark.parametrize("place", CUTS)
@pytest.mark.parametrize("method", ["claim", "release"])
def test_a_connection_cut_while_a_flow_is_taken_or_given_up_hinders_nothing(
    stage: Stage, method: str, place: str
) -> None:
    whole = stage.run(passing, "serial", {})
    before = stage.counts["cuts"]
    assert stage.run(passing, "serial", {method: 1}, place) == whole
    assert stage.counts["cuts"] == before + 1


@pytest.mark.parametrize("places", [(ANSWERED, HALF, ANSWERED), (WHOLE, WHOLE, BEFORE)])
def test_connections_cut_again_and_again_in_one_commit_apply_it_once(stage: Stage, places: tuple[str, ...]) -> None:
    whole = stage.run(passing, "serial", {})
    for number in (1, whole["commit"]):
        assert stage.run(passing, "serial", {"commit": number}, *places) == whole, number


@pytest.mark.parametrize("place", [ANSWERED, HALF])
def test_a_run_that_has_given_a_commit_up_is_followed_by_one_that_finds_out_what_became_of_it(
    stage: Stage, place: str
) -> None:
    before = stage.counts["of these applied"]
    stage.run(passing, "serial", {"commit": 3}, *([place] * TOO_OFTEN))
    assert stage.counts["of these applied"] == before + (place == ANSWERED)
