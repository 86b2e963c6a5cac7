# SPDX-License-Identifier: Apache-2.0
"""``taskflow.patterns.unordered_flow``."""

from pluggableflow.patterns.unordered_flow import Flow as Flow
