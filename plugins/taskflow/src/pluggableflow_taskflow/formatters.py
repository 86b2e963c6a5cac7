# SPDX-License-Identifier: Apache-2.0
"""``taskflow.formatters``."""

from pluggableflow.formatters import FailureFormatter as FailureFormatter
