# SPDX-License-Identifier: Apache-2.0
"""The API: WSGI, JSON, no state of its own."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import provisioning

from pluggableflow import api
from pluggableflow.connection import CANCEL_AND_REVERT, Connection
from pluggableflow.exceptions import InvalidState, NotFound, StorageFailure
from pluggableflow.middleware import FlowDetail, LogBook

_NAMESPACE = uuid.UUID("3d5d9a2c-6f3c-4f0e-9a57-5f1f6d1e2b11")
_MOST_BYTES = 10_000
Answer = tuple[HTTPStatus, Any]


class Refused(Exception):
    """A request that cannot be followed; has a status and what is to be told."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Application:
    """``POST /machines``, ``GET`` and ``DELETE /machines/UUID``, ``PUT /machines/UUID/approval``.

    :param folder: where machines are made
    """

    def __init__(self, connection: Connection, folder: str) -> None:
        self._connection, self._folder = connection, folder

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            status, body = self._answer(environ)
        except Refused as refused:
            status, body = refused.status, {"error": str(refused)}
        except NotFound as error:
            status, body = HTTPStatus.NOT_FOUND, {"error": str(error)}
        except InvalidState as error:
            status, body = HTTPStatus.CONFLICT, {"error": str(error)}
        except StorageFailure:
            status, body = HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the store does not answer; try again"}
        text = b"" if body is None else json.dumps(body).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(text)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [text]

    def _answer(self, environ: dict[str, Any]) -> Answer:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if path == "/machines" and method == "POST":
            return self._create(environ)
        found = re.fullmatch(r"/machines/([0-9a-f-]+)(/approval)?", path)
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no {path}; machines are at /machines")
        if found[2] is None and method == "GET":
            return HTTPStatus.OK, self._shown(self._connection.get_flow_details(found[1]))
        if found[2] is None and method == "DELETE":
            self._connection.request(found[1], CANCEL_AND_REVERT, "the API")
            return HTTPStatus.ACCEPTED, {"uuid": found[1]}
        if found[2] is not None and method == "PUT":
            return self._approve(self._connection.get_flow_details(found[1]))
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{method} is not possible here")

    def _create(self, environ: dict[str, Any]) -> Answer:
        """Store the flow, for a conductor to run; the same key means the same machine."""
        key = environ.get("HTTP_IDEMPOTENCY_KEY")
        if not key:
            raise Refused(HTTPStatus.BAD_REQUEST, "say with Idempotency-Key which request this is")
        asked = _body(environ)
        name, approval = asked.get("name"), asked.get("approval", False)
        if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9-]{0,30}", name):
            raise Refused(HTTPStatus.BAD_REQUEST, "name must be up to 31 small letters, digits and hyphens")
        flow_uuid, book_uuid = (uuid.uuid5(_NAMESPACE, f"{kind} {key}").hex for kind in ("flow", "book"))
        try:
            self._connection.get_flow_details(flow_uuid, lazy=True)
        except NotFound:
            detail = FlowDetail(f"provision {name}", flow_uuid)
            api.save_factory_details(detail, provisioning.provision, [name, bool(approval)])
            engine = api.load(None, provisioning.provision(name, bool(approval)), detail)
            engine.storage.inject({"folder": self._folder, "name": name})
            book = LogBook("machines", book_uuid)
            book.add(detail)
            self._connection.save_logbook(book)
        return HTTPStatus.ACCEPTED, {"uuid": flow_uuid}

    def _approve(self, detail: FlowDetail) -> Answer:
        machine = Path(self._folder, detail.name.removeprefix("provision "))
        if not machine.is_dir():
            raise Refused(HTTPStatus.CONFLICT, "the machine has no address yet")
        (machine / "approved").touch()
        return HTTPStatus.NO_CONTENT, None

    @staticmethod
    def _shown(detail: FlowDetail) -> dict[str, Any]:
        atoms = {
            atom.name: {
                "state": atom.state,
                "progress": atom.meta.get("progress", 1.0 if atom.state == "SUCCESS" else 0.0),
                "failure": None if atom.failure is None else atom.failure.exception_str,
            }
            for atom in detail
            if not atom.name.startswith("_")
        }
        return {"uuid": detail.uuid, "name": detail.name, "state": detail.state, "atoms": atoms}


def _body(environ: dict[str, Any]) -> dict[str, Any]:
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        asked = json.loads(environ["wsgi.input"].read(min(length, _MOST_BYTES)) or b"{}")
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
    return asked
