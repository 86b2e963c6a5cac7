# SPDX-License-Identifier: Apache-2.0
"""On the path of an interpreter, makes ``import taskflow`` find pluggableflow_taskflow, in its children too."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[1]))

import shims

shims.install_in_place_of_taskflow()
eventlet: Any = None
sys.modules["eventlet"] = eventlet  # out of scope; the examples that could use it take threads then
