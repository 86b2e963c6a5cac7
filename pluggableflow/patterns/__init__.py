# SPDX-License-Identifier: Apache-2.0
"""The patterns in which tasks and flows can be put together."""
