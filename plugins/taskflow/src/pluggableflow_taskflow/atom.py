# SPDX-License-Identifier: Apache-2.0
"""``taskflow.atom``."""

from pluggableflow.atom import Atom as Atom
