# SPDX-License-Identifier: Apache-2.0
"""Items that do not depend on each other."""

from __future__ import annotations

from collections.abc import Iterator

from pluggableflow.flow import Link, ListedFlow


class Flow(ListedFlow):
    """Runs its items in any order, also at the same time; none may need what another provides."""

    _siblings_provide = False

    def iter_links(self) -> Iterator[Link]:
        return iter(())
