# SPDX-License-Identifier: Apache-2.0
"""Faults of our executors, of which the kit for executors must catch each.

A worker process imports the code as it is, so each fault is one of the engine's side.
"""

from __future__ import annotations

from backends.mutation_edits import Edit, Fault, faults_of

anywhere = faults_of("pluggableflow.executor")
line = faults_of("pluggableflow.executors.line")
threads = faults_of("pluggableflow.executors.threads")
loop = faults_of("pluggableflow.executors.asyncio")
processes = faults_of("pluggableflow.executors.processes")
travel = faults_of("pluggableflow.executors.travel")

_CALLS = (
    anywhere(
        "cancelled work is begun",
        "TestThreads and cancelled_work_is_not_begun",
        Edit("carry_out", "if work.cancelled.is_set():", "if False:"),
    ),
    anywhere(
        "a coroutine is returned instead of run",
        "TestThreads and a_coroutine_runs_to_its_end",
        Edit("carry_out", "if type(value) is CoroutineType:", "if False:"),
    ),
    anywhere(
        "revert and execute are taken for each other",
        "TestThreads and a_revert_runs_revert",
        Edit("begin", "if work.revert:", "if not work.revert:"),
    ),
    anywhere(
        "the outcome of a revert says that it is one of execute",
        "TestThreads and a_revert_runs_revert",
        Edit("conclude", "Outcome(work.node, work.revert", "Outcome(work.node, False"),
    ),
    anywhere(
        "the task does not get its key",
        "TestThreads and progress_comes",
        Edit("begin", "= work.key,", '= "",'),
    ),
    anywhere(
        "nobody takes what the task reports",
        "TestThreads and progress_comes",
        Edit("begin", "work.report, work.node", "None, work.node"),
    ),
    anywhere(
        "the task cannot see that it is cancelled",
        "TestThreads and running_work_is_told",
        Edit("begin", "task.cancelled = work.cancelled", "task.cancelled = NEVER"),
    ),
    anywhere(
        "a failure is lost",
        "TestThreads and a_failure_has_its_type",
        Edit("conclude", "value, failure)", "value, None)"),
    ),
    anywhere(
        "what was not begun is said to have begun",
        "TestThreads and a_stop_at_once_begins_nothing_more",
        Edit("not_begun", ", begun=False", ""),
    ),
)

_LINE = (
    line(
        "a given pool gets all work at once",
        "TestGivenThreads and no_more_runs_at_once",
        Edit("_begin_next", "self._running >= self._limit", "False"),
    ),
    line(
        "a given pool gets one piece of work at a time",
        "TestGivenThreads and as_much_runs_at_once",
        Edit("_begin_next", "self._running >= self._limit", "self._running"),
    ),
    line(
        "what came last is begun first",
        "TestGivenThreads and in_the_order_of_submission",
        Edit("_begin_next", "popleft()", "pop()"),
    ),
    line(
        "what is dropped has no outcome",
        "TestGivenThreads and a_stop_at_once_begins_nothing_more",
        Edit("drop", "for work in dropped:", "for work in ():"),
    ),
    line(
        "nothing is dropped",
        "TestGivenThreads and a_stop_at_once_begins_nothing_more",
        Edit("drop", "dropped = list(self._waiting)\n            self._waiting.clear()", "dropped = []"),
    ),
    line(
        "a stop does not wait",
        "TestGivenThreads and a_stop_lets_all_work",
        Edit("wait", "self._unfinished == 0", "True"),
    ),
    line(
        "to hand out work takes until it has ended",
        "TestGivenThreads and submit_does_not_wait",
        Edit("add", "self._begin_next(work)", "self._begin_next(work)\n        self.wait()"),
    ),
    line(
        "work that ends makes no room",
        "TestGivenThreads and each_piece_of_work",
        Edit("make_room", "self._begin_next()", "pass"),
    ),
)

