# SPDX-License-Identifier: Apache-2.0
"""``taskflow.types.failure``."""

from pluggableflow.failure import Failure as Failure
