# SPDX-License-Identifier: Apache-2.0
"""``taskflow.persistence.models``."""

from pluggableflow.middleware import AtomDetail as AtomDetail
from pluggableflow.middleware import FlowDetail as FlowDetail
from pluggableflow.middleware import LogBook as LogBook
from pluggableflow.middleware import RetryDetail as RetryDetail
from pluggableflow.middleware import TaskDetail as TaskDetail

ATOM_TYPES = ("TASK_DETAIL", "RETRY_DETAIL")
_CLASSES: dict[str, type[AtomDetail]] = {"TASK_DETAIL": TaskDetail, "RETRY_DETAIL": RetryDetail}


def atom_detail_class(atom_type: str) -> type[AtomDetail]:
    """The class of details that is known under a name.

    :raises TypeError: there is none
    """
    try:
        return _CLASSES[atom_type]
    except KeyError:
        raise TypeError(f"Unknown atom type: it is one of {', '.join(ATOM_TYPES)}, not {atom_type!r}") from None


def atom_detail_type(atom_detail: AtomDetail) -> str:
    """The name that :func:`atom_detail_class` knows the class of a detail under.

    :raises TypeError: it has none
    """
    for name, kind in _CLASSES.items():
        if type(atom_detail) is kind:
            return name
    raise TypeError(f"{atom_detail!r} is not an atom detail")
