# SPDX-License-Identifier: Apache-2.0
"""The example of a service: its processes, driven over HTTP, on four stores that its ini file alone names."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import free_port

SERVICE = Path(__file__).parents[2] / "examples" / "service"
LIMIT_SECONDS = 90.0
#: Store to the fixture with the URL of its server.
STORES = {"sqlite": None, "postgresql": "postgresql_url", "mongodb": "mongodb_url", "redis": "redis_url"}

pytestmark = pytest.mark.timeout(300)


class Service:
    """The service as an operator has it: a file, and processes that are started, told to stop, or killed."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.port = folder, free_port()
        self._url = url
        self.write(max_flows=4)
        self.process: subprocess.Popen[str] | None = None

    def write(self, max_flows: int) -> None:
        (self.folder / "service.conf").write_text(
            f"[service]\nport = {self.port}\nfolder = {self.folder}/machines\n"
            f"[pluggableflow]\nconnection = {self._url}\n"
            f"allowed_prefixes = provisioning\nmax_flows = {max_flows}\nlease_seconds = 1\npoll_seconds = 0.05\n"
        )

    def start(self) -> None:
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVICE / "main.py"), "--config-file", "service.conf"],
                cwd=self.folder, stdout=log, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        wait_until(self.answers)

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/")[0] == 404
        except OSError:
            assert self.process is not None and self.process.poll() is None, self.log()
            return False

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def create(self, key: str, **asked: Any) -> str:
        status, body = self.ask("POST", "/machines", asked, **{"Idempotency-Key": key})
        assert status == 202, body
        uuid: str = body["uuid"]
        return uuid

    def shown(self, uuid: str) -> dict[str, Any]:
        status, body = self.ask("GET", f"/machines/{uuid}")
        assert status == 200, body
        shown: dict[str, Any] = body
        return shown

    def wait_for(self, uuid: str, state: str) -> dict[str, Any]:
        wait_until(lambda: self.shown(uuid)["state"] == state)
        return self.shown(uuid)

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill -9 of all its processes at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline, never = time.monotonic() + LIMIT_SECONDS, threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, "it never came to pass"
        never.wait(0.02)


@pytest.fixture(params=STORES)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    fixture = STORES[request.param]
    url = f"sqlite:///{tmp_path}/flows.db"
    if fixture is not None:
        url = request.getfixturevalue(fixture)
        url = f"{url}{'&' if '?' in url else '?'}prefix=service_{tmp_path.name[-8:].translate({45: 95})}_"
    made = Service(tmp_path, url)
    made.start()
    yield made
    made.kill()


def test_a_machine_is_provisioned_once_for_a_key_however_often_it_is_asked_for(service: Service) -> None:
    uuid = service.create("one", name="web")
    assert service.create("one", name="web") == uuid
    shown = service.wait_for(uuid, "SUCCESS")
    assert {name: atom["state"] for name, atom in shown["atoms"].items()} == dict.fromkeys(
        ["reserve", "make disk", "booting", "boot"], "SUCCESS"
    )
    assert shown["atoms"]["make disk"]["progress"] == 1.0
    assert (service.folder / "machines" / "web" / "running").exists()
    assert service.create("two", name="other") != uuid


def test_what_is_wrong_is_told_and_nothing_is_stored(service: Service) -> None:
    key = {"Idempotency-Key": "key"}
    for body, headers, status in (
        ({"name": "web"}, {}, 400), ({"name": "No Name"}, key, 400), ([], key, 400), ({}, key, 400)
    ):  # fmt: skip
        answer, told = service.ask("POST", "/machines", body, **headers)
        assert answer == status and told["error"]
    assert service.ask("GET", "/machines/00")[0] == 404 and service.ask("DELETE", "/machines/00")[0] == 404
    assert service.ask("PUT", "/machines/00")[0] == 405


def test_a_machine_that_does_not_boot_is_taken_back(service: Service) -> None:
    shown = service.wait_for(service.create("one", name="broken"), "REVERTED")
    assert "does not boot" in shown["atoms"]["boot"]["failure"]
    assert not (service.folder / "machines" / "broken").exists()


def test_a_cancelled_machine_is_taken_back(service: Service) -> None:
    uuid = service.create("one", name="web", approval=True)
    wait_until(lambda: service.shown(uuid)["atoms"].get("approve", {}).get("state") == "RUNNING")
    assert service.ask("DELETE", f"/machines/{uuid}")[0] == 202
    service.wait_for(uuid, "CANCELLED")
    assert not (service.folder / "machines" / "web").exists()
    assert service.ask("DELETE", f"/machines/{uuid}")[0] == 409


def test_after_a_kill_of_everything_a_restart_resumes_what_was_running(service: Service) -> None:
    uuid = service.create("one", name="web", approval=True)
    wait_until(lambda: service.shown(uuid)["atoms"].get("approve", {}).get("state") == "RUNNING")
    service.kill()
    service.start()
    assert service.create("one", name="web", approval=True) == uuid
    assert service.ask("PUT", f"/machines/{uuid}/approval")[0] == 204
    service.wait_for(uuid, "SUCCESS")


def test_sigterm_lets_the_running_task_end_and_the_next_start_goes_on(service: Service) -> None:
    uuid = service.create("one", name="web", approval=True)
    wait_until(lambda: service.shown(uuid)["atoms"].get("approve", {}).get("state") == "RUNNING")
    service.signal(signal.SIGTERM)
    (service.folder / "machines" / "web" / "approved").touch()
    assert service.process is not None and service.process.wait(LIMIT_SECONDS) == 0
    assert "has left its flows to others" in service.log()
    service.start()
    service.wait_for(uuid, "SUCCESS")


def test_sighup_reads_the_file_again_and_keeps_what_runs(service: Service) -> None:
    uuid = service.create("one", name="web", approval=True)
    wait_until(lambda: service.shown(uuid)["atoms"].get("approve", {}).get("state") == "RUNNING")
    service.write(max_flows=2)
    service.signal(signal.SIGHUP)
    wait_until(lambda: "runs up to 2 flows" in service.log())
    assert service.ask("PUT", f"/machines/{uuid}/approval")[0] == 204
    service.wait_for(uuid, "SUCCESS")
