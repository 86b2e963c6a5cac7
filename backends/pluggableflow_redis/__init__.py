# SPDX-License-Identifier: Apache-2.0
"""The connection to Redis."""

from pluggableflow_redis.connection import RedisConnection

__all__ = ["RedisConnection"]
