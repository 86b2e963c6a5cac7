# SPDX-License-Identifier: Apache-2.0
"""Kits that certify plugins. They need pytest."""

import pytest

pytest.register_assert_rewrite(__name__)  # so that a failing test of a kit shows the values it compared

from pluggableflow.testing.connection_tests import ConnectionTests  # noqa: E402

__all__ = ["ConnectionTests"]
