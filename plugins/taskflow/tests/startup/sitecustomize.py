# SPDX-License-Identifier: Apache-2.0
"""On the path of an interpreter, hides eventlet, which is out of scope, so that what could use it takes threads.

Where ``PLUGGABLEFLOW_AS_TASKFLOW`` is set, ``import taskflow`` finds pluggableflow_taskflow, in children too. What
``taskflow.tests`` imports of distributions that are not installed is there in either case.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

eventlet: Any = None
sys.modules["eventlet"] = eventlet
sys.path.insert(1, str(Path(__file__).parents[1]))
shims = importlib.import_module("shims")
if os.environ.get("PLUGGABLEFLOW_AS_TASKFLOW"):
    shims.install_in_place_of_taskflow()
else:
    shims.install()
