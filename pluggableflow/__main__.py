# SPDX-License-Identifier: Apache-2.0
"""``python -m pluggableflow`` is the command ``pluggableflow``."""

from pluggableflow.cli import main

main()
