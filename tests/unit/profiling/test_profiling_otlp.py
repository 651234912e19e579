"""OTLP profiles: a request as the protocol's own library writes it, and whatever else may come."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.components.profiling.batch import Batch, Frame, SampleType
from trimtab.components.profiling.formats import intake, otlp
from trimtab.components.profiling.formats.wire import content, encoded, number
from trimtab.components.profiling.storage.store import Profiles, Query
from trimtab.components.profiling.symbols.sandbox import Sandbox

NOW = 1_900_000_005
REQUEST = base64.b64decode(
    "CmsKHQobCgxzZXJ2aWNlLm5hbWUSCwoJc2hpcG5vdGVzEkoSSAoECAcQCBIfCAESAQIqGAAAPvHuJ14aAQA+8e4nXhoCAD7x"
    "7ideGhIFCAEiAQIZAAA+8e4nXhoggOSX0BIqBAgJEAowm7CMGRLlAQoAChIIgICAAhCAgMACGIAgIAQqAQESABIHCAEQkICA"
    "AhIJGgQIARAHIgEDGgAaBAgFGAYiACoAKh9wcm9jZXNzLmV4ZWN1dGFibGUuYnVpbGRfaWQuZ251Kgt0aHJlYWQubmFtZSoS"
    "cHJvZmlsZS5mcmFtZS50eXBlKgYvYmluL3gqBHdvcmsqBmFwcC5weSoHc2FtcGxlcyoFY291bnQqA2NwdSoLbmFub3NlY29u"
    "ZHMyADIKCAESBgoEYWJjZDIMCAISCAoGd29ya2VyMg0IAxIJCgdjcHl0aG9uOgA6BAoCAQI="
)
"""Serialized by opentelemetry-proto 1.45.2: service shipnotes, 5 s, ticks of 52,631,579 ns; one stack (a CPython function that called a
place in /bin/x, build id abcd), three ticks of thread `worker` told by their times, two of another by their number."""


def test_a_request_becomes_a_batch() -> None:
    decoded = otlp.decode_request(REQUEST, {"node": "node-1"}, NOW)
    batch = decoded.batch
    assert (batch.start, batch.source, decoded.duration_s) == (1_900_000_000, "otlp", 5.0)
    assert batch.types == [SampleType("cpu", "nanoseconds")]
    found = [
        (
            batch.labels[sample.labels],
            sample.value,
            sample.count,
            [batch.frames[at] for at in batch.stacks[sample.stack]],
        )
        for sample in batch.samples
    ]
    stack = [
        Frame("native", file="/bin/x", build_id="abcd", address=0x1010),
        Frame("python", "work", "app.py", 7),
    ]
    plain = {"app": "shipnotes", "node": "node-1"}
    assert found == [
        (plain | {"thread": "worker"}, 3 * 52_631_579, 3, stack),
        (plain, 2 * 52_631_579, 2, stack),
    ]


def test_strangers_requests_are_decoded_in_the_sandbox() -> None:
    sandbox = Sandbox()
    try:
        received = intake.receive(sandbox, "otlp", REQUEST, {}, NOW, "otlp")
        assert received == otlp.decode_request(REQUEST, {}, NOW)
    finally:
        sandbox.close()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "it has no profile with a sample_type"),
        (b"{}", "byte 1: a field of unknown kind 3"),
        (content(2, content(7, content(1, encoded(5)))), "a stack is of a location that it does not have"),
        (content(2, content(7, number(1, 5))), "a list that is not packed"),
        (
            content(1, content(2, content(2, content(1, b"") + content(2, number(1, 9) + number(4, 1))))),
            "a sample is of a stack that it does not have",
        ),
        (
            content(1, content(2, content(2, content(1, b"") + number(6, 1 << 62) + content(5, b"") + content(2, number(4, 4))))),
            None,
        ),
    ],
)  # fmt: skip
def test_what_is_no_request_is_one_line(body: bytes, error: str | None) -> None:
    if error is None:
        assert otlp.decode(body, {}, NOW).samples
        return
    with pytest.raises(ValueError) as raised:
        otlp.decode(body, {}, NOW)
    assert str(raised.value) == f"not a request of OTLP profiles: {error}"


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(REQUEST) - 1), st.integers(1, 255)), max_size=4),
    cut=st.integers(0, 600),
)
def test_a_damaged_request_is_a_batch_or_one_line(
    changes: list[tuple[int, int]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    body = bytearray(REQUEST)
    for at, bits in changes:
        body[at] ^= bits
    try:
        batch = otlp.decode(bytes(body[: cut or None]), {}, NOW)
    except ValueError as err:
        error = str(err)
    else:
        error = ""
    if error:
        assert "\n" not in error
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=Batch) == batch
    store = Profiles(Path(tmp_path_factory.mktemp("fuzz")))
    store.append(batch)
    for kind in batch.types:
        if kind.unit and ":" not in kind.name:
            query = Query(type=f"{kind.name}:{kind.unit}", start=batch.start, end=batch.start + 10)
            assert "unreadable" not in store.select(query).lost
