"""SPDY frames, as kubectl's port-forward sends them."""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.components.node.spdy import DICTIONARY, Data, Leaving, Opened, Ping, Reset, Spdy, SpdyError


def control(kind: int, body: bytes, version: int = 3) -> bytes:
    return struct.pack("!II", 1 << 31 | version << 16 | kind, len(body)) + body


def opening(stream: int, headers: dict[str, str]) -> bytes:
    block = struct.pack("!I", len(headers))
    for pair in headers.items():
        for text in pair:
            block += struct.pack("!I", len(text)) + text.encode()
    deflate = zlib.compressobj(zdict=DICTIONARY)
    packed = deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return control(1, struct.pack("!IIH", stream, 0, 0) + packed)


def test_the_dictionary_is_the_specifications() -> None:
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


@given(st.lists(st.integers(1, 40), max_size=40))
def test_frames_arrive_in_any_pieces(cuts: list[int]) -> None:
    headers = {"streamtype": "data", "port": "80", "requestid": "1"}
    wire = opening(3, headers) + Spdy.data(3, b"hello", ended=True) + control(6, struct.pack("!I", 7))
    wire += control(3, struct.pack("!II", 3, 5)) + control(4, b"\0" * 12) + control(7, b"\0" * 8)
    spdy, events, at = Spdy(), [], 0
    for cut in [*cuts, len(wire)]:
        events += spdy.feed(wire[at : at + cut])
        at += cut
    assert events == [Opened(3, headers, False), Data(3, b"hello", True), Ping(7), Reset(3), Leaving()]


def test_what_is_not_spdy_is_refused() -> None:
    with pytest.raises(SpdyError, match="version 2 is not spoken here"):
        Spdy().feed(control(1, b"", version=2))
    with pytest.raises(SpdyError, match="a control frame of type 1 is damaged"):
        Spdy().feed(control(1, b"\0" * 30))
    with pytest.raises(SpdyError, match="too large"):
        Spdy().feed(struct.pack("!II", 1, 0xFFFFFF))


@given(st.binary(max_size=200))
def test_garbage_never_breaks_it(data: bytes) -> None:
    with contextlib.suppress(SpdyError):
        Spdy().feed(data)
