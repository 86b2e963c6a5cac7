# SPDX-License-Identifier: Apache-2.0
"""Durable workflows: tasks in linear, graph and unordered flows, run by an engine that survives any crash."""
