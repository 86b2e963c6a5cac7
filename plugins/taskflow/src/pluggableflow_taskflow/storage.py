# SPDX-License-Identifier: Apache-2.0
"""``taskflow.storage``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pluggableflow.exceptions import NotFound
from pluggableflow.middleware import FlowDetail
from pluggableflow.retry import History
from pluggableflow.states import REVERT_FAILURE, REVERTED
from pluggableflow.storage import Storage as _Storage
from pluggableflow_taskflow.utils.persistence_utils import connection_of


class Storage(_Storage):
    """What is known of the atoms of one flow, kept in a backend of TaskFlow's kind."""

    def __init__(
        self,
        flow_detail: FlowDetail,
        backend: Any = None,
        scope_fetcher: Callable[[str], Iterable[str]] | None = None,
    ) -> None:
        super().__init__(flow_detail, connection_of(backend), scope_fetcher)

    def reload(self, flow_detail: FlowDetail) -> None:
        """Take over what a store now says, into the detail that the caller gave and looks at after the run."""
        given = self.flow_detail
        super().reload(flow_detail if flow_detail is given else given.become(flow_detail))

    @property
    def _flowdetail(self) -> FlowDetail:
        return self.flow_detail

    def get(self, atom_name: str) -> Any:
        state = self.get_atom_state(atom_name)
        if state in (REVERTED, REVERT_FAILURE) and self.get_execute_failure(atom_name) is None:
            raise NotFound(f"{atom_name!r} is {state}; what it had provided is undone")
        return super().get(atom_name)

    get_execute_result = get

    def fetch_mapped_args(  # type: ignore[override]
        self,
        args_mapping: Mapping[str, str],
        atom_name: str | None = None,
        scope_walker: Iterable[Iterable[str]] | None = None,
        optional_args: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        return super().fetch_mapped_args(args_mapping, atom_name, optional_args or ())

    def fetch_unsatisfied_args(  # type: ignore[override]
        self,
        atom_name: str,
        args_mapping: Mapping[str, str],
        scope_walker: Iterable[Iterable[str]] | None = None,
        optional_args: Iterable[str] | None = None,
    ) -> set[str]:
        return super().fetch_unsatisfied_args(atom_name, args_mapping, optional_args or ())

    def update_atom_metadata(self, atom_name: str, update_with: Mapping[str, Any] | None) -> None:
        super().update_atom_metadata(atom_name, update_with or {})

    def update_flow_metadata(self, update_with: Mapping[str, Any] | None) -> None:
        super().update_flow_metadata(update_with or {})

    def get_retry_histories(self) -> list[tuple[str, History]]:  # type: ignore[override]
        return list(super().get_retry_histories())
