# SPDX-License-Identifier: Apache-2.0
"""All metadata stands in setup.cfg."""

from setuptools import setup

setup()
