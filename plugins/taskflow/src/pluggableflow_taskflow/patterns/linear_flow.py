# SPDX-License-Identifier: Apache-2.0
"""``taskflow.patterns.linear_flow``."""

from pluggableflow.patterns.linear_flow import Flow as Flow
