# SPDX-License-Identifier: Apache-2.0
"""Who is told of which event, in which order, and what a callback that fails does to the others: nothing."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pluggableflow import api, task
from pluggableflow.notifier import Notifier, RestrictedNotifier
from pluggableflow.patterns import linear_flow

Heard = list[tuple[Any, ...]]


def listener(heard: Heard, name: str) -> Callable[..., None]:
    """A callback that notes its name, the event and the details."""

    def note(event: str, details: Mapping[str, Any]) -> None:
        heard.append((name, event, dict(details)))

    return note


def names(heard: Heard) -> list[str]:
    return [each[0] for each in heard]


def test_callbacks_are_called_in_the_order_in_which_they_were_registered() -> None:
    heard: Heard = []
    notifier = Notifier()
    for name in ("c", "a", "b"):
        notifier.register("done", listener(heard, name))
    notifier.notify("done", {"k": 1})
    assert heard == [("c", "done", {"k": 1}), ("a", "done", {"k": 1}), ("b", "done", {"k": 1})]


def test_only_callbacks_of_that_event_type_and_of_any_are_told() -> None:
    heard: Heard = []
    notifier = Notifier()
    notifier.register("done", listener(heard, "done"))
    notifier.register("begun", listener(heard, "begun"))
    notifier.register(Notifier.ANY, listener(heard, "any"))
    notifier.notify("done")
    assert sorted(heard) == [("any", "done", {}), ("done", "done", {})]
    heard.clear()
    notifier.notify("unheard of", {"k": 1})
    assert heard == [("any", "unheard of", {"k": 1})]


def test_any_is_no_event_that_can_be_told_of() -> None:
    heard: Heard = []
    notifier = Notifier()
    notifier.register(Notifier.ANY, listener(heard, "any"))
    notifier.notify(Notifier.ANY, {"k": 1})
    assert heard == []
    assert notifier.can_trigger_notification("done") is True
    assert notifier.can_trigger_notification(Notifier.ANY) is False


def test_a_callback_is_given_its_own_arguments_between_event_and_details() -> None:
    heard: Heard = []
    notifier = Notifier()
    notifier.register("done", lambda *args, **kwargs: heard.append((args, kwargs)), args=(1, 2), kwargs={"k": 3})
    notifier.notify("done", {"d": 4})
    assert heard == [(("done", 1, 2, {"d": 4}), {"k": 3})]


def test_a_filter_decides_by_the_details_whether_its_callback_is_called() -> None:
    heard: Heard = []
    notifier = Notifier()
    notifier.register("done", listener(heard, "large"), details_filter=lambda details: details["size"] > 10)
    notifier.register("done", listener(heard, "every"))
    notifier.notify("done", {"size": 1})
    assert names(heard) == ["every"]
    notifier.notify("done", {"size": 11})
    assert names(heard) == ["every", "large", "every"]


def test_a_filter_that_raises_counts_as_a_callback_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    heard: Heard = []
    notifier = Notifier()
    notifier.register("done", listener(heard, "filtered"), details_filter=lambda details: details["absent"])
    notifier.register("done", listener(heard, "other"))
    notifier.notify("done")
    assert names(heard) == ["other"]
    assert "KeyError: 'absent'" in caplog.text


def test_a_callback_that_raises_is_logged_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    def raising(event: str, details: Mapping[str, Any]) -> None:
        raise RuntimeError("the callback broke")

    heard: Heard = []
    notifier = Notifier()
    notifier.register("done", listener(heard, "before"))
    notifier.register("done", raising)
    notifier.register("done", listener(heard, "after"))
    notifier.notify("done", {"k": 1})
    notifier.notify("done", {"k": 2})
    assert names(heard) == ["before", "after", "before", "after"]
    records = [record for record in caplog.records if record.name == "pluggableflow.notifier"]
    assert [record.levelname for record in records] == ["WARNING", "WARNING"]
    assert "raising" in records[0].getMessage()
    assert "RuntimeError: the callback broke" in caplog.text


def test_callbacks_that_raise_do_not_disturb_a_run(caplog: pytest.LogCaptureFixture) -> None:
    def raising(event: str, details: Mapping[str, Any]) -> None:
        raise RuntimeError("the callback broke")

    class Slow(task.Task):
        default_provides = "answer"

        def execute(self) -> int:
            self.update_progress(0.5)
            return 42

    atom = Slow()
    atom.notifier.register("update_progress", raising)
    engine = api.load(None, linear_flow.Flow("flow").add(atom))
    engine.notifier.register("*", raising)
    engine.atom_notifier.register("*", raising)
    engine.run()
    assert engine.storage.fetch_all() == {"answer": 42}
    assert caplog.text.count("RuntimeError: the callback broke") >= 3


def test_details_are_a_copy_that_leaves_those_of_the_caller_alone() -> None:
    notifier = Notifier()
    notifier.register("done", lambda event, details: details.clear())
    details = {"k": 1}
    notifier.notify("done", details)
    assert details == {"k": 1}


def test_the_same_callback_and_filter_cannot_be_registered_twice_for_an_event() -> None:
    heard: Heard = []
    note = listener(heard, "note")

    def every(details: Mapping[str, Any]) -> bool:
        return True

    notifier = Notifier()
    notifier.register("done", note)
    with pytest.raises(ValueError, match="registered for 'done' already"):
        notifier.register("done", note)
    notifier.register("begun", note)
    notifier.register("done", note, details_filter=every)
    with pytest.raises(ValueError, match="already"):
        notifier.register("done", note, details_filter=every)
    assert len(notifier) == 3
    notifier.notify("done")
    assert names(heard) == ["note", "note"]


@pytest.mark.parametrize("declared", [{"callback": 5}, {"callback": len, "details_filter": 5}])
def test_what_cannot_be_called_cannot_be_registered(declared: Any) -> None:
    notifier = Notifier()
    with pytest.raises(ValueError, match="must be callable"):
        notifier.register("done", **declared)
    assert not notifier


def test_deregister_stops_one_callback_and_says_whether_there_was_one() -> None:
    heard: Heard = []
    one, other = listener(heard, "one"), listener(heard, "other")
    notifier = Notifier()
    notifier.register("done", one)
    notifier.register("done", other)
    assert notifier.deregister("done", one) is True
    assert notifier.deregister("done", one) is False
    assert notifier.deregister("begun", other) is False
    assert (notifier.is_registered("done", one), notifier.is_registered("done", other)) == (False, True)
    notifier.notify("done")
    assert names(heard) == ["other"]


def test_deregister_tells_filters_apart() -> None:
    heard: Heard = []
    note = listener(heard, "note")

    def never(details: Mapping[str, Any]) -> bool:
        return False

    notifier = Notifier()
    notifier.register("done", note, details_filter=never)
    assert notifier.is_registered("done", note) is False
    assert notifier.deregister("done", note) is False
    assert notifier.deregister("done", note, details_filter=never) is True
    assert not notifier


def test_bound_methods_are_found_again_when_they_are_deregistered() -> None:
    class Ears:
        def hear(self, event: str, details: Mapping[str, Any]) -> None: ...

    ears = Ears()
    notifier = Notifier()
    notifier.register("done", ears.hear)
    assert notifier.is_registered("done", ears.hear)
    assert not notifier.is_registered("done", Ears().hear)
    assert notifier.deregister("done", ears.hear) is True


def test_deregister_event_and_reset_stop_several() -> None:
    heard: Heard = []
    notifier = Notifier()
    for name in ("a", "b"):
        notifier.register("done", listener(heard, name))
        notifier.register("begun", listener(heard, name))
    assert notifier.deregister_event("done") == 2
    assert notifier.deregister_event("done") == 0
    assert len(notifier) == 2
    notifier.reset()
    assert (len(notifier), bool(notifier)) == (0, False)
    notifier.notify("done")
    notifier.notify("begun")
    assert heard == []


def test_a_callback_may_deregister_itself_while_it_is_called() -> None:
    heard: Heard = []
    notifier = Notifier()

    def once(event: str, details: Mapping[str, Any]) -> None:
        heard.append(("once",))
        notifier.deregister("done", once)

    notifier.register("done", once)
    notifier.register("done", listener(heard, "always"))
    notifier.notify("done")
    notifier.notify("done")
    assert names(heard) == ["once", "always", "always"]


def test_listeners_iter_lists_the_callbacks_of_each_event() -> None:
    one, other = listener([], "one"), listener([], "other")
    notifier = Notifier()
    notifier.register("done", one)
    notifier.register("done", other)
    notifier.register(Notifier.ANY, one)
    assert dict(notifier.listeners_iter()) == {"done": [one, other], Notifier.ANY: [one]}


def test_a_copy_goes_its_own_way() -> None:
    heard: Heard = []
    notifier = RestrictedNotifier(["done", "begun"], allow_any=False)
    notifier.register("done", listener(heard, "shared"))
    clone = notifier.copy()
    clone.register("done", listener(heard, "of the copy"))
    notifier.notify("done")
    assert names(heard) == ["shared"]
    clone.notify("done")
    assert names(heard) == ["shared", "shared", "of the copy"]
    assert isinstance(clone, RestrictedNotifier)
    assert not clone.can_be_registered("other")


def test_a_restricted_notifier_takes_callbacks_for_its_events_alone() -> None:
    heard: Heard = []
    notifier = RestrictedNotifier(["done"])
    with pytest.raises(ValueError, match="nothing can be registered for 'begun'"):
        notifier.register("begun", listener(heard, "begun"))
    notifier.register("done", listener(heard, "done"))
    notifier.notify("done")
    assert names(heard) == ["done"]


@pytest.mark.parametrize("allow_any", [True, False])
def test_a_restricted_notifier_may_refuse_callbacks_for_any_event(allow_any: bool) -> None:
    heard: Heard = []
    notifier = RestrictedNotifier(["done"], allow_any=allow_any)
    assert notifier.can_be_registered(Notifier.ANY) is allow_any
    if allow_any:
        notifier.register(Notifier.ANY, listener(heard, "any"))
        notifier.notify("done")
        assert names(heard) == ["any"]
    else:
        with pytest.raises(ValueError, match="nothing can be registered"):
            notifier.register(Notifier.ANY, listener(heard, "any"))


def test_the_notifier_of_a_task_is_restricted_to_its_events() -> None:
    class Plain(task.Task):
        def execute(self) -> None: ...

    assert Plain().notifier.can_be_registered("update_progress")
    assert not Plain().notifier.can_be_registered("anything else")


def test_callbacks_for_any_event_are_called_in_their_turn() -> None:
    heard: Heard = []
    notifier = Notifier()
    notifier.register(Notifier.ANY, listener(heard, "first"))
    notifier.register("done", listener(heard, "second"))
    notifier.register(Notifier.ANY, listener(heard, "third"))
    notifier.notify("done")
    assert names(heard) == ["first", "second", "third"]


def test_a_restricted_notifier_tells_nobody_of_an_event_that_is_not_its_own() -> None:
    heard: Heard = []
    notifier = RestrictedNotifier(["done"])
    notifier.register(Notifier.ANY, listener(heard, "any"))
    notifier.notify("unwatched")
    notifier.notify(Notifier.ANY)
    assert heard == []
    assert not notifier.can_trigger_notification("unwatched")
    notifier.notify("done")
    assert names(heard) == ["any"]


def test_an_argument_cannot_be_named_as_the_details_are() -> None:
    notifier = Notifier()
    with pytest.raises(KeyError, match="details"):
        notifier.register("done", print, kwargs={"details": 5})
    assert not notifier


def test_a_callback_that_fails_does_not_put_results_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def raising(event: str, details: Mapping[str, Any]) -> None:
        raise RuntimeError("the callback broke")

    notifier = Notifier()
    notifier.register("done", raising)
    notifier.notify("done", {"result": "hunter2"})
    assert "the callback broke" in caplog.text
    assert "hunter2" not in caplog.text


def test_callbacks_registered_by_many_threads_are_all_kept() -> None:
    notifier = Notifier()
    callbacks = [listener([], str(number)) for number in range(400)]

    def register(part: int) -> None:
        for each in callbacks[part::4]:
            notifier.register("done", each)

    threads = [threading.Thread(target=register, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(notifier) == 400


def test_a_notifier_can_be_pickled() -> None:
    notifier = RestrictedNotifier(["done"])
    notifier.register("done", print)
    clone = pickle.loads(pickle.dumps(notifier))
    assert clone.is_registered("done", print)
    clone.deregister("done", print)
    assert (len(notifier), len(clone)) == (1, 0)
