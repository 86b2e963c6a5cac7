# SPDX-License-Identifier: Apache-2.0
"""Listeners from their first to their last event, and what they leave behind."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pluggableflow import api, states
from pluggableflow.connection import Connection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import StorageFailure
from pluggableflow.failure import Failure
from pluggableflow.flow import Flow
from pluggableflow.formatters import ATOMS_LIMIT, VALUE_LIMIT_CHARACTERS, FailureFormatter
from pluggableflow.listeners import (
    CaptureListener,
    DurationListener,
    DynamicLoggingListener,
    EventTimeListener,
    Listener,
    LoggingListener,
    PrintingDurationListener,
    PrintingListener,
    timing,
)
from pluggableflow.patterns import linear_flow
from pluggableflow.retry import Times
from pluggableflow.secret import Secret
from pluggableflow.task import FunctorTask

TOKEN = "hunter2-of-all"


@pytest.fixture(params=["memory://", "sqlite:///{folder}/flows.db", "dir:///{folder}/flows"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    made = api.connect(request.param.format(folder=tmp_path))
    yield made
    made.close()


def good() -> Flow:
    return linear_flow.Flow("flow").add(FunctorTask(lambda: 5, name="task", provides="x"))


def bad(retry: bool = False) -> Flow:
    def broken() -> None:
        raise RuntimeError("broken")

    flow = linear_flow.Flow("flow", Times(2, "retry") if retry else None)
    return flow.add(FunctorTask(lambda: 5, name="first"), FunctorTask(broken, name="task"))


def run(engine: Engine) -> None:
    try:
        engine.run()
    except RuntimeError as error:
        assert str(error) == "broken"


class Short(CaptureListener):
    @staticmethod
    def _format_capture(kind: str, state: str, details: Mapping[str, Any]) -> Any:
        return f"{kind} {details[f'{kind}_name']} {state}"


# -- from the first to the last event ---------------------------------------------------------------------------------


def test_a_listener_hears_of_tasks_retries_and_flows_each_by_its_own_method() -> None:
    engine = api.load(None, bad(retry=True))
    with Short(engine) as heard:
        run(engine)
    assert heard.values[:6] == [
        "flow flow RUNNING",
        "retry retry RUNNING",
        "retry retry SUCCESS",
        "task first RUNNING",
        "task first SUCCESS",
        "task task RUNNING",
    ]
    assert heard.values[-1] == "flow flow REVERTED"
    assert "retry retry RETRYING" in heard.values


def test_a_listener_may_ask_for_some_states_alone_or_for_none() -> None:
    engine = api.load(None, bad())
    with Short(engine, task_listen_for=["SUCCESS", "FAILURE"], flow_listen_for=None, retry_listen_for=()) as heard:
        run(engine)
    assert heard.values == ["task first SUCCESS", "task task FAILURE"]


def test_a_listener_hears_nothing_before_and_after() -> None:
    engine = api.load(None, good())
    heard = Short(engine)
    heard.deregister()
    with heard:
        heard.register()
    engine.run()
    assert heard.values == []
    assert not engine.notifier
    assert not engine.atom_notifier


def test_a_listener_is_deregistered_when_the_run_raises_and_the_error_passes() -> None:
    engine = api.load(None, bad())
    with pytest.raises(RuntimeError, match="broken"), Short(engine):
        engine.run()
    assert not engine.atom_notifier


def test_a_listener_whose_end_fails_does_not_hide_what_the_run_raised(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Listener):
        def deregister(self) -> None:
            raise ValueError("stuck")

    engine = api.load(None, bad())
    with pytest.raises(RuntimeError, match="broken"), Stuck(engine):
        engine.run()
    assert "ValueError: stuck" in caplog.text


def test_a_failing_listener_does_not_disturb_the_others() -> None:
    class Failing(Listener):
        def _task_receiver(self, state: str, details: Mapping[str, Any]) -> None:
            raise RuntimeError("no")

    engine = api.load(None, good())
    with Failing(engine), Short(engine) as heard:
        engine.run()
    assert heard.values[-1] == "flow flow SUCCESS"


# -- capturing --------------------------------------------------------------------------------------------------------


def test_captured_values_are_kind_state_and_details() -> None:
    engine = api.load(None, good())
    before: list[Any] = ["before"]
    with CaptureListener(engine, values=before) as heard:
        engine.run()
    assert heard.values is before
    kind, state, details = before[-2]
    assert (kind, state, details["result"], details["old_state"]) == (CaptureListener.TASK, "SUCCESS", 5, "RUNNING")


def test_kinds_and_names_can_be_left_out() -> None:
    engine = api.load(None, bad(retry=True))
    with (
        Short(engine, capture_task=False, capture_retry=False) as flows,
        Short(engine, skip_tasks=["task"], skip_retries=["retry"], skip_flows=["flow"]) as first,
    ):
        run(engine)
    assert {each.split()[0] for each in flows.values} == {"flow"}
    assert {each.split()[1] for each in first.values} == {"first"}


# -- printing and logging ---------------------------------------------------------------------------------------------


def test_printing_tells_every_state_and_the_traceback_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    engine = api.load(None, bad())
    with PrintingListener(engine):
        run(engine)
    out, err = capsys.readouterr()
    uuid = engine.storage.get_atom_uuid("first")
    assert f"task 'first' ({uuid}) went from RUNNING to SUCCESS with result 5\n" in out
    assert f"flow 'flow' ({engine.storage.flow_uuid}) went from PENDING to RUNNING\n" in out
    assert "with result Failure: RuntimeError: broken\nTraceback (most recent call last):\n" in out
    assert err == ""
    with PrintingListener(api.load(None, good()), stderr=True) as listener:
        listener._engine.run()
    assert capsys.readouterr().out == ""


def records_of(listener: type[Listener], flow: Flow, caplog: pytest.LogCaptureFixture, **options: Any) -> list[Any]:
    log = logging.getLogger("test_listeners")
    caplog.clear()
    engine = api.load(None, flow)
    with caplog.at_level(logging.DEBUG, "test_listeners"), listener(engine, log=log, **options):  # type: ignore[call-arg]
        run(engine)
    return [record for record in caplog.records if record.name == "test_listeners"]


def test_logging_uses_one_level_and_tells_a_failure_once(caplog: pytest.LogCaptureFixture) -> None:
    records = records_of(LoggingListener, bad(), caplog, level=logging.INFO)
    assert {record.levelno for record in records} == {logging.INFO}
    assert [record.exc_info[0] for record in records if record.exc_info] == [RuntimeError]


def test_dynamic_logging_raises_its_voice_for_bad_news(caplog: pytest.LogCaptureFixture) -> None:
    assert {record.levelno for record in records_of(DynamicLoggingListener, good(), caplog)} == {logging.DEBUG}
    records = records_of(DynamicLoggingListener, bad(retry=True), caplog, failure_level=logging.ERROR, level=5)
    assert {record.levelno for record in records} == {logging.ERROR}, "the logger does not take level 5"
    records = records_of(DynamicLoggingListener, bad(retry=True), caplog)
    loud = {record.getMessage().partition(" to ")[2].split()[0] for record in records if record.levelno > logging.DEBUG}
    assert loud == {"FAILURE", "RETRYING", "REVERTED"}
    assert len([record for record in records if record.exc_info]) == 2


def test_dynamic_logging_shows_results_and_what_led_to_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    text = "\n".join(record.getMessage() for record in records_of(DynamicLoggingListener, bad(), caplog))
    assert "went from RUNNING to SUCCESS with result 5" in text
    assert (
        "went from RUNNING to FAILURE\n1 atom(s) came before 'task' (nearest first):\n  'first' SUCCESS; provid" in text
    )
    hidden = records_of(DynamicLoggingListener, bad(), caplog, hide_inputs_outputs_of=["first"])
    assert "result 5" not in "\n".join(record.getMessage() for record in hidden)


def test_dynamic_logging_masks_named_inputs_and_outputs(caplog: pytest.LogCaptureFixture) -> None:
    flow = linear_flow.Flow("flow").add(
        FunctorTask(lambda: "s1", name="a", provides="password"),
        FunctorTask(lambda: {"password": "s2"}, name="b"),
        FunctorTask(lambda password: None, name="c"),
        *bad(),
    )
    for masked in (False, True):
        names = ["password"] if masked else []
        options = {"mask_inputs_keys": names, "mask_outputs_keys": names}
        text = "\n".join(record.getMessage() for record in records_of(DynamicLoggingListener, flow, caplog, **options))
        assert ("'s1'" in text, "'s2'" in text) == (not masked, not masked)


def test_dynamic_logging_takes_another_formatter(caplog: pytest.LogCaptureFixture) -> None:
    class Brief:
        def format(self, failure: Failure, atom_name: str) -> tuple[Any, str]:
            return None, f"see {atom_name}"

    records = records_of(DynamicLoggingListener, bad(), caplog, fail_formatter=Brief())
    assert any(record.getMessage().endswith("to FAILURE\nsee task") for record in records)


def test_a_subclass_names_its_own_type_of_formatter(caplog: pytest.LogCaptureFixture) -> None:
    class Shy(FailureFormatter):
        def show_result(self, atom_name: str, result: Any) -> str:
            return "a secret"

    class Own(DynamicLoggingListener):
        formatter_type = Shy

    assert any("with result a secret" in record.getMessage() for record in records_of(Own, good(), caplog))


@pytest.mark.parametrize("listener", [LoggingListener, DynamicLoggingListener])
def test_a_subclass_names_its_own_logger(listener: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Own(listener):  # type: ignore[misc]
        _LOGGER = logging.getLogger("own")

    engine = api.load(None, good())
    with caplog.at_level(logging.DEBUG), Own(engine):
        engine.run()
    assert {record.name for record in caplog.records if "task" in record.getMessage()} == {"own"}


@pytest.mark.parametrize("kind", [PrintingListener, LoggingListener, DynamicLoggingListener])
@pytest.mark.parametrize("fail", [True, False])
def test_no_listener_shows_a_secret(
    kind: Any, fail: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def leak(token: str) -> dict[str, str]:
        if fail:
            raise ValueError(f"{token} is not valid")
        return {"copy": token}

    def next_one(token: str, copy: Any) -> None:
        raise RuntimeError("broken")

    flow = linear_flow.Flow("flow").add(
        FunctorTask(leak, name="leak", provides="copy"), FunctorTask(next_one, name="next")
    )
    engine = api.load(None, flow, store={"token": Secret(TOKEN)})
    with caplog.at_level(logging.DEBUG), kind(engine), pytest.raises(Exception, match="broken|is not valid") as raised:
        engine.run()
    out, err = capsys.readouterr()
    text = caplog.text + out + err + str(raised.value)
    assert "went from" in text
    assert "***" in text
    assert TOKEN not in text


# -- timing -----------------------------------------------------------------------------------------------------------


def test_durations_are_stored_with_tasks_and_flow(connection: Connection) -> None:
    engine = api.load(connection, good())
    with DurationListener(engine):
        engine.run()
    stored = connection.get_flow_details(engine.storage.flow_uuid)
    assert stored.state == states.SUCCESS
    assert stored.meta["duration"] >= 0
    assert [atom.meta["duration"] >= 0 for atom in stored if atom.name == "task"] == [True]


def test_event_times_are_stored_with_atoms_and_flow(connection: Connection) -> None:
    engine = api.load(connection, bad(retry=True))
    with EventTimeListener(engine):
        run(engine)
    stored = connection.get_flow_details(engine.storage.flow_uuid)
    atoms = {atom.name: atom.meta for atom in stored}
    assert stored.meta["RUNNING-timestamp"] <= stored.meta["REVERTED-timestamp"]
    assert atoms["task"]["RUNNING-timestamp"] <= atoms["task"]["FAILURE-timestamp"]
    assert "RETRYING-timestamp" in atoms["retry"]


def test_what_a_listener_writes_at_the_end_of_a_closed_run_is_stored(connection: Connection) -> None:
    engine = api.load(connection, bad())
    with EventTimeListener(engine):
        running = engine.run_iter()
        next(running)
        running.close()  # type: ignore[attr-defined]
    stored = connection.get_flow_details(engine.storage.flow_uuid)
    assert stored.state == states.SUSPENDED
    assert "SUSPENDED-timestamp" in stored.meta


def test_a_store_that_fails_at_a_duration_stops_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = api.load(None, good())

    def fail(*_args: Any) -> None:
        raise StorageFailure("no room")

    monkeypatch.setattr(engine.storage, "update_atom_metadata", fail)
    with DurationListener(engine):
        engine.run()
    (record,) = [record for record in caplog.records if record.name == timing.LOG.name]
    assert "of task 'task'" in record.getMessage()
    assert record.exc_info
    assert engine.storage.get_flow_state() == states.SUCCESS


def test_what_began_and_did_not_end_is_named(caplog: pytest.LogCaptureFixture) -> None:
    engine = api.load(None, good())
    with DurationListener(engine) as listener:
        engine.atom_notifier.register(states.RUNNING, lambda *_: listener.deregister())
        engine.run()
    assert "2 of tasks and flows began and did not end: flow 'flow', task 'task'" in caplog.text


def test_a_suspended_flow_has_no_duration_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    engine = api.load(None, bad())
    engine.atom_notifier.register(states.SUCCESS, lambda *_: engine.suspend())
    with DurationListener(engine):
        engine.run()
    assert engine.storage.get_flow_state() == states.SUSPENDED
    assert "duration" not in engine.storage.flow_meta
    assert caplog.text == ""


def test_durations_are_printed_as_they_come() -> None:
    lines: list[str] = []
    engine = api.load(None, good())
    with PrintingDurationListener(engine, lines.append):
        engine.run()
    assert [re.sub(r"\d+\.\d\d", "N", line) for line in lines] == [
        "'flow' flow started.",
        "'task' task started.",
        "It took task 'task' N seconds to finish.",
        "It took flow 'flow' N seconds to finish.",
    ]


def test_the_formatter_may_be_shared_with_a_listener() -> None:
    engine = api.load(None, bad())
    listener = DynamicLoggingListener(engine, fail_formatter=FailureFormatter(engine))
    with listener:
        run(engine)
    assert not engine.atom_notifier


def test_the_examples_of_the_page_on_listeners_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "listeners.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for example in examples:
        exec(compile(example, "docs/listeners.md", "exec"), {"__name__": "example"})
    assert len(examples) == 2
    assert capsys.readouterr().out == "answer 42\n"
    assert f"At most {ATOMS_LIMIT} atoms are listed and\n{VALUE_LIMIT_CHARACTERS} characters" in page
