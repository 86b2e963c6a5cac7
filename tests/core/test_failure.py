# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle
import sys
from typing import Any

import pytest

from pluggableflow import codec
from pluggableflow.exceptions import ExecutionFailure, InvalidFormat, WrappedFailure
from pluggableflow.failure import (
    CAUSES_LIMIT,
    MESSAGE_LIMIT_CHARACTERS,
    TRACEBACK_LIMIT_CHARACTERS,
    Failure,
)


def captured(error: BaseException | str = "Woot!") -> Failure:
    try:
        raise error if isinstance(error, BaseException) else RuntimeError(error)
    except BaseException:
        return Failure()


def chained(length: int) -> Failure:
    error = RuntimeError("0")
    for number in range(1, length):
        outer = RuntimeError(str(number))
        outer.__cause__ = error
        error = outer
    return Failure.from_exception(error)


def stored(failure: Failure) -> Failure:
    back = codec.loads(codec.dumps(failure))
    assert type(back) is Failure
    return back


class Mixin:
    pass


class Mixed(ValueError, Mixin):
    pass


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = Exception.__hash__


@dataclasses.dataclass
class Detail:
    code: int


class Text(str):
    __slots__ = ()


def test_the_current_exception_is_captured() -> None:
    failure = captured()
    assert isinstance(failure.exception, RuntimeError)
    assert failure.exc_info == (RuntimeError, failure.exception, failure.exception.__traceback__)
    assert failure.exception_str == "Woot!"
    assert failure.exception_args == ("Woot!",)
    assert "in captured" in failure.traceback_str


def test_a_failure_is_printed_as_its_type_and_message() -> None:
    assert str(captured()) == "Failure: RuntimeError: Woot!"
    assert str(captured(Mixed("x"))) == f"Failure: {__name__}.Mixed: x"
    assert (
        str(captured("\u043f\u0440\u0438\u0432\u0435\u0442"))
        == "Failure: RuntimeError: \u043f\u0440\u0438\u0432\u0435\u0442"
    )
    assert repr(captured()) == "<Failure: RuntimeError: Woot!>"
    assert str(Failure(exception_str="Woot!", exc_type_names=[])) == "Failure: Woot!"


def test_type_names_go_from_the_most_derived_to_the_root() -> None:
    assert captured().exc_type_names == ("RuntimeError", "Exception")
    assert list(captured(Mixed())) == [f"{__name__}.Mixed", "ValueError", f"{__name__}.Mixin", "Exception"]
    assert captured(SystemExit()).exc_type_names == ("SystemExit", "BaseException")
    assert captured(asyncio.CancelledError()).exc_type_names[-1] == "BaseException"


def test_check_gives_the_first_kind_that_the_exception_is() -> None:
    for failure in (captured(Mixed()), stored(captured(Mixed()))):
        assert failure.check(KeyError, ValueError, Mixed) is ValueError
        assert failure.check("Exception") == "Exception"
        assert failure.check(f"{__name__}.Mixed", Mixin) == f"{__name__}.Mixed"
        assert failure.check(BaseException) is BaseException
        assert failure.check(KeyError, "Mixed") is None
        assert failure.check() is None


def test_the_traceback_is_printed_on_demand() -> None:
    for failure in (captured(), stored(captured())):
        assert "Traceback" not in failure.pformat()
        assert "\nTraceback (most recent call last):\n" in failure.pformat(traceback=True)
    assert "Traceback not available" in Failure.from_exception(RuntimeError("x")).pformat(traceback=True)


def test_what_is_no_exception_is_refused() -> None:
    with pytest.raises(TypeError, match="no exception to capture"):
        Failure()
    with pytest.raises(TypeError):
        Failure(exc_info=(int, 1, None))
    with pytest.raises(ValueError, match="three"):
        Failure(exc_info=(1, 2))
    with pytest.raises(TypeError, match="hi"):
        Failure(exception_str="x", hi=1)  # type: ignore[call-arg]


def test_a_class_without_instance_is_instantiated() -> None:
    assert isinstance(Failure(exc_info=(KeyError, None, None)).exception, KeyError)


def test_the_live_exception_is_raised_again_with_its_own_traceback() -> None:
    failure = captured()
    assert failure.exc_info is not None
    with pytest.raises(RuntimeError, match="^Woot!$") as caught:
        failure.reraise()
    assert caught.value is failure.exception
    assert caught.tb.tb_next is not None
    assert caught.traceback[-1].name == "captured"


