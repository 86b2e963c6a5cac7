# SPDX-License-Identifier: Apache-2.0
"""``taskflow.task``: the tasks of pluggableflow, called after their module too if they are given no name."""

from typing import Any

from oslo_utils import reflection

from pluggableflow.task import EVENT_UPDATE_PROGRESS as EVENT_UPDATE_PROGRESS
from pluggableflow.task import LOG as LOG
from pluggableflow.task import FunctorTask as _FunctorTask
from pluggableflow.task import MapFunctorTask as _MapFunctorTask
from pluggableflow.task import ReduceFunctorTask as _ReduceFunctorTask
from pluggableflow.task import Task as _Task


class Task(_Task):
    @staticmethod
    def default_name(made_of: Any) -> str:
        name_of = reflection.get_class_name if isinstance(made_of, type) else reflection.get_callable_name
        return str(name_of(made_of))


class FunctorTask(_FunctorTask, Task):
    pass


class MapFunctorTask(_MapFunctorTask, Task):
    pass


class ReduceFunctorTask(_ReduceFunctorTask, Task):
    pass
