# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import json
import math
import subprocess
import sys
import types
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluggableflow import codec
from pluggableflow.exceptions import DecodingError, DefinitionError, Duplicate, EncodingError


class Color(enum.Enum):
    RED = "r"
    GREEN = ("g", 2)


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Derived:
    start: int
    seed: dataclasses.InitVar[int]
    total: int = dataclasses.field(init=False)

    def __post_init__(self, seed: int) -> None:
        self.total = self.start + seed


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and self.degrees == other.degrees

    def __hash__(self) -> int:
        return hash(self.degrees)


codec.register(Celsius, "celsius", lambda it: {"!": it.degrees}, lambda plain: Celsius(plain["!"]))


def assert_same(one: Any, other: Any) -> None:
    """Equality of values and of types at every depth, the order of dictionaries included."""
    assert type(one) is type(other)
    if isinstance(one, (float, Decimal)) and (one.is_nan() if isinstance(one, Decimal) else math.isnan(one)):
        assert str(one) == str(other)
    elif type(one) is float:
        assert one == other
        assert math.copysign(1, one) == math.copysign(1, other)
    elif type(one) is complex:
        assert_same(one.real, other.real)
        assert_same(one.imag, other.imag)
    elif isinstance(one, dict):
        assert len(one) == len(other)
        for (key, item), (other_key, other_item) in zip(one.items(), other.items(), strict=False):
            assert_same(key, other_key)
            assert_same(item, other_item)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for item, other_item in zip(one, other, strict=False):
            assert_same(item, other_item)
    elif isinstance(one, (set, frozenset)):
        assert codec.dumps(one) == codec.dumps(other)
        assert len(one) == len(other)
    elif dataclasses.is_dataclass(one):
        assert_same(vars(one), vars(other))
    else:
        assert one == other
        if isinstance(one, (datetime, time)):
            assert one.fold == other.fold
            assert one.tzname() == other.tzname()
            assert type(one.tzinfo) is type(other.tzinfo)


def round_trip(value: Any) -> Any:
    text = codec.dumps(value)
    assert text.isascii()
    return codec.loads(text)


zones = (
    st.none()
    | st.just(timezone.utc)
    | st.timezones()
    | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text(max_size=5))
)
any_text = st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from('\ud800\udc00\0!"'))
hashables = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary() | st.complex_numbers()
    | st.decimals(allow_nan=False) | st.uuids() | st.dates() | st.timedeltas()
    | st.datetimes(timezones=zones) | st.times(timezones=zones)
    | st.sampled_from([Color.RED, Color.GREEN, Level.LOW, Right.READ, Right.READ | Right.WRITE, Right(0)]),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3) | st.builds(Pair, inner, inner)
    | st.builds(Point, inner, inner) | st.builds(Celsius, st.floats(allow_nan=False)),
    max_leaves=4,
)  # fmt: skip
values = st.recursive(
    hashables | st.binary().map(bytearray) | st.decimals(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.sets(hashables, max_size=3)
    | st.dictionaries(hashables | st.just("!"), inner, max_size=4)
    | st.dictionaries(any_text, inner, max_size=4) | st.builds(Point, inner),
    max_leaves=10,
)  # fmt: skip


@given(values)
def test_every_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    assert_same(value, round_trip(value))


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_plain_data_is_written_as_plain_json(value: Any) -> None:
    text = codec.dumps(value)
    if '"!"' not in text:
        assert text == json.dumps(value, separators=(",", ":"))


def test_a_tuple_comes_back_as_a_tuple() -> None:
    assert codec.dumps((1, "a")) == '{"!":["tuple",[1,"a"]]}'
    assert round_trip([(1, 2), [3]]) == [(1, 2), [3]]


@pytest.mark.parametrize(
    "value",
    [
        {"!": ["tuple", [1]]},
        {"!": 1, "a": 2},
        {"a": {"!": {"!": "!"}}},
        {1: "int", "1": "str", None: 0, (1, 2): [], 2.5: {}, b"k": 1},
        {"\ud800\udc00": 1, "\U00010000": 2},
        "\ud800\udc00",
        "\0",
        10**10_000,
        -(10**10_000),
        2**63,
        -(2**63),
        -0.0,
        float("nan"),
        float("-inf"),
        complex(-0.0, float("inf")),
        Decimal("sNaN123"),
        Decimal("1E+999999"),
        timedelta.max,
        timedelta.min,
        bytearray(b"\xff"),
        uuid.UUID(int=7),
        date.max,
        time(1, fold=1),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5, seconds=1, microseconds=3))),
        Point(Pair(Color.RED, {Level.LOW: Right.READ | Right.WRITE}), [frozenset({1}), set()]),
        Derived(1, 2),
        [],
        {},
        (),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_hard_value_comes_back(value: Any) -> None:
    assert_same(value, round_trip(value))


