# SPDX-License-Identifier: Apache-2.0
"""Where a secret could leak, and does not."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pluggableflow import api, codec, states
from pluggableflow.connection import Connection
from pluggableflow.engine import Engine
from pluggableflow.exceptions import (
    EncodingError,
    ExecutionFailure,
    FlowMismatch,
    MissingSecrets,
    NotFound,
    WrappedFailure,
)
from pluggableflow.executor import Work
from pluggableflow.failure import Failure
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow, linear_flow
from pluggableflow.retry import Times
from pluggableflow.secret import Masks, Secret
from pluggableflow.task import FunctorTask, Task

TOKEN = "hunter2-ünd\n'more'"
STORES = ["memory://", "sqlite:///{folder}/flows.db", "dir:///{folder}/flows"]


@pytest.fixture(params=STORES, ids=["memory", "sqlite", "directory"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    made = api.connect(request.param.format(folder=tmp_path))
    yield made
    made.close()


class Use(Task):
    """Keeps what it was given to itself, and fails if it is told to."""

    def __init__(self, name: str = "use", fail: str = "", **declared: Any) -> None:
        super().__init__(name, **declared)
        self.fail = fail
        self.seen: list[Any] = []

    def execute(self, token: Any) -> int:
        self.seen.append(token)
        if self.fail:
            raise RuntimeError(self.fail.format(token=token))
        return len(token)


def stored_text(connection: Connection, flow_uuid: str) -> str:
    """Everything that the store has of a flow."""
    detail = connection.get_flow_details(flow_uuid)
    records = [detail.to_record(), *(atom.to_record() for atom in detail)]
    return json.dumps(records, ensure_ascii=False, default=str)


def shows(text: str, secret: str = TOKEN) -> bool:
    forms = (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret), "hunter2")
    return any(form in text for form in forms)


def run_and_fail(engine: Engine) -> BaseException:
    try:
        engine.run()
    except Exception as error:
        return error
    raise AssertionError("the flow was to fail")


# -- the wrapping -----------------------------------------------------------------------------------------------------


def test_a_secret_shows_nothing_of_its_value() -> None:
    secret = Secret(TOKEN)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", repr({"token": [secret]})):
        assert not shows(text)
        assert "Secret(***)" in text
    assert secret.reveal() == TOKEN
    assert Secret(secret).reveal() == TOKEN


def test_secrets_are_equal_if_their_values_are() -> None:
    assert Secret("a") == Secret("a", stored=True)
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret.empty() != Secret.empty()


def test_a_pickle_and_a_copy_of_a_secret() -> None:
    secret = Secret(TOKEN)
    assert copy.deepcopy({"token": secret})["token"] is secret
    assert copy.copy(secret) is secret
    assert pickle.loads(pickle.dumps(secret)).is_empty
    assert pickle.loads(pickle.dumps(Secret(TOKEN, stored=True))) == secret
    with pytest.raises(NotFound, match="given again"):
        Secret.empty().reveal()


def test_the_codec_refuses_a_secret_that_is_not_to_be_stored_and_says_where_it_is() -> None:
    with pytest.raises(EncodingError, match=r"\$\['config'\]\['token'\] is a .*Secret.*stored=True") as raised:
        codec.dumps({"config": {"token": Secret(TOKEN)}})
    assert not shows(str(raised.value))
    back = codec.loads(codec.dumps({"token": Secret(TOKEN, stored=True)}))
    assert back["token"] == Secret(TOKEN)
    assert back["token"].stored
    assert codec.loads(codec.dumps(Secret.empty())).is_empty


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        repr(TOKEN),
        json.dumps({"a": TOKEN}),
        json.dumps(TOKEN, ensure_ascii=False),
        f"https://x/?q={quote(TOKEN, safe='')}",
        str(TOKEN.encode()),
        repr(f'next to "{TOKEN}"'),
        "the line hunter2-ünd alone",
    ],
)
def test_masks_know_the_ways_in_which_a_text_is_written(text: str) -> None:
    masks = Masks()
    masks.learn(Secret(TOKEN))
    assert masks.hit(text)
    assert not shows(masks.apply(text))


def test_all_texts_in_a_structure_are_masked() -> None:
    class Credentials:
        __slots__ = ("password",)

        def __init__(self) -> None:
            self.password = "of-slots"

    masks = Masks()
    value = {"user": ["alice", ("bob",), {"carol"}], "port": 80, "pin": 123456, "raw": b"\x00key", "own": Credentials()}
    masks.learn(Secret(value))
    for text in ("alice", "bob", "carol", "123456", repr(b"\x00key"), "of-slots"):
        assert masks.hit(text), text
    assert not masks.hit("port 80, user, pin")


def test_a_number_and_the_longest_of_overlapping_secrets_are_masked() -> None:
    masks = Masks()
    for value in (42, "abc", "abcdef", "", None, True):
        masks.learn(Secret(value))
    assert masks.apply("42 abcdef abc ") == "*** *** *** "
    assert Masks().apply("abc") == "abc"


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_task_is_given_what_is_inside_and_the_store_nothing_of_it(connection: Connection) -> None:
    use = Use(provides="size")
    engine = api.load(connection, linear_flow.Flow("flow").add(use), store={"token": Secret(TOKEN), "plain": 1})
    engine.run()
    assert use.seen == [TOKEN]
    assert engine.storage.fetch("size") == len(TOKEN)
    assert not shows(stored_text(connection, engine.storage.flow_uuid))
    assert not shows(repr(engine.storage.fetch_all()))
    assert engine.storage.fetch("token") == Secret(TOKEN)
    assert connection.get_flow_details(engine.storage.flow_uuid).state == states.SUCCESS


@pytest.mark.parametrize("transient", [True, False])
def test_a_secret_may_be_injected_into_one_task(connection: Connection, transient: bool) -> None:
    use = Use(inject={"token": Secret(TOKEN)})
    engine = api.load(connection, linear_flow.Flow("flow").add(use), inject_transient=transient)
    engine.run()
    assert use.seen == [TOKEN]
    assert not shows(stored_text(connection, engine.storage.flow_uuid))


def test_a_run_without_a_store_reveals_to_tasks_alone() -> None:
    use = Use(provides="size")
    results = api.run(None, linear_flow.Flow("flow").add(use), store={"token": Secret(TOKEN)})
    assert use.seen == [TOKEN]
    assert not shows(repr(results))


def test_retries_and_reverts_are_given_what_is_inside() -> None:
    seen: list[Any] = []

    class Again(Times):
        def execute(self, history: Any, token: Any) -> int:
            seen.append(("retry", token))
            return 1

    class Undo(Task):
        def execute(self, token: Any) -> None:
            raise RuntimeError("no")

        def revert(self, token: Any, flow_failures: Any) -> None:
            seen.append(("revert", token))

    engine = api.load(None, linear_flow.Flow("flow", Again(1)).add(Undo()), store={"token": Secret("abc")})
    run_and_fail(engine)
    assert seen == [("retry", "abc"), ("revert", "abc")]


# -- resuming ---------------------------------------------------------------------------------------------------------


def suspended(connection: Connection, store: dict[str, Any], use: Use) -> str:
    """The uuid of a flow that was suspended before the task that uses the secret."""
    engine = api.load(connection, flow_of(use), store=store)
    engine.atom_notifier.register(states.SUCCESS, lambda *_: engine.suspend())
    engine.run()
    assert engine.storage.get_flow_state() == states.SUSPENDED
    return engine.storage.flow_uuid


def flow_of(use: Use) -> Flow:
    return linear_flow.Flow("flow").add(FunctorTask(lambda: None, name="first"), use)


def test_a_resumed_flow_must_be_given_its_secret_again(connection: Connection) -> None:
    uuid = suspended(connection, {"token": Secret(TOKEN)}, Use())
    use = Use()
    engine = api.load(connection, flow_of(use), connection.get_flow_details(uuid))
    with pytest.raises(MissingSecrets, match=r"flow 'flow' needs 1 secret.*'token': Secret\(\.\.\.\)") as raised:
        engine.run()
    assert raised.value.names == ("token",)
    assert connection.get_flow_details(uuid).state == states.SUSPENDED
    assert connection.get_flow_details(uuid).token is None, "the lease was given up"
    api.load(connection, flow_of(use), connection.get_flow_details(uuid), store={"token": Secret("other")}).run()
    assert use.seen == ["other"]
    assert not shows(stored_text(connection, uuid), "other")


def test_what_was_secret_stays_secret_when_it_is_given_again_without_a_mark(connection: Connection) -> None:
    uuid = suspended(connection, {"token": Secret(TOKEN)}, Use())
    use = Use()
    engine = api.load(connection, flow_of(use), connection.get_flow_details(uuid), store={"token": TOKEN})
    engine.run()
    assert use.seen == [TOKEN]
    assert not shows(stored_text(connection, uuid))
    assert not shows(repr(engine.storage.fetch_all()))


def test_a_secret_that_may_be_stored_need_not_be_given_again(connection: Connection) -> None:
    uuid = suspended(connection, {"token": Secret(TOKEN, stored=True)}, Use())
    use = Use()
    engine = api.load(connection, flow_of(use), connection.get_flow_details(uuid))
    engine.run()
    assert use.seen == [TOKEN]
    assert not shows(repr(engine.storage.fetch_all()))
    other = api.load(
        connection, flow_of(use), connection.get_flow_details(uuid), store={"token": Secret("x", stored=True)}
    )
    with pytest.raises(FlowMismatch, match="the stored value of 'token'") as raised:
        other.prepare()
    assert not shows(str(raised.value))


def test_a_secret_of_one_task_must_be_injected_again(connection: Connection) -> None:
    flow = linear_flow.Flow("flow").add(FunctorTask(lambda: None, name="first"), Use(inject={"token": Secret(TOKEN)}))
    engine = api.load(connection, flow, inject_transient=False)
    engine.atom_notifier.register(states.SUCCESS, lambda *_: engine.suspend())
    engine.run()
    uuid = engine.storage.flow_uuid
    bare = api.load(connection, flow_of(Use()), connection.get_flow_details(uuid))
    with pytest.raises(MissingSecrets, match="token"):
        bare.run()
    use = Use(inject={"token": Secret(TOKEN)})
    api.load(connection, flow_of(use), connection.get_flow_details(uuid), inject_transient=False).run()
    assert use.seen == [TOKEN]


def test_an_engine_that_runs_twice_keeps_its_secrets(connection: Connection) -> None:
    use = Use(fail="broken")
    engine = api.load(connection, flow_of(use), store={"token": Secret(TOKEN)})
    run_and_fail(engine)
    use.fail = ""
    engine.run()
    assert use.seen == [TOKEN, TOKEN]


def test_a_secret_may_be_injected_through_the_storage(connection: Connection) -> None:
    use = Use()
    engine = api.load(connection, linear_flow.Flow("flow").add(use))
    engine.storage.inject({"token": Secret("first")})
    engine.storage.inject({"token": Secret(TOKEN)})
    engine.run()
    assert use.seen == [TOKEN]
    assert not shows(stored_text(connection, engine.storage.flow_uuid))


def test_a_result_that_could_not_be_resumed_from_is_refused(connection: Connection) -> None:
    make = FunctorTask(lambda: Secret(TOKEN), name="make", provides="token")
    error = run_and_fail(api.load(connection, linear_flow.Flow("flow").add(make)))
    assert isinstance(error, EncodingError)
    assert "stored=True" in str(error)
    use = Use()
    make = FunctorTask(lambda: Secret(TOKEN, stored=True), name="make", provides="token")
    engine = api.load(connection, linear_flow.Flow("flow").add(make, use))
    engine.run()
    assert use.seen == [TOKEN]
    assert not shows(repr(engine.storage.fetch_all()))


# -- failures ---------------------------------------------------------------------------------------------------------


class Noted(Exception):
    """Shows what it was told in another place than its message."""

    def __init__(self, told: Any) -> None:
        super().__init__("refused", told)

    def __str__(self) -> str:
        return "refused"


class Hidden:
    """An argument whose repr shows nothing."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __repr__(self) -> str:
        return "Hidden()"


