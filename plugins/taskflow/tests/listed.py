# SPDX-License-Identifier: Apache-2.0
"""Tests of TaskFlow that do not pass on this package, and why they need not."""

from __future__ import annotations

_ENGINES = ("SerialEngineTest", "ParallelEngineWithThreadsTest")
_CACHES = ("no_cache", "one", "tiny", "medimum", "large")


def _on_both_engines(module: str, reasons: dict[str, str]) -> dict[str, str]:
    return {f"{module}.{engine}.{test}": reason for engine in _ENGINES for test, reason in reasons.items()}


LISTED: dict[str, str] = {
    "test_exceptions.TestExceptions.test_pformat_root_class": (
        "wants the name TaskFlowException; the root of all errors is one class, called PluggableFlowError"
    ),
    "test_failure.FailureObjectTestCase.test_dont_catch_base_exception": (
        "wants SystemExit to be no failure; here a worker that exits, or a coroutine that is cancelled, is one,"
        " where TaskFlow leaves the atom RUNNING"
    ),
    "test_failure.FailureObjectTestCase.test_recaptured_not_eq": (
        "wants a failure that was read again to differ from the one that was stored; here they are equal"
    ),
    "test_flow_dependencies.FlowDependenciesTest.test_task_requires_and_provides_same_values": (
        "gives a task to a flow as its retry, which no engine of TaskFlow runs either; here it is refused at once"
    ),
    **_on_both_engines(
        "test_engines",
        {
            "test_parallel_flow_with_priority": "a task is told RUNNING as it begins, not as all are put into a queue",
            "test_sequential_flow_interrupted_externally": "the flow is suspended and can go on",
        },
    ),
    **_on_both_engines(
        "test_retries",
        {
            "test_run_just_retry": "a retry that is no task is refused when the engine is loaded",
            "test_use_retry_as_a_task": "a retry that is no task is refused by add",
            "test_nested_provides_graph_reverts_correctly": "it stores a result of a task that cannot have run yet",
            "test_restart_reverted_unordered_flows_with_retries": "it reads a private attribute of the engine",
            "test_resumption_on_crash_after_revert_scheduled": "a revert that is run again is told again",
        },
    ),
    "test_engine_helpers.EngineLoadingTestCase.test_options_empty": "options have their defaults",
    "test_engine_helpers.EngineLoadingTestCase.test_options_passthrough": "unknown options are refused",
    **{
        f"persistence.test_dir_persistence.DirPersistenceTest.test_dir_backend_cache_overfill({size})": (
            "there is no cache of files to be bounded"
        )
        for size in _CACHES[1:]
    },
    **{
        f"persistence.{kind}.test_task_detail_update_not_existing{scenario}": "names of atoms are unique in a flow"
        for kind, scenarios in {
            "test_dir_persistence.DirPersistenceTest": [f"({size})" for size in _CACHES],
            "test_memory_persistence.MemoryPersistenceTest": [""],
            "test_sql_persistence.SqlitePersistenceTest": [""],
            "test_sql_persistence.MysqlPersistenceTest": [""],
            "test_sql_persistence.PostgresPersistenceTest": [""],
        }.items()
        for scenario in scenarios
    },
}