def test_a_dictionary_keeps_its_order() -> None:
    assert list(round_trip({"b": 1, "a": 2})) == ["b", "a"]
    assert list(round_trip({2: 1, 1: 2})) == [2, 1]


def test_equal_sets_give_equal_text() -> None:
    names = [f"name-{number}" for number in range(100)]
    backwards = names[::-1]
    assert codec.dumps(set(names)) == codec.dumps(set(backwards))


class Text(str):
    __slots__ = ()


class Count(int):
    pass


@pytest.mark.parametrize(
    ("value", "path", "type_name"),
    [
        ({"servers": [0, 1, 2, object()]}, "$['servers'][3]", "object"),
        (object(), "$", "object"),
        ([(1, {"a": len})], "$[0][1]['a']", "builtin_function_or_method"),
        ({1: {2.5: Ellipsis}}, "$[1][2.5]", "ellipsis"),
        ({Ellipsis: 1}, "$<key>", "ellipsis"),
        ([{(1, Ellipsis): 1}], "$[0]<key>[1]", "ellipsis"),
        ([{Ellipsis}], "$[0]{*}", "ellipsis"),
        (Point(1, [Ellipsis]), "$.y[0]", "ellipsis"),
        (Pair(1, Ellipsis), "$.right", "ellipsis"),
        ([Text("a")], "$[0]", f"{__name__}.Text"),
        ([Count(1)], "$[0]", f"{__name__}.Count"),
        ([collections.OrderedDict()], "$[0]", "collections.OrderedDict"),
        ([sys.version_info], "$[0]", "sys.version_info"),
        ([ValueError("x")], "$[0]", "ValueError"),
        ([Color], "$[0]", "enum.EnumType" if sys.version_info >= (3, 11) else "enum.EnumMeta"),
    ],
    ids=lambda value: str(value).split(" at 0x")[0],
)
def test_a_value_that_would_not_come_back_is_refused_with_its_path(value: Any, path: str, type_name: str) -> None:
    with pytest.raises(EncodingError) as caught:
        codec.dumps(value)
    assert (caught.value.path, caught.value.type_name) == (path, type_name)


def test_the_path_begins_with_what_the_caller_says() -> None:
    with pytest.raises(EncodingError, match=r"result of 'a'\[0\] is a object"):
        codec.dumps([object()], "result of 'a'")


def test_a_subclass_is_refused_and_the_error_says_what_would_become_of_it() -> None:
    with pytest.raises(EncodingError, match="would come back as a int"):
        codec.dumps({"n": Count(1)})


def test_a_cycle_is_an_error() -> None:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    with pytest.raises(EncodingError, match="contains itself") as caught:
        codec.dumps(loop)
    assert caught.value.path == "$[1]['again']"


def test_a_value_used_twice_is_no_cycle() -> None:
    shared = (1, 2)
    assert round_trip([shared, shared]) == [shared, shared]


def nested(wrap: Callable[[Any], Any], levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"a": x}, lambda x: (x,), lambda x: {1: x}, Point])
def test_values_nested_to_the_limit_come_back_and_deeper_ones_are_refused(wrap: Callable[[Any], Any]) -> None:
    deepest = nested(wrap, codec.MAX_DEPTH)
    assert codec.dumps(round_trip(deepest)) == codec.dumps(deepest)
    for levels in (codec.MAX_DEPTH + 1, 100_000 if wrap is not Point else 300):
        with pytest.raises(EncodingError, match="nested deeper"):
            codec.dumps(nested(wrap, levels))


