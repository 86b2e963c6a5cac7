# SPDX-License-Identifier: Apache-2.0
"""The engine types of the core."""