codec.register(Hidden, "test_secrets.Hidden", vars, lambda content: Hidden(**content))


def raise_plainly(token: str) -> None:
    raise RuntimeError(f"login with {token} was refused")


def raise_in_arguments(token: str) -> None:
    raise Noted({"token": token})


def raise_hidden_in_arguments(token: str) -> None:
    raise Noted(Hidden(token))


def raise_with_a_cause(token: str) -> None:
    try:
        raise_plainly(token)
    except RuntimeError as error:
        raise ValueError("refused") from error


def raise_in_a_context_far_away(token: str) -> None:
    error: Exception = RuntimeError(token)
    for number in range(30):
        outer = RuntimeError(str(number))
        outer.__context__ = error
        error = outer
    raise error


def raise_a_long_message(token: str) -> None:
    raise RuntimeError("x" * 8190 + token + "x" * 20_000)


def raise_as_a_key(token: str) -> None:
    raise KeyError(token)


RAISING = [
    raise_plainly,
    raise_in_arguments,
    raise_hidden_in_arguments,
    raise_with_a_cause,
    raise_in_a_context_far_away,
    raise_a_long_message,
    raise_as_a_key,
]


@pytest.mark.parametrize("raising", RAISING)
def test_a_failure_shows_no_secret(raising: Any, connection: Connection) -> None:
    flow = linear_flow.Flow("flow").add(FunctorTask(raising, name="raising"))
    engine = api.load(connection, flow, store={"token": Secret(TOKEN)})
    heard: list[Any] = []
    engine.atom_notifier.register(states.FAILURE, lambda _state, details: heard.append(details["result"]))
    error = run_and_fail(engine)
    assert isinstance(error, ExecutionFailure)
    (failure,) = heard
    for each in (failure, *failure.causes, engine.storage.get_execute_failures()["raising"]):
        shown = (each.pformat(True), repr(each), json.dumps(each.to_dict(), default=repr), codec.dumps(each))
        assert not any(shows(text) for text in shown)
    assert not shows("".join(traceback.format_exception(error)))
    assert not shows(repr(error.args))
    assert not shows(stored_text(connection, engine.storage.flow_uuid))
    assert failure.exc_type_names[0].rpartition(".")[2] in ("RuntimeError", "Noted", "ValueError", "KeyError")


