# SPDX-License-Identifier: Apache-2.0
"""Items that do not depend on each other."""

from __future__ import annotations

from collections.abc import Iterator

from pluggableflow.flow import Flow as _Flow
from pluggableflow.flow import Item, Link, check_item
from pluggableflow.retry import Retry


class Flow(_Flow):
    """Runs its items in any order, also at the same time; none may need what another provides."""

    _siblings_provide = False

    def __init__(self, name: str, retry: Retry | None = None) -> None:
        super().__init__(name, retry)
        self._items: list[Item] = []

    def add(self, *items: Item) -> Flow:
        for item in items:
            check_item(self, item)
        self._items.extend(items)
        return self

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def iter_links(self) -> Iterator[Link]:
        return iter(())
