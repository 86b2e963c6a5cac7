# SPDX-License-Identifier: Apache-2.0
"""Kits that certify plugins. They need pytest."""

import pkgutil

import pytest

# Before they are imported, so that a failing test of a kit shows the values that it compared.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from pluggableflow.testing.connection_tests import ConnectionTests  # noqa: E402
from pluggableflow.testing.executor_tests import ExecutorTests  # noqa: E402

__all__ = ["ConnectionTests", "ExecutorTests"]
