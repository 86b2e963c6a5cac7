# SPDX-License-Identifier: Apache-2.0
"""``taskflow.task``."""

from pluggableflow.task import EVENT_UPDATE_PROGRESS as EVENT_UPDATE_PROGRESS
from pluggableflow.task import LOG as LOG
from pluggableflow.task import FunctorTask as FunctorTask
from pluggableflow.task import MapFunctorTask as MapFunctorTask
from pluggableflow.task import ReduceFunctorTask as ReduceFunctorTask
from pluggableflow.task import Task as Task
