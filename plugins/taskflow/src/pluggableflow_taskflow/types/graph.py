# SPDX-License-Identifier: Apache-2.0
"""``taskflow.types.graph``."""

from networkx import DiGraph as DiGraph
