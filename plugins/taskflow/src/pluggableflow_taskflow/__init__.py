# SPDX-License-Identifier: Apache-2.0
"""The public modules and names of OpenStack TaskFlow 6.5, on top of pluggableflow."""

from pluggableflow_taskflow._alias import install_as_taskflow as install_as_taskflow
