# SPDX-License-Identifier: Apache-2.0
"""``taskflow.deciders``."""

from collections.abc import Iterable

from pluggableflow.flow import Depth as Depth


def pick_widest(depths: Iterable[Depth | str]) -> Depth:
    """The depth that reaches furthest."""
    return min(map(Depth.translate, depths), key=list(Depth).index)