def test_a_failure_that_shows_no_secret_is_raised_as_it_was() -> None:
    engine = api.load(None, linear_flow.Flow("flow").add(Use(fail="broken")), store={"token": Secret(TOKEN)})
    error = run_and_fail(engine)
    assert type(error) is RuntimeError
    assert str(error) == "broken"


def test_a_masked_failure_can_still_be_told_by_its_class() -> None:
    engine = api.load(None, linear_flow.Flow("flow").add(Use(fail="no {token}")), store={"token": Secret(TOKEN)})
    error = run_and_fail(engine)
    assert isinstance(error, WrappedFailure)
    assert error.check(RuntimeError) is RuntimeError
    assert str(error) == "WrappedFailure: [Failure: RuntimeError: no ***]"


@pytest.mark.parametrize("fail_in", ["on_failure", "revert", "decider", "history"])
def test_failures_of_retries_reverts_and_deciders_show_no_secret(fail_in: str, connection: Connection) -> None:
    known: list[str] = []

    class Asks(Times):
        def on_failure(self, history: Any, token: str) -> Any:
            if fail_in == "on_failure":
                raise RuntimeError(token)
            return super().on_failure(history)

    class Undo(Task):
        def execute(self, token: str) -> None:
            known.append(token)

        def revert(self, token: str, **kwargs: Any) -> None:
            if fail_in == "revert":
                raise RuntimeError(token)

    def decider(history: Any) -> bool:
        if fail_in == "decider":
            raise RuntimeError(known[0])
        return True

    flow = graph_flow.Flow("flow", Asks(2))
    undo, use = Undo("undo"), Use(fail="no {token}")
    flow.add(undo, use)
    flow.link(undo, use, decider=decider)
    engine = api.load(connection, flow, store={"token": Secret(TOKEN)})
    error = run_and_fail(engine)
    assert not shows("".join(traceback.format_exception(error)))
    assert not shows(stored_text(connection, engine.storage.flow_uuid))
    assert not shows(repr(engine.storage.get_execute_failures()) + repr(engine.storage.get_revert_failures()))


