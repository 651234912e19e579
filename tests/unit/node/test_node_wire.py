"""The protobuf codec, held against a second opinion: protoc's text for the same bytes, by hand."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.components.node.wire import Codec, WireError

CODEC = Codec("""
Inner: name=1 value=2:bytes
Outer: text=1 number=2:int flag=3:bool inner=4:Inner inners=5*:Inner words=6* numbers=7*:int labels=15:map
""")

MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(min_size=1),
        "number": st.integers(-(1 << 63), (1 << 63) - 1).filter(bool),
        "flag": st.just(True),
        "inner": st.fixed_dictionaries({}, optional={"name": st.text(min_size=1), "value": st.binary(min_size=1)}),
        "inners": st.lists(st.fixed_dictionaries({"name": st.text(min_size=1)}), min_size=1),
        "words": st.lists(st.text(), min_size=1),
        "numbers": st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1),
        "labels": st.dictionaries(st.text(), st.text(), min_size=1),
    },
)


@given(MESSAGES)
def test_what_is_encoded_is_decoded(message: dict[str, object]) -> None:
    assert CODEC.decode("Outer", CODEC.encode("Outer", message)) == message


def test_the_bytes_are_protobufs() -> None:
    assert CODEC.encode("Outer", {"number": 150}) == bytes.fromhex("109601")
    assert CODEC.encode("Outer", {"text": "testing"}) == bytes.fromhex("0a0774657374696e67")
    assert CODEC.encode("Outer", {"inner": {"name": "a"}}) == bytes.fromhex("22030a0161")
    assert CODEC.encode("Outer", {"numbers": [3, 270]}) == bytes.fromhex("3a03038e02")
    assert CODEC.encode("Outer", {"number": -1}) == bytes.fromhex("10" + "ff" * 9 + "01")
    assert CODEC.encode("Outer", {"labels": {"a": "b"}}) == bytes.fromhex("7a060a0161120162")


def test_unset_and_unknown_fields_are_left_out() -> None:
    assert CODEC.encode("Outer", {"text": "", "number": 0, "flag": False, "inner": None}) == b""
    unknown = bytes.fromhex("a00601") + bytes.fromhex("a9060102030405060708") + bytes.fromhex("ad0601020304")
    assert CODEC.decode("Outer", unknown + bytes.fromhex("1001")) == {"number": 1}


@given(st.binary(max_size=64))
def test_garbage_is_an_error_or_a_message(data: bytes) -> None:
    with contextlib.suppress(WireError):
        CODEC.decode("Outer", data)


def test_errors_name_the_field() -> None:
    with pytest.raises(WireError, match="Outer has no field nonsense"):
        CODEC.encode("Outer", {"nonsense": 1})
    with pytest.raises(WireError, match=r"Outer\.number: expected a number, got 'x'"):
        CODEC.encode("Outer", {"number": "x"})
    with pytest.raises(WireError, match="the message ends within a field"):
        CODEC.decode("Outer", bytes.fromhex("0a05aa"))