def test_an_exhausted_stack_is_an_encoding_error() -> None:
    seen: list[BaseException] = []

    def descend() -> None:
        try:
            descend()
        except RecursionError:
            try:
                codec.dumps(nested(lambda x: (x,), 90))
            except EncodingError as error:
                seen.append(error)
            raise

    with pytest.raises(RecursionError):
        descend()
    assert seen


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1", "nul", '"a', "NaN", "[Infinity]", '{"!":1}', '{"!":[]}', '{"!":["tuple"]}', '{"!":[1,2]}',
        '{"!":["tuple",[1]],"a":1}', '{"!":["tuple",1]}', '{"!":["int","zz"]}', '{"!":["bytes","*"]}',
        '{"!":["bytes","\u00e9"]}', '{"!":["set",[[1]]]}', '{"!":["dict",[[[],1]]]}', '{"!":["dict",[1]]}',
        '{"!":["datetime","x"]}', '{"!":["datetime",["2024-01-01",0,"No/Where"]]}', '{"!":["decimal","x"]}',
        '{"!":["datetime",["2024-01-01",0,"../../etc/passwd"]]}', '{"!":["uuid","x"]}', '{"!":["uuid",1]}',
        '{"!":["enum",1,2]}', '{"!":["enum","a"]}', '{"!":["fallback",1]}', '{"!":["nothing","x"]}',
        '{"!":[["tuple"],[1]]}', "[" * 100_000, '{"!":' * 100_000, "9" * 5000, '{"!":["celsius",1]}',
        '{"!":["complex",[1,2,3]]}',
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_damaged_text_is_a_decoding_error(text: str) -> None:
    with pytest.raises(DecodingError):
        codec.loads(text)


@given(values, st.data())
def test_text_cut_anywhere_is_a_decoding_error_or_a_value(value: Any, data: st.DataObject) -> None:
    text = codec.dumps(value)
    position = data.draw(st.integers(0, len(text)))
    with contextlib.suppress(DecodingError):
        codec.loads(text[:position] + text[position + 1 :])


@pytest.mark.parametrize("text", [None, b"{}", 1])
def test_what_is_no_text_is_a_decoding_error(text: Any) -> None:
    with pytest.raises(DecodingError):
        codec.loads(text)


def test_a_registered_type_comes_back() -> None:
    assert round_trip({"t": (Celsius(1.5),)}) == {"t": (Celsius(1.5),)}


def test_a_name_cannot_be_registered_for_a_second_type() -> None:
    class Kelvin:
        pass

    for name in ("celsius", "tuple", "enum", "fallback"):
        with pytest.raises(Duplicate):
            codec.register(Kelvin, name, lambda it: None, lambda plain: Kelvin())
    with pytest.raises(EncodingError):
        codec.dumps(Kelvin())


def test_a_type_of_the_codec_itself_cannot_be_registered() -> None:
    for kind in (int, dict, datetime):
        with pytest.raises(DefinitionError):
            codec.register(kind, "mine", lambda it: it, lambda plain: plain)


def test_a_renamed_type_is_read_under_both_names() -> None:
    class Money:
        pass

    codec.register(Money, "money-1", lambda it: None, lambda plain: Money())
    old = codec.dumps(Money())
    codec.register(Money, "money-2", lambda it: None, lambda plain: Money())
    assert "money-2" in codec.dumps(Money())
    assert type(codec.loads(old)) is Money


def test_a_converter_that_raises_is_an_encoding_error_with_a_path() -> None:
    class Broken:
        pass

    codec.register(Broken, "broken", lambda it: 1 / 0, lambda plain: Broken())
    with pytest.raises(EncodingError, match="ZeroDivisionError") as caught:
        codec.dumps({"a": Broken()})
    assert caught.value.path == "$['a']"


def test_a_converter_that_returns_its_own_kind_for_ever_is_an_encoding_error() -> None:
    class Endless:
        pass

    codec.register(Endless, "endless", lambda it: Endless(), lambda plain: Endless())
    with pytest.raises(EncodingError, match="nested deeper"):
        codec.dumps(Endless())


