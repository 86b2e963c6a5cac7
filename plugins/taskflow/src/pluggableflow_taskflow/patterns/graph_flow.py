# SPDX-License-Identifier: Apache-2.0
"""``taskflow.patterns.graph_flow``."""

from pluggableflow.patterns.graph_flow import Flow as Flow
from pluggableflow.patterns.graph_flow import TargetedFlow as TargetedFlow
