# SPDX-License-Identifier: Apache-2.0
"""An executor whose workers are processes of a command."""

from pluggableflow_command.executor import CommandExecutor

__all__ = ["CommandExecutor"]
