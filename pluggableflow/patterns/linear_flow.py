# SPDX-License-Identifier: Apache-2.0
"""Items that run one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from pluggableflow.flow import LINK_INVARIANT, Link, ListedFlow


class Flow(ListedFlow):
    """Runs its items in the order in which they were added; each may need what earlier ones provide."""

    def iter_links(self) -> Iterator[Link]:
        for earlier, later in zip(self._items, self._items[1:], strict=False):
            yield earlier, later, {LINK_INVARIANT: True}
