# SPDX-License-Identifier: Apache-2.0
"""Kits that certify plugins. They need pytest."""

from pluggableflow.testing.connection_tests import ConnectionTests

__all__ = ["ConnectionTests"]