def test_a_stored_failure_is_raised_wrapped() -> None:
    failure = stored(captured())
    assert failure.exception is None
    assert failure.exc_info is None
    with pytest.raises(ExecutionFailure) as caught:
        failure.reraise()
    assert isinstance(caught.value, WrappedFailure)
    assert list(caught.value) == [failure]
    assert caught.value.check(RuntimeError) is RuntimeError


def test_none_one_or_several_failures_are_raised() -> None:
    Failure.reraise_if_any(iter([]))
    with pytest.raises(RuntimeError, match="^Woot!$"):
        Failure.reraise_if_any(iter([captured()]))
    several = [captured(), captured("Oh")]
    with pytest.raises(WrappedFailure) as caught:
        Failure.reraise_if_any(several)
    assert list(caught.value) == several


def test_wrapped_failures_are_flattened() -> None:
    one, two, three = captured("1"), captured("2"), captured("3")
    assert list(WrappedFailure([captured(WrappedFailure([one, two])), three])) == [one, two, three]


def test_copies_of_every_kind_are_equal() -> None:
    failure = chained(3)
    for other in (
        failure.copy(),
        copy.copy(failure),
        copy.deepcopy(failure),
        stored(failure),
        pickle.loads(pickle.dumps(failure)),
        Failure.from_dict(failure.to_dict()),
        Failure.from_exception(failure.exception or KeyError()),
    ):
        assert other is not failure
        assert other == failure
        assert failure.matches(other)
        assert hash(other) == hash(failure)
        assert [str(cause) for cause in other.causes] == [str(cause) for cause in failure.causes]
    assert failure.copy().exception is failure.exception
    assert stored(failure).traceback_str == failure.traceback_str


@pytest.mark.parametrize(
    "other",
    [captured("w00t!"), captured(ValueError("Woot!")), captured(RuntimeError("Woot!", 1)), None, "Failure"],
    ids=str,
)
def test_failures_that_differ_are_unequal(other: Any) -> None:
    assert captured() != other
    assert not captured().matches(other)


def test_failures_with_other_causes_are_unequal() -> None:
    assert Failure.from_exception(RuntimeError("1")) != chained(2)


def test_causes_are_listed_nearest_first_and_each_has_the_rest() -> None:
    for failure in (chained(4), stored(chained(4)), pickle.loads(pickle.dumps(chained(4)))):
        assert [cause.exception_str for cause in failure.causes] == ["2", "1", "0"]
        assert [cause.exception_str for cause in failure.causes[0].causes] == ["1", "0"]
        assert failure.causes[2].causes == ()


def test_a_context_is_a_cause_unless_it_is_suppressed() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError("outer")  # noqa: B904
    except ValueError as error:
        assert [cause.check(KeyError) for cause in Failure().causes] == [KeyError]
        error.__suppress_context__ = True
        assert Failure().causes == ()


def test_the_list_of_causes_is_bounded_and_its_text_grows_with_its_length_only() -> None:
    failure = chained(500)
    assert len(failure.causes) == CAUSES_LIMIT
    assert len(codec.dumps(failure)) < 10_000
    assert stored(failure) == failure


def test_causes_that_refer_to_each_other_end() -> None:
    one, two = RuntimeError("1"), RuntimeError("2")
    one.__cause__, two.__cause__ = two, one
    failure = Failure.from_exception(one)
    assert [cause.exception_str for cause in failure.causes] == ["2"]
    assert stored(failure) == failure


def test_an_exception_whose_methods_raise_is_captured_and_stored() -> None:
    failure = captured(Hostile(Hostile(), 1))
    assert "__str__ raised RuntimeError" in str(failure)
    assert failure.exception_args == ("<Hostile, whose __repr__ raised RuntimeError>", 1)
    assert stored(failure) == failure
    assert failure == captured(Hostile(Hostile(), 1))
    assert "Hostile" in failure.pformat(traceback=True)


def test_arguments_that_cannot_be_stored_become_their_repr() -> None:
    failure = captured(ValueError(1, (2,), {3}, object, Detail(4), len))
    assert failure.exception_args == (1, (2,), {3}, "<class 'object'>", Detail(4), "<built-in function len>")
    assert stored(failure).exception_args == failure.exception_args


def test_an_argument_of_a_class_that_the_reader_lacks_becomes_its_repr() -> None:
    text = codec.dumps(captured(ValueError(Detail(4)))).replace(":Detail", ":Gone")
    assert codec.loads(text).exception_args == ("Detail(code=4)",)


def test_an_argument_that_changes_after_it_was_looked_at_is_stored_all_the_same() -> None:
    argument: list[Any] = [1]
    failure = captured(ValueError(argument))
    assert failure.exception_args == ([1],)
    argument.append(object)
    assert stored(failure).exception_args == ("[1, <class 'object'>]",)


