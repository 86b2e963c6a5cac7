# SPDX-License-Identifier: Apache-2.0
"""The light in-memory detail objects between engine and storage, and their form as stored records."""

from pluggableflow.middleware.atom_detail import AtomDetail, RetryDetail, TaskDetail
from pluggableflow.middleware.flow_detail import FlowDetail
from pluggableflow.middleware.logbook import LogBook
from pluggableflow.middleware.records import (
    ATOM_COLUMNS,
    FLOW_COLUMNS,
    FLOW_OWNERSHIP_COLUMNS,
    INTEGER_COLUMNS,
    LOGBOOK_COLUMNS,
    RETRY_KIND,
    TASK_KIND,
    Record,
    Scalar,
    new_uuid,
    new_uuids,
)

__all__ = [
    "ATOM_COLUMNS",
    "AtomDetail",
    "FLOW_COLUMNS",
    "FLOW_OWNERSHIP_COLUMNS",
    "FlowDetail",
    "INTEGER_COLUMNS",
    "LOGBOOK_COLUMNS",
    "LogBook",
    "RETRY_KIND",
    "Record",
    "RetryDetail",
    "Scalar",
    "TASK_KIND",
    "TaskDetail",
    "new_uuid",
    "new_uuids",
]
