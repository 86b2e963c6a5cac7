# SPDX-License-Identifier: Apache-2.0
"""``taskflow.deciders``."""

from collections.abc import Iterable

from pluggableflow.flow import Depth as Depth


def pick_widest(depths: Iterable[Depth | str]) -> Depth:
    """The depth that reaches furthest."""
    order = list(Depth)
    return min(map(Depth.translate, depths), key=order.index, default=Depth.ALL)