def test_a_failure_made_from_data_is_masked_with_its_causes() -> None:
    masks = Masks()
    masks.learn(Secret(TOKEN))
    cause = Failure(exception_str=TOKEN, traceback_str=TOKEN, exc_type_names=["Exception"])
    failure = Failure(exception_str="outer", exc_type_names=["Exception"], exc_args=[1, TOKEN], causes=[cause])
    masked = failure.masked(masks)
    assert masked.exception_args == (1, "***")
    assert (masked.causes[0].exception_str, masked.causes[0].traceback_str) == ("***", "***")
    assert masked.masked(masks) is masked


def test_work_for_an_executor_does_not_show_its_arguments() -> None:
    assert not shows(repr(Work(0, Use(), False, {"token": TOKEN}, "key")))


FLOW_FILE = """
from pluggableflow.patterns import linear_flow
from pluggableflow.secret import Secret
from pluggableflow.task import FunctorTask

def broken(token):
    raise RuntimeError("login with " + token)

def create_flow():
    return linear_flow.Flow("flow").add(FunctorTask(broken, name="broken", inject={"token": Secret("hunter2-x")}))
"""


def test_the_command_line_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW_FILE)
    url = f"sqlite:///{tmp_path}/flows.db"

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pluggableflow", *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    shown = command("run", "--connection", url, "flow.py") + command("run", "--connection", url, "--json", "flow.py")
    with contextlib.closing(api.connect(url)) as connection:
        uuids = [detail.uuid for detail in connection.find_flows()]
        assert not any(shows(stored_text(connection, uuid)) for uuid in uuids)
    for uuid in uuids:
        shown += command("show", "--connection", url, uuid) + command("show", "--connection", url, "--json", uuid)
    assert shown.count("RuntimeError: login with ***") >= 6
    assert "hunter2" not in shown
