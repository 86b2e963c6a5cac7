# SPDX-License-Identifier: Apache-2.0
"""Items that run one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from pluggableflow.flow import LINK_MANUAL, Item, Link, check_item
from pluggableflow.flow import Flow as _Flow
from pluggableflow.retry import Retry


class Flow(_Flow):
    """Runs its items in the order in which they were added; each may need what earlier ones provide."""

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
        for earlier, later in zip(self._items, self._items[1:], strict=False):
            yield earlier, later, {LINK_MANUAL: True}
