# SPDX-License-Identifier: Apache-2.0
"""Runs the flows that a store has waiting, beside other conductors on the same store; there is no second service."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from pluggableflow import codec, lease, owner, states
from pluggableflow.api import load_from_detail
from pluggableflow.connection import Changes, Claim, Connection
from pluggableflow.engine import Engine
from pluggableflow.engines.stopping import StoppingEngine
from pluggableflow.exceptions import (
    DamagedRecord,
    DefinitionError,
    FlowFileError,
    FlowMismatch,
    LeaseLost,
    OptionError,
    PluginError,
    StorageFailure,
)
from pluggableflow.executor import run_to_end
from pluggableflow.middleware import FlowDetail, new_uuid

LOG = logging.getLogger(__name__)

#: In the metadata of a flow: how often it was begun in a row without an atom of it ending, and why it was set aside.
META_ATTEMPTS, META_PROGRESS, META_ASIDE = "attempts", "attempts_progress", "set_aside"
#: A store that does not answer is asked again after so long at most.
LONGEST_PAUSE_SECONDS = 30.0


class Conductor:
    """Claims runnable flows, makes them again from their factories, and runs several at a time, each in a thread.

    A flow whose process died is claimed as soon as its lease has run out. One that waits for a delay is left, and
    claimed again when that is over. One that cannot be loaded, or that was begun ``max_attempts`` times in a row
    without any of its atoms ending, is set aside: it becomes SUSPENDED, with the reason as ``set_aside`` in its
    metadata. Resuming it, once that is mended, is as for any suspended flow.

    While the store does not answer, nothing is claimed, and it is asked again after growing pauses; flows that it
    fails are left for the next claim.

    :param allowed_prefixes: packages or modules whose factories may be called; others are not trusted
    :param max_flows: how many run at a time
    :param poll_seconds: how long to wait before the store is asked again when it had nothing to run
    :param on_engine: called with every engine before it runs, to register listeners
    :param options: of the engine type
    :ivar max_flows: may be changed while it runs
    :raises OptionError: an option is impossible; :meth:`run` raises it for one of the engine's
    """

    def __init__(
        self,
        connection: Connection,
        allowed_prefixes: Sequence[str],
        max_flows: int = 4,
        *,
        poll_seconds: float = 1.0,
        max_attempts: int = 5,
        lease_seconds: float = 30,
        engine: str | type[Engine] = "serial",
        on_engine: Callable[[Engine], None] | None = None,
        **options: Any,
    ) -> None:
        for name, value in ("max_flows", max_flows), ("max_attempts", max_attempts):
            if value < 1:
                raise OptionError(f"{name} must be at least 1, not {value!r}")
        for name, seconds in ("poll_seconds", poll_seconds), ("lease_seconds", lease_seconds):
            if seconds <= 0:
                raise OptionError(f"{name} must be more than 0, not {seconds!r}")
        if not allowed_prefixes:
            raise OptionError("a conductor needs allowed_prefixes: the packages whose factories it may call")
        self._connection, self._allowed = connection, tuple(allowed_prefixes)
        self._poll_seconds, self._max_attempts = poll_seconds, max_attempts
        self._engine, self._on_engine = engine, on_engine
        self._lease_seconds = lease_seconds
        self._options = {**options, "lease_seconds": lease_seconds, "leave_timers": True}
        self.max_flows = max_flows
        self._stopping = False
        self._wakes: SimpleQueue[None] = SimpleQueue()  # a flow has ended, or the conductor is to stop
        self._fault: Exception | None = None
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, Engine | None] = {}

    def stop(self) -> None:
        """Begin nothing new, and let :meth:`run` return when the running atoms have ended. From any thread or signal
        handler; the flows are left to other conductors."""
        self._stopping = True
        self._wakes.put(None)

    def run(self, until_idle: bool = False) -> None:
        """Run flows until :meth:`stop` is called.

        :param until_idle: return when there is nothing to run at the moment, also if flows wait for a delay
        """
        pause = self._poll_seconds
        while not self._stopping:
            if len(self._running) >= self.max_flows:
                self._wakes.get()
                continue
            try:
                claimed = self._connection.claim(
                    token=new_uuid(), owner=owner.identity(), lease_seconds=self._lease_seconds
                )
            except StorageFailure as error:
                LOG.warning("the store does not answer, asking again in %.1f seconds: %s", pause, error)
                self._wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            pause = self._poll_seconds
            if claimed is not None:
                self._begin(claimed)
            elif until_idle and not self._running:
                break
            else:
                self._wait(pause)
        self._leave_all()
        if self._fault is not None:
            raise self._fault

    def _wait(self, seconds: float) -> None:
        """Wait for about so long, or until something has happened."""
        with contextlib.suppress(Empty):
            self._wakes.get(timeout=seconds * random.uniform(0.5, 1))

    def _begin(self, claimed: Claim) -> None:
        thread = threading.Thread(target=self._serve, args=(claimed,), name="pluggableflow-flow")
        with self._lock:
            self._running[thread] = None
        thread.start()

    def _leave_all(self) -> None:
        with self._lock:
            for engine in self._running.values():
                if engine is not None:
                    _leave(engine)
            threads = list(self._running)
        for thread in threads:
            thread.join()

    def _serve(self, claimed: Claim) -> None:
        flow_uuid = claimed.lease.flow_uuid
        try:
            self._run(flow_uuid, claimed)
        except LeaseLost:
            LOG.warning("flow %s was taken over by another process", flow_uuid)
        except StorageFailure as error:
            LOG.warning("the store failed flow %s, which is left to the next claim: %s", flow_uuid, error)
        except (OptionError, PluginError) as error:  # no flow can be run in this way
            self._fault = error
            self._connection.release(claimed.lease)
            self.stop()
        except Exception:
            LOG.exception("flow %s is left to the next claim", flow_uuid)
        finally:
            with self._lock:
                del self._running[threading.current_thread()]
            self._wakes.put(None)

    def _run(self, flow_uuid: str, claimed: Claim) -> None:
        try:
            detail = self._connection.get_flow_details(flow_uuid)
        except DamagedRecord as error:
            return self._set_aside(claimed, None, str(error))
        attempts, reason = self._count(claimed, detail)
        if reason is not None:
            return self._set_aside(claimed, detail, reason)
        try:
            engine = load_from_detail(
                self._connection, detail, self._allowed, engine=self._engine, claim=attempts, **self._options
            )
            if self._on_engine is not None:
                self._on_engine(engine)
            engine.compile()
            engine.validate()
        except (StorageFailure, LeaseLost, OptionError, PluginError):
            raise
        except Exception as error:  # a factory is the author's code
            return self._set_aside(attempts, detail, f"it cannot be loaded: {type(error).__name__}: {error}")
        with self._lock:
            self._running[threading.current_thread()] = engine
            if self._stopping:
                _leave(engine)
        LOG.info("flow %s (%s) runs", flow_uuid, detail.name)
        try:
            ended = engine.run()
            if ended is not None:
                run_to_end(ended)
        except (StorageFailure, LeaseLost):
            raise
        except (FlowMismatch, DefinitionError, FlowFileError) as error:
            if engine.storage.get_flow_state() not in states.FINISHED:
                return self._set_aside(None, detail, str(error))
            LOG.info("flow %s (%s) ended as %s: %r", flow_uuid, detail.name, engine.storage.get_flow_state(), error)
        except Exception as error:
            LOG.info("flow %s (%s) ended as %s: %r", flow_uuid, detail.name, engine.storage.get_flow_state(), error)
        else:
            LOG.info("flow %s (%s) is %s", flow_uuid, detail.name, engine.storage.get_flow_state())

    def _count(self, claimed: Claim, detail: FlowDetail) -> tuple[Claim, str | None]:
        """Store that the flow is begun once more; returns the claim with its new revision, and why it must not be."""
        progress = max((atom.finished_at or 0 for atom in detail), default=0)
        attempts = 1
        if detail.meta.get(META_PROGRESS) == progress:
            attempts += detail.meta.get(META_ATTEMPTS, 0)
        if attempts > self._max_attempts:
            return claimed, f"it was begun {attempts - 1} times in a row without an atom of it ending"
        detail.meta = {**detail.meta, META_ATTEMPTS: attempts, META_PROGRESS: progress}
        detail.meta.pop(META_ASIDE, None)
        changes = Changes(flow={"meta": codec.dumps(detail.meta)})
        revision = self._connection.commit(claimed.lease, claimed.revision, changes)
        return Claim(claimed.lease, revision, claimed.now, claimed.request), None

    def _set_aside(self, claimed: Claim | None, detail: FlowDetail | None, reason: str) -> None:
        """Suspend a flow for good, with the reason; ``claimed`` is ``None`` if its lease was given up."""
        flow: dict[str, Any] = {"state": states.SUSPENDED}
        if detail is not None:
            meta = {key: value for key, value in detail.meta.items() if key not in (META_ATTEMPTS, META_PROGRESS)}
            flow["meta"] = codec.dumps({**meta, META_ASIDE: reason})
            if claimed is None:
                claimed = lease.claim(self._connection, detail.uuid, self._lease_seconds)
        assert claimed is not None
        LOG.error("flow %s is set aside: %s", claimed.lease.flow_uuid, reason)
        self._connection.commit(claimed.lease, claimed.revision, Changes(flow=flow))
        self._connection.release(claimed.lease)


def _leave(engine: Engine) -> None:
    if isinstance(engine, StoppingEngine):
        engine.leave()
    else:
        engine.suspend()
