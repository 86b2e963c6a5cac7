# SPDX-License-Identifier: Apache-2.0
"""``taskflow.utils.persistence_utils``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pluggableflow import api
from pluggableflow.connection import Connection
from pluggableflow.flow import Flow
from pluggableflow.middleware import FlowDetail, LogBook
from pluggableflow_taskflow.persistence.base import Backend


def connection_of(backend: Any) -> Connection | None:
    """The core's connection behind what a caller of TaskFlow passes as a backend."""
    return backend.connection if isinstance(backend, Backend) else backend


def temporary_log_book(backend: Any = None) -> LogBook:
    """A new logbook, stored if there is a backend."""
    return api.temporary_log_book(connection_of(backend))


def temporary_flow_detail(backend: Any = None, meta: Mapping[str, Any] | None = None) -> tuple[LogBook, FlowDetail]:
    """A new logbook with an empty flow detail, stored if there is a backend."""
    return api.temporary_flow_detail(connection_of(backend), meta)


def create_flow_detail(
    flow: Flow, book: LogBook | None = None, backend: Any = None, meta: Mapping[str, Any] | None = None
) -> FlowDetail:
    """A detail for a flow, in a logbook, stored if there is a backend."""
    return api.create_flow_detail(flow, book, connection_of(backend), meta)
