# SPDX-License-Identifier: Apache-2.0
"""The connections of the core."""
