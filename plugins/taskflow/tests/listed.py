# SPDX-License-Identifier: Apache-2.0
"""Tests of TaskFlow that do not pass on this package, and why they need not."""

LISTED: dict[str, str] = {}
