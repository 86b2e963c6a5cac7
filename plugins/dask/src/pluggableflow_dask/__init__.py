# SPDX-License-Identifier: Apache-2.0
"""The executor on a Dask cluster."""

from pluggableflow_dask.executor import DaskExecutor

__all__ = ["DaskExecutor"]
