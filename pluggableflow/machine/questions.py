# SPDX-License-Identifier: Apache-2.0
"""What the machine asks, and what it is told of an atom that has begun before."""

from __future__ import annotations

from dataclasses import dataclass

from pluggableflow.flow import Depth


@dataclass(slots=True, frozen=True)
class Decide:
    """Do the deciders of the links to ``target`` let it run? Answer with :meth:`Machine.decided`."""

    target: int


@dataclass(slots=True, frozen=True)
class ExecuteRetry:
    """What does ``retry`` provide for its next attempt? Answer with ``succeeded`` or ``failed``."""

    retry: int


@dataclass(slots=True, frozen=True)
class RevertRetry:
    """Undo ``retry``, its scope has been undone. Answer with ``reverted`` or ``revert_failed``."""

    retry: int


@dataclass(slots=True, frozen=True)
class OnFailure:
    """What does ``retry`` decide about the failure of ``failed`` (an atom, or the retry of a flow inside)?

    Answer with :meth:`Machine.resolved`. ``scope`` is the innermost scope, which asked first.
    """

    retry: int
    failed: int
    scope: int
    origin: int


Question = Decide | ExecuteRetry | RevertRetry | OnFailure


@dataclass(slots=True, frozen=True)
class Restored:
    """What is stored of an atom that is not PENDING, as :meth:`Machine.begin` needs it."""

    state: str
    intention: str
    attempt: int
    started: bool
    not_before: int | None = None
    depth: Depth | None = None
