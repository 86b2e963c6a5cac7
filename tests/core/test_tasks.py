# SPDX-License-Identifier: Apache-2.0
"""What tasks take and provide, proven by running them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest

from pluggableflow import api, task
from pluggableflow.exceptions import DefinitionError, MissingDependencies
from pluggableflow.failure import Failure
from pluggableflow.patterns import linear_flow


def run(*tasks: task.Task, **store: Any) -> dict[str, Any]:
    return api.run(None, linear_flow.Flow("flow").add(*tasks), store=store)


class Give(task.Task):
    """Returns its value."""

    def __init__(self, value: Any, **declared: Any) -> None:
        super().__init__(**declared)
        self.value = value

    def execute(self) -> Any:
        return self.value


class Add(task.Task):
    default_provides = "sum"

    def execute(self, a: int, b: int = 10) -> int:
        return a + b


class Everything(task.Task):
    """Provides all that it is given."""

    default_provides = "seen"

    def execute(self, **kwargs: Any) -> dict[str, Any]:
        return kwargs


class Undone(task.Task):
    """Notes what its revert is given."""

    def __init__(self, seen: dict[str, Any], **declared: Any) -> None:
        super().__init__(**declared)
        self.seen = seen

    def execute(self, a: int) -> int:
        return a + 1

    def revert(self, a: int, result: Any, flow_failures: dict[str, Failure]) -> None:
        self.seen.update(a=a, result=result, flow_failures=flow_failures)


class Fail(task.Task):
    def execute(self) -> None:
        raise RuntimeError("as told")


@pytest.mark.parametrize(
    ("provides", "value", "expected"),
    [
        ("whole", [1, 2], {"whole": [1, 2]}),
        (("first", "second"), [1, 2], {"first": 1, "second": 2}),
        (["first", "second"], (1, 2), {"first": 1, "second": 2}),
        (("first",), [1, 2], {"first": 1}),
        ({"x", "y"}, {"x": 1, "y": 2, "z": 3}, {"x": 1, "y": 2}),
        (frozenset({"x"}), {"x": 1}, {"x": 1}),
        (None, 5, {}),
    ],
)
def test_provides_names_the_result_or_its_parts(provides: Any, value: Any, expected: dict[str, Any]) -> None:
    atom = Give(value, provides=provides)
    assert atom.provides == expected.keys()
    assert run(atom) == expected


def test_provides_overrides_the_default_of_the_class() -> None:
    assert run(Add(), a=1)["sum"] == 11
    assert "sum" not in run(Add(provides="total"), a=1)


@pytest.mark.parametrize("provides", [5, {"a": 1}, ["a", 5], {"a", 5}, "", ("a", ""), "n\0", "x" * 256])
def test_provides_of_no_known_shape_is_refused_and_the_error_names_the_task(provides: Any) -> None:
    with pytest.raises(DefinitionError, match="the giver"):
        Give(1, name="the giver", provides=provides)


@pytest.mark.parametrize("provides", [["a", "b", "a"], ("b", "a", "a")])
def test_a_name_that_is_provided_twice_is_refused_and_the_error_names_it_and_the_task(provides: Any) -> None:
    with pytest.raises(DefinitionError, match="provides has 'a' twice.*Give 'the giver'"):
        Give([1, 2, 3], name="the giver", provides=provides)


def test_requires_adds_inputs_to_a_task_that_takes_any() -> None:
    assert run(Everything(requires=["x", "y"]), x=1, y=2, z=3)["seen"] == {"x": 1, "y": 2}
    assert run(Everything(requires="x"), x=1, y=2)["seen"] == {"x": 1}
    assert Everything(requires={"x", "y"}).requires == {"x", "y"}


def test_without_requires_a_task_that_takes_any_is_given_nothing() -> None:
    assert run(Everything(), x=1)["seen"] == {}


def test_an_input_that_nothing_provides_is_refused_before_anything_runs() -> None:
    with pytest.raises(MissingDependencies, match="'?a'?") as caught:
        run(Add(name="adder"))
    assert [(each.atom) for each in caught.value.missing] == ["adder"]


def test_an_optional_input_is_taken_if_it_is_there_and_has_its_default_otherwise() -> None:
    assert (Add().requires, Add().optional) == ({"a"}, {"b"})
    assert run(Add(), a=1)["sum"] == 11
    assert run(Add(), a=1, b=2)["sum"] == 3
    assert run(Give(5, provides="b"), Add(), a=1)["sum"] == 6


def test_keyword_only_parameters_are_inputs_as_well() -> None:
    def join(*, left: str, right: str = "r") -> str:
        return left + right

    made = task.FunctorTask(join, provides="joined")
    assert (made.requires, made.optional) == ({"left"}, {"right"})
    assert run(made, left="l")["joined"] == "lr"


@pytest.mark.parametrize(
    ("rebind", "expected"),
    [
        ({"a": "x"}, 11),
        (["x"], 11),
        (("x",), 11),
        ({"a": "x", "b": "y"}, 3),
    ],
)
def test_rebind_looks_parameters_up_under_other_names(rebind: Any, expected: int) -> None:
    atom = Add(rebind=rebind)
    assert "a" not in atom.requires
    assert atom.rebind["a"] == "x"
    assert run(atom, x=1, y=2)["sum"] == expected


def test_rebind_as_a_list_follows_the_order_of_the_parameters() -> None:
    minus = task.FunctorTask(lambda a, b: a - b, name="minus", provides="difference", rebind=["y", "x"])
    assert run(minus, x=1, y=5)["difference"] == 4


def test_rebind_names_beyond_the_parameters_go_to_a_task_that_takes_any() -> None:
    def gather(a: int, **others: int) -> dict[str, int]:
        return {"a": a, **others}

    made = task.FunctorTask(gather, provides="all", rebind=["x", "y"])
    assert run(made, x=1, y=2)["all"] == {"a": 1, "y": 2}


def test_two_parameters_can_be_bound_to_one_name() -> None:
    assert run(Add(rebind={"a": "x", "b": "x"}), x=4)["sum"] == 8


def test_injected_values_are_for_one_task_alone_and_need_no_provider() -> None:
    one, other = Add("one", inject={"a": 100}), Add("other", provides="other sum")
    assert one.requires == frozenset()
    results = run(one, other, a=1, b=1)
    assert (results["sum"], results["other sum"]) == (101, 2)


def test_an_injected_value_stands_for_the_name_that_a_parameter_is_bound_to() -> None:
    assert run(Add(rebind={"a": "x"}, inject={"x": 7}))["sum"] == 17


def test_an_injected_optional_input_replaces_the_default() -> None:
    assert run(Add(inject={"b": 0}), a=1)["sum"] == 1


def test_without_auto_extract_only_what_is_declared_is_an_input() -> None:
    atom = Add(auto_extract=False, requires="a")
    assert (atom.requires, atom.optional) == ({"a"}, frozenset())
    assert run(atom, a=1, b=2)["sum"] == 11


def test_without_auto_extract_a_parameter_that_is_not_declared_is_refused() -> None:
    with pytest.raises(DefinitionError, match="'a'.*Add 'adder'"):
        Add("adder", auto_extract=False)


def test_an_ignored_parameter_is_no_input() -> None:
    atom = Add(ignore_list=["b"])
    assert atom.optional == frozenset()
    assert run(atom, a=1, b=2)["sum"] == 11


@pytest.mark.parametrize(
    ("declared", "argument"),
    [
        ({"requires": ["c"]}, "'c'"),
        ({"rebind": {"c": "x"}}, "'c'"),
        ({"rebind": "a"}, "'a'"),
        ({"rebind": 5}, "5"),
        ({"rebind": {"a": 5}}, "5"),
        ({"rebind": [5]}, "5"),
        ({"requires": 5}, "5"),
        ({"requires": ["a", 5]}, "5"),
        ({"ignore_list": 5}, "5"),
        ({"inject": ["a"]}, "'a'"),
        ({"revert_rebind": 5}, "5"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_error_names_task_and_argument(declared: Any, argument: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        Add("adder", **declared)
    assert "'adder'" in str(caught.value)
    assert argument in str(caught.value)


@pytest.mark.parametrize("name", ["", 5, "n\0", "\ud800", "x" * 256])
def test_names_that_cannot_be_stored_are_refused(name: Any) -> None:
    with pytest.raises(DefinitionError, match="a name must"):
        Add(name)


def test_positional_only_parameters_are_refused_because_inputs_are_passed_by_name() -> None:
    def twice(a: int, /) -> int:
        return 2 * a

    with pytest.raises(DefinitionError, match="twice has positional-only.*'doubler'"):
        task.FunctorTask(twice, name="doubler")


def test_a_callable_without_a_signature_is_refused_with_the_name_of_the_task() -> None:
    with pytest.raises(DefinitionError, match="signature.*'caller'"):
        task.FunctorTask(iter, name="caller")


def test_revert_gets_its_inputs_the_result_and_the_failures() -> None:
    seen: dict[str, Any] = {}
    with pytest.raises(RuntimeError, match="as told"):
        run(Undone(seen), Fail(), a=1)
    assert (seen["a"], seen["result"]) == (1, 2)
    assert seen["flow_failures"].keys() == {"Fail"}
    assert seen["flow_failures"]["Fail"].check(RuntimeError)


def test_the_reverted_task_gets_its_own_failure_as_result() -> None:
    seen: list[Any] = []

    def fail(a: int) -> None:
        raise KeyError(a)

    def undo(a: int, result: Any) -> None:
        seen.append((a, result))

    with pytest.raises(KeyError):
        run(task.FunctorTask(fail, revert=undo), a=3)
    [(a, result)] = seen
    assert a == 3
    assert isinstance(result, Failure)
    assert result.check(KeyError)


def test_rebind_holds_for_revert_as_well_unless_revert_rebind_differs() -> None:
    alike: dict[str, Any] = {}
    other: dict[str, Any] = {}
    with pytest.raises(RuntimeError):
        run(
            Undone(alike, name="alike", rebind={"a": "x"}),
            Undone(other, name="other", rebind={"a": "x"}, revert_rebind={"a": "y"}),
            Fail(),
            x=1,
            y=2,
        )
    assert (alike["a"], other["a"]) == (1, 2)


def test_revert_requires_adds_inputs_to_revert_alone() -> None:
    seen: dict[str, Any] = {}

    class Lopsided(task.Task):
        def execute(self, **kwargs: Any) -> None:
            seen["execute"] = kwargs

        def revert(self, **kwargs: Any) -> None:
            seen["revert"] = kwargs

    atom = Lopsided(requires="x", revert_requires="y")
    assert atom.requires == {"x", "y"}
    assert atom.revert_rebind == {"y": "y"}
    with pytest.raises(RuntimeError):
        run(atom, Fail(), x=1, y=2)
    assert seen["execute"] == {"x": 1}
    assert seen["revert"].keys() == {"y", "result", "flow_failures"}
    assert seen["revert"]["y"] == 2


def test_revert_is_given_only_what_it_takes() -> None:
    seen: list[str] = []

    class Forgetful(task.Task):
        def execute(self, a: int, b: int) -> None: ...

        def revert(self, b: int) -> None:
            seen.append(f"b is {b}")

    with pytest.raises(RuntimeError):
        run(Forgetful(requires=["a"]), Fail(), a=1, b=2)
    assert seen == ["b is 2"]


def test_an_optional_input_of_revert_is_told_apart() -> None:
    class Careful(task.Task):
        def execute(self) -> None: ...

        def revert(self, spare: int = 0) -> None: ...

    assert Careful().revert_optional == {"spare"}
    assert (Careful().requires, Careful().optional) == (set(), set())


@pytest.mark.parametrize(
    "declared", [{"provides": 5}, {"rebind": 5}, {"requires": 5}, {"inject": 5}, {"ignore_list": 5}], ids=str
)
def test_what_is_declared_with_a_wrong_type_is_a_type_error_too(declared: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(declared))) as raised:
        Add(**declared)
    assert isinstance(raised.value, DefinitionError)


def test_a_class_of_tasks_may_name_those_that_are_given_no_name() -> None:
    class Shouting(task.FunctorTask):
        @staticmethod
        def default_name(made_of: Any) -> str:
            return f"{made_of.__name__}!"

    assert (Shouting(print).name, Shouting(print, name="quiet").name) == ("print!", "quiet")


def test_a_functor_task_is_named_after_its_function_and_carries_its_version() -> None:
    def work(a: int) -> int:
        return a * 2

    made = task.FunctorTask(work, provides="doubled", version=(2, 5))
    assert made.name == work.__qualname__
    assert made.version == (2, 5)
    assert str(made) == f'"{work.__qualname__}==2.5"'
    assert run(made, a=4)["doubled"] == 8


def test_a_functor_task_is_made_of_bound_methods_and_callable_objects_too() -> None:
    class Scale:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, a: int) -> int:
            return a * 3

        def method(self, a: int) -> int:
            return a * 5

    results = run(
        task.FunctorTask(Scale(), name="object", provides="by object"),
        task.FunctorTask(Scale().method, name="method", provides="by method"),
        a=2,
    )
    assert (results["by object"], results["by method"]) == (6, 10)


def test_a_functor_task_without_revert_is_undone_in_silence() -> None:
    with pytest.raises(RuntimeError, match="as told"):
        run(task.FunctorTask(lambda a: a, name="keep"), Fail(), a=1)


@pytest.mark.parametrize("declared", [{"execute": 5}, {"execute": len, "revert": "no"}])
def test_a_functor_task_of_something_that_cannot_be_called_is_refused(declared: Any) -> None:
    with pytest.raises(DefinitionError, match="made of functions"):
        task.FunctorTask(**declared)


def test_a_map_functor_task_keeps_the_order_of_requires() -> None:
    made = task.MapFunctorTask(lambda x: x * 10, name="map", requires=["c", "a", "b"], provides="mapped")
    assert run(made, a=1, b=2, c=3)["mapped"] == [30, 10, 20]


def test_a_map_functor_task_takes_its_inputs_under_other_names() -> None:
    made = task.MapFunctorTask(str, requires=["a", "b"], rebind={"a": "x"}, provides=("first", "second"))
    assert made.name == "str"
    results = run(made, x=1, b=2)
    assert (results["first"], results["second"]) == ("1", "2")


def test_a_reduce_functor_task_folds_from_the_left_in_the_order_of_requires() -> None:
    made = task.ReduceFunctorTask(operator.sub, requires=["c", "a", "b"], provides="left over")
    assert run(made, a=1, b=2, c=10)["left over"] == 7


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: task.MapFunctorTask(lambda a, b: a, requires=["x"]), "1 argument"),
        (lambda: task.ReduceFunctorTask(lambda a, b, c: a, requires=["x", "y"]), "2 argument"),
        (lambda: task.ReduceFunctorTask(lambda a: a, requires=["x", "y"]), "2 argument"),
        (lambda: task.ReduceFunctorTask(lambda a, b: a, requires=["x"]), "at least 2"),
        (lambda: task.MapFunctorTask(lambda a: a, requires=[]), "at least 1"),
        (lambda: task.MapFunctorTask(5, requires=["x"]), "needs a function, not 5"),
        (lambda: task.MapFunctorTask(abs, requires=5), "MapFunctorTask 'abs': requires must be a name .* not 5"),
        (lambda: task.ReduceFunctorTask(max, requires=5), "ReduceFunctorTask 'max': requires must be a name .* not 5"),
        (lambda: task.ReduceFunctorTask(max, requires=["x", 5]), "'max': requires must be a name or several"),
    ],
)
def test_a_fold_of_the_wrong_function_or_of_wrong_inputs_is_refused(make: Callable[[], Any], fault: str) -> None:
    with pytest.raises(DefinitionError, match=fault):
        make()


@task.task
def bare(a: int) -> int:
    """Adds one."""
    return a + 1


@task.task(provides="size", rebind={"a": "x"})
def measure(a: int) -> int:
    return a * 2


def test_the_decorator_makes_a_function_a_maker_of_tasks() -> None:
    assert isinstance(bare(), task.FunctorTask)
    assert bare() is not bare()
    assert (bare().name, bare.__doc__, bare.function(1)) == ("bare", "Adds one.", 2)
    assert run(bare(provides="more"), a=1)["more"] == 2


def test_the_decorator_declares_and_each_call_may_declare_otherwise() -> None:
    results = run(measure(), measure(name="other", provides="other size", rebind=["y"]), x=1, y=2)
    assert (results["size"], results["other size"]) == (2, 4)


def test_the_default_name_is_the_qualified_name_of_the_class() -> None:
    class Inner(Add):
        pass

    assert Add().name == "Add"
    assert Inner().name == Inner.__qualname__ != "Inner"


def test_a_copy_has_listeners_of_its_own() -> None:
    heard: list[float] = []
    atom = Add()
    atom.notifier.register("update_progress", lambda event, details: heard.append(details["progress"]))
    with_listeners, without = atom.copy(), atom.copy(retain_listeners=False)
    atom.notifier.reset()
    atom.update_progress(0.1)
    with_listeners.update_progress(0.2)
    without.update_progress(0.3)
    assert heard == [0.2]
    assert (with_listeners.name, with_listeners.requires, with_listeners.save_as) == ("Add", {"a"}, {"sum": None})
    assert run(with_listeners, a=1)["sum"] == 11


def test_progress_outside_of_its_range_is_clamped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[float] = []
    atom = Add("adder")
    atom.notifier.register("update_progress", lambda event, details: heard.append(details["progress"]))
    for progress in (-1, 0.5, 7, float("nan")):
        atom.update_progress(progress)
    assert heard == [0, 0.5, 1, 0]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "adder" in caplog.text


def test_a_task_without_execute_fails_with_the_name_of_its_class() -> None:
    with pytest.raises(DefinitionError, match="Task has no execute"):
        run(task.Task())
