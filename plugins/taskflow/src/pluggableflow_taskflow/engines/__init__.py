# SPDX-License-Identifier: Apache-2.0
"""``taskflow.engines``."""

from pluggableflow_taskflow.engines.helpers import flow_from_detail as flow_from_detail
from pluggableflow_taskflow.engines.helpers import load as load
from pluggableflow_taskflow.engines.helpers import load_from_detail as load_from_detail
from pluggableflow_taskflow.engines.helpers import load_from_factory as load_from_factory
from pluggableflow_taskflow.engines.helpers import run as run
from pluggableflow_taskflow.engines.helpers import save_factory_details as save_factory_details
