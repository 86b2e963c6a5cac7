# SPDX-License-Identifier: Apache-2.0
"""The executors of the core."""