_THREADS = (
    threads(
        "there is one thread only",
        "TestThreads and as_much_runs_at_once",
        Edit("submit", "len(self._threads) < self.max_workers", "not self._threads"),
    ),
    threads(
        "there are as many threads as work",
        "TestThreads and no_more_runs_at_once",
        Edit("submit", "len(self._threads) < self.max_workers", "True"),
    ),
    threads(
        "a stop at once runs what waits",
        "TestThreads and a_stop_at_once_begins_nothing_more",
        Edit("stop", "while not drain and", "while False and"),
    ),
    threads(
        "threads outlive their executor",
        "TestThreads and leaves_no_thread",
        Edit("stop", "self._work.put(None)", "pass"),
        Edit("stop", "thread.join()", "pass"),
    ),
    threads(
        "an outcome comes twice",
        "TestThreads and each_piece_of_work",
        Edit("_serve", "self._done(outcome)", "self._done(outcome)\n            self._done(outcome)"),
    ),
)

_LOOP = (
    loop(
        "a stop at once lets coroutines go on",
        "TestAsyncio and a_stop_at_once_ends_what_can",
        Edit("stop", "future.cancel()", "pass"),
    ),
    loop(
        "a cancelled coroutine is begun",
        "TestAsyncio and cancelled_work_is_not_begun",
        Edit("_carry_out", "if work.cancelled.is_set():", "if False:"),
    ),
    loop(
        "the thread of the loop outlives its executor",
        "TestAsyncio and leaves_no_thread",
        Edit("stop", "self._loop.call_soon_threadsafe(self._end.set)", "pass"),
        Edit("stop", "self._thread.join()", "pass"),
    ),
    loop(
        "coroutines run one after the other",
        "TestAsyncio and as_much_runs_at_once",
        Edit("start", "Line(self.max_workers", "Line(1"),
    ),
    loop(
        "what cannot wait for the loop runs on it",
        "TestAsyncio and as_much_runs_at_once",
        Edit("__init__", "ThreadsExecutor(threads)", "ThreadsExecutor(1)"),
    ),
)

_PROCESSES = (
    processes(
        "work whose worker died is not run again",
        "TestProcesses and under_the_same_key",
        Edit("_carry_out", "range(WORKER_DEATHS)", "range(1)"),
    ),
    processes(
        "work may kill one worker too many",
        "TestProcesses and a_bounded_number",
        Edit("_carry_out", "range(WORKER_DEATHS)", "range(WORKER_DEATHS + 1)"),
    ),
    processes(
        "workers outlive their executor",
        "TestProcesses and leaves_no_thread",
        Edit("stop", "if self._own:", "if False:"),
    ),
    processes(
        "a worker that has ended leaves a file open",
        "TestProcesses and leaves_no_thread",
        Edit("", "        os.close(self._death)\n", ""),
    ),
    processes(
        "a stop at once leaves busy workers alone",
        "TestProcesses and a_stop_at_once_ends_what_can",
        Edit("stop", "worker.kill()", "pass"),
    ),
    processes(
        "progress does not come back",
        "TestProcesses and progress_comes",
        Edit("run", "task.update_progress(content[0], **content[1])", "pass"),
    ),
    processes(
        "a worker is not told of a cancellation",
        "TestProcesses and running_work_is_told",
        Edit("", "worker.cancel(number)", "pass"),
    ),
    processes(
        "one process runs at a time",
        "TestProcesses and as_much_runs_at_once",
        Edit("", "threading.Semaphore(self.max_workers)", "threading.Semaphore(1)"),
    ),
    travel(
        "a pickling fault does not name the part",
        "TestProcesses and a_pickling_fault",
        Edit("pack", "in parts.items():", "in ():"),
    ),
    travel(
        "the key does not travel",
        "TestProcesses and progress_comes",
        Edit("pack", "work.revert, work.key,", 'work.revert, "",'),
    ),
    travel(
        "a revert travels as execute",
        "TestProcesses and a_revert_runs_revert",
        Edit("pack", "task.name, work.revert,", "task.name, False,"),
    ),
    travel(
        "the outcome of a revert comes back as one of execute",
        "TestProcesses and a_revert_runs_revert",
        Edit("unpack_outcome", "work.revert, value", "False, value"),
    ),
)

FAULTS: tuple[Fault, ...] = (*_CALLS, *_LINE, *_THREADS, *_LOOP, *_PROCESSES)

TESTS = {fault.store: "core/test_executor_kit.py" for fault in FAULTS}

CONTROL: dict[str, Fault] = {
    "executors": Fault(
        "none in executors", "pluggableflow.executor", " or ".join(sorted({fault.tests for fault in FAULTS})), ()
    )
}

SHARED = ("pluggableflow.task", "pluggableflow.failure")
FAULTY = ("pluggableflow.executor",)
