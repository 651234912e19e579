"""Values of a provider: what goes out comes back, along any type; what does not fit is said with its place."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.components.infrastructure.protocol.types import (
    BOOL,
    DYNAMIC,
    NUMBER,
    STRING,
    Type,
    from_json,
    list_of,
    map_of,
    object_of,
    parse,
    set_of,
    to_json,
)
from trimtab.components.infrastructure.protocol.values import (
    UNKNOWN,
    Dynamic,
    ValueFault,
    decode,
    decode_json,
    encode,
    encode_json,
    plain,
    same,
    unknowns,
)

names = st.text("abcdef_", min_size=1, max_size=6)
types = st.recursive(
    st.sampled_from([STRING, NUMBER, BOOL]),
    lambda inner: st.one_of(
        inner.map(list_of),
        inner.map(set_of),
        inner.map(map_of),
        st.dictionaries(names, inner, max_size=4).map(object_of),
        st.lists(inner, max_size=3).map(lambda t: Type("tuple", elements=tuple(t))),
    ),
    max_leaves=8,
)
numbers = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda f: int(f) if f.is_integer() else f),
)


@st.composite
def typed(draw: st.DrawFn) -> tuple[Type, object]:
    of = draw(types)
    return of, draw(values_of(of))


def values_of(of: Type) -> st.SearchStrategy[object]:
    match of.kind:
        case "string":
            inner: st.SearchStrategy[object] = st.text("aäöz '\"\n{", max_size=8)
        case "number":
            inner = numbers
        case "bool":
            inner = st.booleans()
        case "list" | "set":
            assert of.element is not None
            inner = st.lists(values_of(of.element), max_size=3)
        case "map":
            assert of.element is not None
            inner = st.dictionaries(names, values_of(of.element), max_size=3)
        case "object":
            inner = st.fixed_dictionaries({name: values_of(one) for name, one in of.attributes.items()})
        case _:
            inner = st.tuples(*map(values_of, of.elements)).map(list)
    return st.one_of(inner, st.none(), st.just(UNKNOWN))


@given(typed())
def test_what_goes_out_comes_back(pair: tuple[Type, object]) -> None:
    of, value = pair
    back = decode(of, encode(of, value))
    assert same(of, back, value)
    assert plain(back) == plain(value)


@given(typed())
def test_a_state_is_kept_as_json(pair: tuple[Type, object]) -> None:
    of, value = pair
    if list(unknowns(of, value)):
        with pytest.raises(ValueFault, match="is not known yet"):
            encode_json(of, value)
    else:
        assert same(of, decode_json(of, json.dumps(encode_json(of, value)).encode()), value)
        there = object_of({"any": DYNAMIC})
        kept = json.dumps(encode_json(there, {"any": Dynamic(of, value)})).encode()
        assert same(there, decode_json(there, kept), {"any": Dynamic(of, value)})


@given(types)
def test_a_type_is_its_json(of: Type) -> None:
    assert parse(json.dumps(to_json(of))) == of


@given(types, st.binary(max_size=60))
def test_bytes_of_a_provider_are_a_value_or_a_fault(of: Type, raw: bytes) -> None:
    fault = None
    try:
        value = decode(of, raw)
    except ValueFault as err:
        fault = str(err)
    if fault is None:
        assert same(of, decode(of, encode(of, value)), value)
    else:
        assert "\n" not in fault


@given(typed())
def test_the_order_of_a_set_means_nothing(pair: tuple[Type, object]) -> None:
    of, value = pair
    assert same(set_of(of), [value, None, UNKNOWN], [UNKNOWN, value, None])
    assert not same(set_of(of), [value, None, UNKNOWN], [value, None])
    if value is not None:
        assert not same(list_of(of), [value, None], [None, value])


def test_an_object_is_sent_whole_and_a_field_that_is_none_is_named() -> None:
    of = object_of({"name": STRING, "size": NUMBER})
    assert msgspec.msgpack.decode(encode(of, {"name": "a"})) == {"name": "a", "size": None}
    with pytest.raises(ValueFault, match=r"^pool\[1\]\.colour: there is no such field$"):
        encode(object_of({"pool": list_of(of)}), {"pool": [{"name": "a"}, {"colour": "red"}]})


@pytest.mark.parametrize(
    ("of", "value", "text"),
    [
        (STRING, 1, "expected string, got 1"),
        (object_of({"size": NUMBER}), {"size": "3"}, 'size: expected number, got "3"'),
        (object_of({"size": NUMBER}), {"size": True}, "size: expected number, got true"),
        (map_of(BOOL), {"a": "yes"}, 'a: expected bool, got "yes"'),
        (list_of(STRING), {"a": "yes"}, 'expected list of string, got {"a": "yes"}'),
        (NUMBER, float("nan"), "expected number, got NaN"),
    ],
)
def test_what_does_not_fit_is_said_with_its_place(of: Type, value: object, text: str) -> None:
    with pytest.raises(ValueFault) as raised:
        encode(of, value)
    assert str(raised.value) == text


def test_numbers_keep_every_digit() -> None:
    assert decode(NUMBER, encode(NUMBER, 1 << 200)) == 1 << 200
    assert msgspec.msgpack.decode(encode(NUMBER, 1 << 70)) == str(1 << 70)
    tenth = Decimal("0.1000000000000000000000001")
    assert decode(NUMBER, encode(NUMBER, tenth)) == tenth
    assert same(NUMBER, 1, 1.0)
    assert msgspec.msgpack.decode(encode(NUMBER, 3.0)) == 3


@pytest.mark.parametrize(
    ("given", "sent"), [(0.1, "0.1"), (0.5, 0.5), (1e23, "1" + "0" * 23), (-1.5e-7, "-0.00000015"), (1e15, 10**15)]
)
def test_a_float_means_what_it_is_written_as(given: float, sent: object) -> None:
    """No double is a tenth: a provider that keeps all digits would have 0.1000000000000000055 of it."""
    assert msgspec.msgpack.decode(encode(NUMBER, given)) == sent
    back = decode(NUMBER, encode(NUMBER, given))
    assert same(NUMBER, back, given)
    assert encode(NUMBER, decode_json(NUMBER, json.dumps(encode_json(NUMBER, back)).encode())) == encode(NUMBER, given)
    assert float(plain(back)) == given


def test_a_tenth_of_a_state_is_a_number_in_its_json() -> None:
    assert encode_json(NUMBER, decode(NUMBER, msgspec.msgpack.encode("0.1"))) == 0.1
    assert encode_json(NUMBER, Decimal("0.1000000000000000000000001")) == "0.1000000000000000000000001"
    assert encode(NUMBER, Decimal("1.30E-7")) == encode(NUMBER, 1.3e-7)


def test_keys_of_maps_are_in_one_form() -> None:
    apart, whole = {"e\u0301": "x"}, {"\u00e9": "x"}
    assert encode(map_of(STRING), apart) == encode(map_of(STRING), whole)
    assert same(map_of(STRING), apart, whole)


def test_any_refinement_of_the_unknown_is_read_as_unknown() -> None:
    refined = msgspec.msgpack.encode({"id": msgspec.msgpack.Ext(12, b"\x81\x01\xc2"), "name": "x"})
    value = decode(object_of({"id": STRING, "name": STRING}), refined)
    assert value == {"id": UNKNOWN, "name": "x"}
    assert list(unknowns(object_of({"id": STRING, "name": STRING}), value)) == ["id"]
    assert plain(value) == {"id": "(known after apply)", "name": "x"}


def test_a_dynamic_value_brings_its_type_along() -> None:
    raw = encode(DYNAMIC, {"replicas": 3, "tags": ["a", True]})
    value = decode(DYNAMIC, raw)
    assert isinstance(value, Dynamic)
    assert plain(value) == {"replicas": 3, "tags": ["a", True]}
    assert to_json(value.type) == ["object", {"replicas": "number", "tags": ["tuple", ["string", "bool"]]}]
    assert decode(DYNAMIC, encode(DYNAMIC, value)) == value
    assert plain(decode_json(DYNAMIC, b'{"type": ["list", "string"], "value": ["a"]}')) == ["a"]


@pytest.mark.parametrize(
    "text", ['"text"', '["list"]', '["map","string","x"]', "{", '["object", 3]', "7", "[" * 200_000]
)
def test_what_is_no_type_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a type: ") as raised:
        parse(text)
    assert "\n" not in str(raised.value)


def test_a_type_without_end_is_refused() -> None:
    deep: object = "string"
    for _ in range(100):
        deep = ["list", deep]
    with pytest.raises(ValueError, match=r"nested deeper than 64 levels"):
        from_json(deep)
