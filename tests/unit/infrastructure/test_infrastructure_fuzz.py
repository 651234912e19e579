"""Values, proposals and schemas of providers that mean no good: a value comes back as it went, nonsense is refused in one line."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trimtab.components.infrastructure.protocol.convert import SchemaFault, provider_schema
from trimtab.components.infrastructure.protocol.messages import messages
from trimtab.components.infrastructure.protocol.planned import alike, nonsense
from trimtab.components.infrastructure.protocol.proposed import proposed_new
from trimtab.components.infrastructure.protocol.schema import Attribute, Block, NestedBlock, fill
from trimtab.components.infrastructure.protocol.types import (
    BOOL,
    DYNAMIC,
    NUMBER,
    STRING,
    Type,
    list_of,
    map_of,
    object_of,
    set_of,
)
from trimtab.components.infrastructure.protocol.values import (
    UNKNOWN,
    ValueFault,
    decode,
    decode_json,
    encode,
    encode_json,
    known,
    same,
)

NAMES = st.sampled_from(["a", "b", "count", "id", "name"])
FAST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

types = st.recursive(
    st.sampled_from([STRING, NUMBER, BOOL]),
    lambda inner: st.one_of(
        inner.map(list_of),
        inner.map(set_of),
        inner.map(map_of),
        st.dictionaries(NAMES, inner, min_size=1, max_size=3).map(object_of),
    ),
    max_leaves=6,
)
numbers = st.one_of(
    st.integers(-(1 << 80), 1 << 80),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=9),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def values(of: Type, *, unknown: bool = True) -> st.SearchStrategy[Any]:
    """Any value of a type: null and unknown anywhere."""
    match of.kind:
        case "string":
            whole: st.SearchStrategy[Any] = texts
        case "number":
            whole = numbers
        case "bool":
            whole = st.booleans()
        case "list" | "set":
            assert of.element is not None
            whole = st.lists(values(of.element, unknown=unknown), max_size=3)
        case "map":
            assert of.element is not None
            whole = st.dictionaries(texts, values(of.element, unknown=unknown), max_size=3)
        case _:
            whole = st.fixed_dictionaries({n: values(t, unknown=unknown) for n, t in of.attributes.items()})
    return st.one_of(st.none(), *([st.just(UNKNOWN)] if unknown else []), whole)


@given(st.data(), types)
@FAST
def test_a_value_comes_back_as_it_went(data: st.DataObject, of: Type) -> None:
    value = data.draw(values(of))
    back = decode(of, encode(of, value))
    assert same(of, back, value)
    assert encode(of, back) == encode(of, value)


@given(st.data(), types)
@FAST
def test_a_value_that_is_kept_comes_back_as_it_went(data: st.DataObject, of: Type) -> None:
    value = data.draw(values(of, unknown=False))
    assert same(of, decode_json(of, json.dumps(encode_json(of, value)).encode()), value)


@given(st.binary(max_size=60), types)
@example(b"\x91" * 500 + b"\xc0", list_of(STRING))
@example(b"\x91" * 200_000, list_of(STRING))
@example(b"\xdd\xff\xff\xff\xff", list_of(STRING))
@example(b"\xc6\xff\xff\xff\xff", STRING)
@example(b"\x81\x90\xc0", map_of(STRING))
@example(b"\x81\xc3\xc0", map_of(STRING))
@example(b"\xa1\xff", STRING)
@example(b"\xd6\xff\x00\x00\x00\x00", STRING)
@example(b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", NUMBER)
@example(b"\xa91e9999999", NUMBER)
@example(b"\xa3nan", NUMBER)
@example(b'\x92\xc4\x08"string"\xa1a', DYNAMIC)
@example(b"\x92\xc4\x02[[\xa1a", DYNAMIC)
@example(b"\x92\xc4\x01\xff\xa1a", DYNAMIC)
@FAST
def test_hostile_bytes_are_a_value_or_refused_in_one_line(raw: bytes, of: Type) -> None:
    said = ""
    try:
        decode(of, raw)
    except ValueFault as err:
        said = str(err)
    assert "\n" not in said
    assert len(said) < 500


@given(
    st.recursive(
        st.none() | st.booleans() | numbers | texts | st.binary(max_size=4),
        lambda i: st.lists(i, max_size=3) | st.dictionaries(texts, i, max_size=3),
        max_leaves=8,
    ),
    types,
)
@FAST
def test_a_value_of_another_type_is_refused_in_one_line(value: Any, of: Type) -> None:
    wire = _wire(value)
    said = ""
    try:
        encode(of, decode(of, wire))
    except ValueFault as err:
        said = str(err)
    assert "\n" not in said


def _wire(value: Any) -> bytes:
    def plain(one: Any) -> Any:
        match one:
            case Decimal():
                return str(one)
            case int() if not isinstance(one, bool) and not -(1 << 63) <= one < 1 << 64:
                return str(one)
            case list():
                return [plain(v) for v in one]
            case dict():
                return {k: plain(v) for k, v in one.items()}
        return one

    return msgspec.msgpack.encode(plain(value))


@pytest.mark.parametrize("code", [0, 1, 12, 127])
def test_whatever_a_refinement_says_the_value_is_unknown(code: int) -> None:
    assert decode(STRING, msgspec.msgpack.encode(msgspec.msgpack.Ext(code, b"\x81\x01\xc2"))) is UNKNOWN


# What is proposed

attributes = st.builds(
    lambda of, how: Attribute(type=of, **how),
    types,
    st.sampled_from([{"required": True}, {"optional": True}, {"computed": True}, {"optional": True, "computed": True}]),
)
flat = st.dictionaries(NAMES, attributes, min_size=1, max_size=4).map(lambda found: Block(attributes=found))
blocks = st.builds(
    lambda block, nested, nesting: Block(
        attributes=block.attributes, blocks={"inner": NestedBlock(nesting=nesting, block=nested)}
    ),
    flat,
    flat,
    st.sampled_from(["single", "list", "set", "map"]),
)


def configurations(block: Block) -> st.SearchStrategy[Any]:
    """What may be given: nothing where only the provider computes."""
    fields = {n: values(a.implied, unknown=False) if a.given else st.none() for n, a in block.attributes.items()}
    for name, nested in block.blocks.items():
        one = configurations(nested.block)
        fields[name] = {
            "single": st.none() | one,
            "map": st.dictionaries(NAMES, one, max_size=2),
        }.get(nested.nesting, st.lists(one, max_size=2))
    return st.fixed_dictionaries(fields)


@given(st.data(), blocks)
@FAST
def test_what_is_given_wins_and_what_is_computed_stays(data: st.DataObject, block: Block) -> None:
    config = fill(block, data.draw(configurations(block)))
    prior = data.draw(st.none() | values(block.implied, unknown=False))
    prior = None if prior is None else fill(block, prior)
    proposed = proposed_new(block, prior, config)
    for name, attribute in block.attributes.items():
        if config[name] is not None:
            assert same(attribute.implied, proposed[name], config[name])
        elif attribute.computed:
            assert same(attribute.implied, proposed[name], None if prior is None else prior[name])
        else:
            assert proposed[name] is None
    # A plan that is the proposal breaks nothing; proposed again, it stays.
    assert nonsense(block, prior, config, proposed) == ""
    assert same(block.implied, proposed_new(block, proposed, config), proposed)
    encode(block.implied, proposed)


@given(st.data(), blocks)
@FAST
def test_nothing_and_what_is_empty_are_alike(data: st.DataObject, block: Block) -> None:
    of = block.implied
    value = data.draw(values(of, unknown=False).filter(lambda v: v is not None))
    assert alike(of, value, value)
    empty = {"string": "", "number": 0, "bool": False}
    filled = (
        {
            n: empty.get(t.kind, v) if v is None else v
            for (n, t), v in zip(of.attributes.items(), value.values(), strict=True)
        }
        if list(value) == list(of.attributes)
        else value
    )
    assert alike(of, value, filled)
    assert known(value) == value


# Schemas


@pytest.mark.parametrize("version", [5, 6])
@given(data=st.data())
@settings(FAST, max_examples=60)
def test_a_hostile_schema_is_read_or_refused_in_one_line(version: Any, data: st.DataObject) -> None:
    made = messages(version)
    raw = data.draw(
        st.binary(max_size=30) | st.sampled_from([b'"string"', b'["list","string"]', b"[" * 500, b"\xff", b"{}"])
    )
    depth = data.draw(st.integers(1, 40))
    attribute = {"name": data.draw(texts), "type": raw, "optional": True, "computed": data.draw(st.booleans())}
    block: dict[str, Any] = {"attributes": [attribute, attribute]}
    for _ in range(depth):
        block = {
            "attributes": [attribute],
            "block_types": [{"type_name": "in", "nesting": data.draw(st.integers(-1, 7)), "block": block}],
        }
    answer = made["ProviderSchema"](provider={"block": {}}, resource_schemas=[{"key": "x", "value": {"block": block}}])
    said = ""
    try:
        assert provider_schema(answer).resources["x"].block.implied.kind == "object"
    except SchemaFault as err:
        said = str(err)
    assert "\n" not in said
