# SPDX-License-Identifier: Apache-2.0
"""``taskflow.engines.base``."""

from pluggableflow.engine import Engine as Engine