@pytest.mark.parametrize("levels", [97, 99, 100, 101, 5000])
def test_a_deeply_nested_argument_does_not_hinder_storing(levels: int) -> None:
    argument: Any = []
    for _ in range(levels):
        argument = [argument]
    failure = captured(ValueError(argument))
    assert stored(failure) == failure


def test_an_exception_that_holds_its_own_failure_is_stored() -> None:
    error = ValueError("x")
    failure = Failure.from_exception(error)
    error.args = (failure,)
    assert len(codec.dumps(failure)) < 200_000
    assert stored(failure).check(ValueError)


def test_arguments_that_are_not_a_number_leave_failures_equal() -> None:
    failure = captured(ValueError(float("nan")))
    assert stored(failure) == failure


def test_strings_that_only_look_like_strings_are_stored() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            return Text("odd \ud800")

    Odd.__module__ = Text("odd")
    failure = captured(Odd(Text("a")))
    assert type(failure.exception_str) is str
    assert stored(failure).exception_str == "odd \ud800"
    assert stored(failure).exception_args == ("'a'",)


def test_long_texts_lose_their_middle() -> None:
    failure = captured(ValueError("a" * 10**6 + "z", *range(1000)))
    assert len(failure.exception_str) < MESSAGE_LIMIT_CHARACTERS + 100
    assert failure.exception_str.endswith("999)")
    assert len(codec.dumps(failure)) < 4 * MESSAGE_LIMIT_CHARACTERS
    made = Failure(exception_str="x", traceback_str="h" + "t" * 10**6 + "e", exc_type_names=["Exception"])
    assert len(made.traceback_str) < TRACEBACK_LIMIT_CHARACTERS + 100
    assert (made.traceback_str[0], made.traceback_str[-1]) == ("h", "e")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_the_traceback_of_a_group_names_its_members() -> None:
    group = ExceptionGroup("several", [KeyError("inner")])  # noqa: F821
    assert "KeyError: 'inner'" in captured(group).traceback_str


def test_a_pickled_failure_keeps_arguments_that_pickle_could_not_take() -> None:
    @dataclasses.dataclass
    class Local:
        a: int

    back = pickle.loads(pickle.dumps(captured(ValueError(Local(1)))))
    assert back.exception_args == (Local(1),)
    assert back.exception is None


def test_arguments_can_be_left_out_of_the_data_of_a_failure_and_of_its_causes() -> None:
    data = chained(2).to_dict(include_args=False)
    assert data["exc_args"] == ()
    assert data["causes"][0]["exc_args"] == ()


def test_the_data_of_every_failure_is_valid() -> None:
    for failure in (
        captured(),
        chained(3),
        captured(SystemExit()),
        captured(Mixed()),
        Failure.from_exception(OSError()),
    ):
        Failure.validate(failure.to_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {"exc_type_names": []},
        {"exc_type_names": ["Junk"]},
        {"exc_type_names": "Exception"},
        {"exc_type_names": [1, "Exception"]},
        {"exception_str": None},
        {"traceback_str": 1},
        {"version": -1},
        {"exc_args": "x"},
        {"causes": [1]},
        {"causes": [{}]},
        {"causes": None},
    ],
    ids=str,
)
def test_data_of_another_shape_is_invalid(changes: dict[str, Any]) -> None:
    data = captured().to_dict()
    with pytest.raises(InvalidFormat):
        Failure.validate({**data, **changes})
    with pytest.raises(InvalidFormat):
        Failure.validate(None)
    del data["traceback_str"]
    with pytest.raises(InvalidFormat, match="traceback_str"):
        Failure.validate(data)


@pytest.mark.parametrize("data", [{}, {"version": 2}, {"version": 1}, {"version": 1, "exception_str": "x"}, None])
def test_no_failure_is_made_from_data_of_another_shape(data: Any) -> None:
    with pytest.raises(InvalidFormat):
        Failure.from_dict(data)


def test_the_data_of_taskflow_with_causes_inside_causes_is_read() -> None:
    def data(message: str, causes: list[Any]) -> dict[str, Any]:
        return {
            "version": 1, "exception_str": message, "traceback_str": "", "exc_args": (message,),
            "exc_type_names": ["RuntimeError", "Exception"], "causes": causes,
        }  # fmt: skip

    inner = data("0", [])
    old = data("2", [data("1", [inner]), inner])
    Failure.validate(old)
    assert Failure.from_dict(old) == chained(3)


def test_a_keyword_that_a_failure_does_not_know_is_refused_by_its_name() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument\(s\): hi$"):
        Failure(exception_str="Woot!", hi="there")  # type: ignore[arg-type]