def test_a_dataclass_is_restored_without_calling_its_constructor() -> None:
    calls = []

    @dataclasses.dataclass
    class Loud:
        a: int

        def __post_init__(self) -> None:
            calls.append(self.a)

    value = Loud(1)
    value.extra = (1, 2)  # type: ignore[attr-defined]
    restored = round_trip(value)
    assert vars(restored) == {"a": 1, "extra": (1, 2)}
    assert calls == [1]


def test_a_field_that_was_not_stored_takes_its_default() -> None:
    text = codec.dumps(Point(1, 2)).replace(',"y":2', "")
    assert codec.loads(text) == Point(1, 0)
    with pytest.raises(DecodingError, match="'x'"):
        codec.loads(text.replace('"x":1', ""))


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_a_class_that_this_process_does_not_know_is_refused_with_the_remedy() -> None:
    text = '{"!":["enum","colorsys_not_there:Color","RED"]}'
    with pytest.raises(DecodingError, match=r"colorsys_not_there:Color.*register_class"):
        codec.loads(text)


def test_nothing_is_imported_even_if_the_prefix_is_allowed() -> None:
    assert run_python(
        "import sys; from pluggableflow import codec\n"
        "try: codec.loads(sys.argv[1], ['wave', '*'])\n"
        "except codec.DecodingError: print('wave' in sys.modules)",
        '{"!":["namedtuple","wave:_wave_params",{}]}',
    ) == "False\n"  # fmt: skip


@pytest.fixture
def module() -> Any:
    made = types.ModuleType("shop_of_test.orders")
    source = "import enum\nclass State(enum.Enum):\n    OPEN = 1\nclass Order: pass\ndef function(): pass"
    exec(source, made.__dict__)
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


@pytest.mark.parametrize("prefixes", [["shop_of_test"], ["x", "shop_of_test.orders"], "shop_of_test", ["*"]])
def test_an_imported_class_below_an_allowed_prefix_is_found(module: Any, prefixes: Any) -> None:
    text = '{"!":["enum","shop_of_test.orders:State","OPEN"]}'
    assert codec.loads(text, prefixes) is module.State.OPEN
    with pytest.raises(DecodingError):
        codec.loads(text)
    for other in (["shop"], ["shop_of_test.orders.more"], [""]):
        with pytest.raises(DecodingError):
            codec.loads(text, other)


@pytest.mark.parametrize(
    "target", ["Order", "function", "enum", "enum.Enum", "State.OPEN", "State.__class__", "", "no"]
)
def test_what_is_no_data_class_of_that_very_module_is_refused(module: Any, target: str) -> None:
    for family in ("enum", "dataclass", "namedtuple"):
        with pytest.raises(DecodingError):
            codec.loads(f'{{"!":["{family}","shop_of_test.orders:{target}","OPEN"]}}', ["shop_of_test"])


def test_a_lazy_attribute_of_a_module_is_not_triggered(module: Any) -> None:
    module.__getattr__ = lambda name: pytest.fail("looked up by attribute")
    with pytest.raises(DecodingError):
        codec.loads('{"!":["enum","shop_of_test.orders:Lazy","OPEN"]}', ["shop_of_test"])


def test_a_class_that_moved_can_be_registered_under_its_old_name() -> None:
    codec.register_class(Color, "old_module_of_test:Color")
    assert codec.loads('{"!":["enum","old_module_of_test:Color","RED"]}') is Color.RED


def test_only_data_classes_can_be_registered_by_class() -> None:
    assert codec.register_class(Color) is Color
    for wrong in (Celsius, int, tuple, ValueError):
        with pytest.raises(DefinitionError):
            codec.register_class(wrong)


def test_a_fallback_yields_its_value_or_else_its_stand_in() -> None:
    text = codec.dumps([codec.Fallback(Point(1), "a point")])
    assert codec.loads(text) == [Point(1)]
    assert codec.loads(text.replace(":Point", ":Gone")) == ["a point"]
    assert round_trip(codec.Fallback(object(), "an object")) == "an object"
