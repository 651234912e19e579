"""Profiles as others write and read them: what goes in comes out, and what is none is one line."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType
from trimtab.components.profiling.formats import folded, intake, limits, pprof, speedscope, wire
from trimtab.components.profiling.formats.temporality import Differences
from trimtab.components.profiling.formats.wire import content, encoded, number
from trimtab.components.profiling.storage.selection import Selection
from trimtab.components.profiling.storage.store import Profiles, Query
from trimtab.components.profiling.symbols.sandbox import Sandbox

SAMPLES = Path(__file__).parents[2] / "support/profiles"
"""Written by Go 1.26's runtime/pprof: 0.7 s of a busy loop under the label job=sum, and a heap."""
NOW = 1_900_000_000


class Line(msgspec.Struct):
    name: str
    file: str = ""
    line: int = 0


class Named(msgspec.Struct):
    lines: list[Line]


class Plain:
    """Names that frames came with; of places in files, what `known` says."""

    def __init__(self, known: dict[int, list[Line]] | None = None) -> None:
        self.known = known or {}

    def names(self, frames: Sequence[Frame]) -> list[Named]:
        return [
            Named([Line(f.name, f.file, f.line)] if f.kind != "mark" and f.name else self.known.get(f.address, []))
            for f in frames
        ]


def selection_of(tmp_path: Path, batch: Batch, kind: str = "cpu") -> Selection:
    store = Profiles(tmp_path / "store")
    store.append(batch)
    return store.select(Query(type=kind, start=batch.start, end=batch.start + 10))


def text(batch: Batch) -> dict[str, int]:
    """Folded stacks of cpu, by hand."""
    (kind,) = [index for index, one in enumerate(batch.types) if one.name == "cpu"]
    return {
        ";".join(batch.frames[at].name for at in reversed(batch.stacks[sample.stack])): sample.value
        for sample in batch.samples
        if sample.type == kind
    }


def table(*strings: str) -> bytes:
    return b"".join(content(6, one.encode()) for one in strings)


CPU_TYPE = content(1, number(1, 1) + number(2, 2))
TEXTS = ("", "cpu", "nanoseconds", "main", "main.c", "inner", "build", "/bin/x", "zone", "a")


def test_a_profile_of_go_is_read_with_its_labels() -> None:
    decoded = pprof.decode_profile((SAMPLES / "go-cpu.pb.gz").read_bytes(), {"app": "busy"}, NOW, "push")
    batch = decoded.batch
    assert 0.6 < decoded.duration_s < 0.8
    assert batch.types == [SampleType("samples", "count"), SampleType("cpu", "nanoseconds")]
    assert batch.labels == [{"job": "sum", "app": "busy"}]
    assert batch.start % 10 == 0
    assert batch.start > 1_700_000_000
    stacks = text(batch)
    root = "runtime.main;main.main;runtime/pprof.Do;main.main.func1;main.busy"
    assert all(stack.startswith(root) for stack in stacks)
    cpu = [sample for sample in batch.samples if batch.types[sample.type].name == "cpu"]
    assert all(sample.value == sample.count * 10_000_000 for sample in cpu)


def test_what_go_counts_since_the_start_is_left_out_of_one_profile_and_is_the_difference_of_two() -> None:
    body = (SAMPLES / "go-heap.pb.gz").read_bytes()
    pushed = pprof.decode(body, {}, NOW)
    assert {pushed.types[sample.type].name for sample in pushed.samples} == {"inuse_objects", "inuse_space"}
    assert pushed.lost["cumulative"] > 0
    in_use = sum(sample.value for sample in pushed.samples if pushed.types[sample.type].name == "inuse_space")
    assert in_use > 16 << 20

    first = pprof.decode_profile(body, {}, NOW, "scrape")
    space = first.batch.types.index(SampleType("alloc_space", "bytes"))
    at = next(index for index, sample in enumerate(first.batch.samples) if sample.type == space)
    samples = list(first.batch.samples)
    samples[at] = msgspec.structs.replace(samples[at], value=samples[at].value + 1000, count=samples[at].count + 3)
    later = intake.Decoded(msgspec.structs.replace(first.batch, samples=samples), 0.0)
    differences = Differences()
    allocated = [
        [(sample.value, sample.count, sample.stack) for sample in differences.of(one).samples if sample.type == space]
        for one in (first, later, later, first)
    ]
    assert allocated[:3] == [[], [(1000, 3, samples[at].stack)], []]
    assert sum(value for value, _, _ in allocated[3]) >= 16 << 20  # it began anew
    assert not differences.of(later).lost


def test_inlined_functions_stand_before_their_caller_and_unnamed_places_by_build_id() -> None:
    body = (
        CPU_TYPE
        + content(2, content(1, encoded(7) + encoded(9)) + content(2, encoded(50)))
        + content(3, number(1, 1) + number(2, 0x400000) + number(3, 0x500000) + number(4, 0x1000) + number(5, 7) + number(6, 6))
        + content(4, number(1, 7) + content(4, number(1, 2) + number(2, 5)) + content(4, number(1, 1) + number(2, 9)))
        + content(4, number(1, 9) + number(2, 1) + number(3, 0x400010))
        + content(5, number(1, 1) + number(2, 3) + number(4, 4))
        + content(5, number(1, 2) + number(2, 5) + number(4, 4))
        + table(*TEXTS)
    )  # fmt: skip
    batch = pprof.decode(body, {}, NOW)
    (stack,) = batch.stacks
    assert [batch.frames[at] for at in stack] == [
        Frame("named", "inner", "main.c", 5),
        Frame("named", "main", "main.c", 9),
        Frame("native", file="/bin/x", build_id="build", address=0x1010),
    ]
    assert batch.samples == [Sample(0, 0, 0, 50, 1)]
    assert batch.start == NOW


def test_lists_of_numbers_may_come_one_by_one() -> None:
    location = content(4, number(1, 1) + content(4, number(1, 1))) + content(5, number(1, 1) + number(2, 3))
    sample = content(2, number(1, 1) + number(1, 1) + content(1, encoded(1)) + number(2, 5))
    batch = pprof.decode(CPU_TYPE + sample + location + table(*TEXTS), {}, NOW)
    assert (batch.stacks, batch.samples[0].value) == ([[0, 0, 0]], 5)


def test_labels_of_the_one_who_sends_win_over_those_in_the_profile() -> None:
    sample = content(2, content(2, encoded(5)) + content(3, number(1, 8) + number(2, 9)))
    body = CPU_TYPE + sample + table(*TEXTS)
    assert pprof.decode(body, {"app": "x"}, NOW).labels == [{"zone": "a", "app": "x"}]
    assert pprof.decode(body, {"zone": "b"}, NOW).labels == [{"zone": "b"}]


def test_a_deep_stack_is_cut_at_its_root_and_marked() -> None:
    location = content(4, number(1, 1) + content(4, number(1, 1))) + content(5, number(1, 1) + number(2, 3))
    sample = content(2, content(1, encoded(1) * 5000) + content(2, encoded(5)))
    batch = pprof.decode(CPU_TYPE + sample + location + table(*TEXTS), {}, NOW)
    assert len(batch.stacks[0]) == limits.DEPTH_MAX
    assert batch.frames[batch.stacks[0][-1]] == Frame("mark", "truncated")


@pytest.mark.parametrize(("time", "start"), [(0, NOW), (-5, NOW), (NOW + 59, NOW + 50), (NOW + 86400, NOW), (15, 10)])
def test_a_profile_of_the_future_or_of_no_time_is_of_now(time: int, start: int) -> None:
    body = CPU_TYPE + table(*TEXTS) + number(9, time * 1_000_000_000)
    assert pprof.decode(body, {}, NOW).start == start


BOMB = gzip.compress(bytes(limits.DECODED_BYTES_MAX + 1), 1)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "it has no sample_type"),
        (b"\x1f\x8b\x08", "gzip: ends too early"),
        (b"\x1f\x8b\x08\xff" + bytes(30), "gzip: Error -3 while decompressing data: unknown header flags set"),
        (BOMB, "more than 64 MiB when unpacked: send a shorter profile"),
        (b"<html>", "byte 1: a field of unknown kind 4"),
        (CPU_TYPE + table("", "cpu"), "string 2 of 2"),
        (CPU_TYPE + b"\x12\xff", "byte 8: a number without an end"),
        (CPU_TYPE + content(2, content(2, b"\x80")) + table(*TEXTS), "a list of numbers that ends within one"),
        (CPU_TYPE + content(2, content(2, b"\xff" * 10 + b"\x01")) + table(*TEXTS), "a number without an end in a list"),
        (CPU_TYPE + content(2, content(2, b"\x01\x01")) + table(*TEXTS), "a sample does not have one value for each of its 1 types"),
        (CPU_TYPE + content(2, content(1, b"\x01") + content(2, b"\x01")) + table(*TEXTS), "a sample is of a location that it does not have"),
        (CPU_TYPE + content(4, number(1, 1)) * 2 + table(*TEXTS), "two locations have the id 1"),
        (CPU_TYPE + content(5, b"") * (limits.ROWS_MAX + 1), "more than 300000 rows of a table: send a shorter profile"),
    ],
)  # fmt: skip
def test_what_is_no_profile_is_one_line(body: bytes, error: str) -> None:
    with pytest.raises(ValueError) as raised:
        pprof.decode(body, {}, NOW)
    assert str(raised.value) == f"not a pprof profile: {error}"


def test_inlined_functions_do_not_multiply_without_end() -> None:
    lines = content(4, number(1, 1)) * 1000
    body = (
        CPU_TYPE
        + content(2, content(1, encoded(1) * 10_000) + content(2, encoded(1)))
        + content(4, number(1, 1) + lines)
        + content(5, number(1, 1) + number(2, 3))
        + table(*TEXTS)
    )
    with pytest.raises(ValueError, match="more than 4000000 frames in all stacks: send a shorter profile"):
        pprof.decode(body, {}, NOW)


NUMBERS = st.one_of(st.integers(0, 12), st.integers(0, (1 << 64) - 1))


def _messages(depth: int) -> st.SearchStrategy[bytes]:
    plain = st.builds(number, st.integers(1, 15), NUMBERS)
    inner = st.binary(max_size=12) if depth == 0 else st.one_of(st.binary(max_size=12), _messages(depth - 1))
    return st.lists(st.one_of(plain, st.builds(content, st.integers(1, 15), inner)), max_size=12).map(b"".join)


def one_line_or_a_batch(decode: object, body: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        batch = decode(body, {"app": "x"}, NOW)  # type: ignore[operator]
    except ValueError as err:
        error = str(err)
    else:
        error = ""
    if error:
        assert "\n" not in error
        assert len(error) < 400
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=Batch) == batch
    store = Profiles(tmp_path_factory.mktemp("fuzz"))
    store.append(batch)
    for kind in {one.name for one in batch.types}:
        units = [one.unit for one in batch.types if one.name == kind]
        if ":" not in kind and units[0]:
            assert (
                "unreadable"
                not in store.select(Query(type=f"{kind}:{units[0]}", start=batch.start, end=batch.start + 10)).lost
            )


@settings(max_examples=150, deadline=None)
@given(body=st.one_of(st.binary(max_size=200), _messages(2).map(lambda body: CPU_TYPE + table(*TEXTS) + body)))
def test_whatever_comes_is_a_batch_or_one_line(body: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    one_line_or_a_batch(pprof.decode, body, tmp_path_factory)


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 2000), bits=st.integers(1, 255), cut=st.integers(0, 3000))
def test_a_damaged_profile_of_go_is_a_batch_or_one_line(
    at: int, bits: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    body = bytearray(gzip.decompress((SAMPLES / "go-cpu.pb.gz").read_bytes()))
    body[at % len(body)] ^= bits
    one_line_or_a_batch(pprof.decode, bytes(body[: cut or None]), tmp_path_factory)


@given(st.lists(st.lists(st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1)), max_size=5), max_size=8))
def test_packed_numbers(lists: list[list[int]]) -> None:
    data, spans = b"", []
    for numbers in lists:
        at = len(data)
        data += b"".join(map(encoded, numbers))
        spans.append((at, len(data)))
    values, counts = wire.packed(data, spans)
    assert counts.tolist() == [len(numbers) for numbers in lists]
    assert values.view(np.uint64).tolist() == [one for numbers in lists for one in numbers]


NATIVE = Frame("native", file="/usr/lib/libx.so", build_id="abcd", address=0x1234)
OTHER = Frame("native", file="/usr/lib/liby.so", build_id="", address=(1 << 64) - 1)
MARK = Frame("mark", "no-table")
PYTHON = Frame("python", "work;it", "app.py", 7)
BATCH = Batch(
    start=NOW,
    source="agent",
    types=[SampleType("cpu", "nanoseconds")],
    labels=[{}],
    frames=[NATIVE, OTHER, MARK, PYTHON],
    stacks=[[0, 3], [0, 1, 2]],
    samples=[Sample(0, 0, 0, 100, 2), Sample(0, 0, 1, 50, 1)],
    lost={"no-room": 4},
)
INLINED = {0x1234: [Line("inlined", "x.h", 3), Line("outer", "x.c", 9)]}


def test_what_is_exported_is_read_again(tmp_path: Path) -> None:
    body = pprof.encode(selection_of(tmp_path, BATCH), Plain(INLINED))
    decoded = pprof.decode_profile(body, {}, NOW, "push")
    batch = decoded.batch
    assert (batch.start, decoded.duration_s) == (NOW, 10)
    assert batch.types == [SampleType("samples", "count"), SampleType("cpu", "nanoseconds")]
    named = [Frame("named", "inlined", "x.h", 3), Frame("named", "outer", "x.c", 9)]
    truncation = Frame("named", "[nothing says how to unwind at this address]")
    found = {
        tuple(batch.frames[at] for at in batch.stacks[sample.stack]): (sample.value, sample.count)
        for sample in batch.samples
        if sample.type == 1
    }
    assert found == {
        (*named, Frame("named", "work;it", "app.py", 7)): (100, 2),
        (*named, OTHER, truncation): (50, 1),
    }


def test_exported_for_speedscope(tmp_path: Path) -> None:
    """The fields that https://www.speedscope.app/file-format-schema.json asks of a sampled profile."""
    document = json.loads(speedscope.encode(selection_of(tmp_path, BATCH), Plain(INLINED)))
    assert set(document) == {"$schema", "exporter", "name", "activeProfileIndex", "shared", "profiles"}
    frames, (profile,) = document["shared"]["frames"], document["profiles"]
    assert set(profile) == {"type", "name", "unit", "startValue", "endValue", "samples", "weights"}
    assert (profile["type"], profile["unit"], profile["startValue"], profile["endValue"]) == (
        "sampled",
        "nanoseconds",
        0,
        150,
    )
    assert profile["weights"] == [100, 50]
    assert [[frames[at]["name"] for at in stack] for stack in profile["samples"]] == [
        ["work;it", "outer", "inlined"],
        ["[nothing says how to unwind at this address]", "liby.so+0xffffffffffffffff", "outer", "inlined"],
    ]
    assert {"name": "inlined", "file": "x.h", "line": 3} in frames


def test_exported_as_folded_stacks(tmp_path: Path) -> None:
    assert folded.encode(selection_of(tmp_path, BATCH), Plain(INLINED)).decode() == (
        "[nothing says how to unwind at this address];liby.so+0xffffffffffffffff;outer;inlined 50\n"
        "work_it;outer;inlined 100\n"
    )


@pytest.mark.long
def test_go_opens_what_is_exported(tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not here")
    path = tmp_path / "out.pb.gz"
    path.write_bytes(pprof.encode(selection_of(tmp_path, BATCH), Plain(INLINED)))
    shown = subprocess.run([go, "tool", "pprof", "-raw", str(path)], capture_output=True, text=True, timeout=280)
    assert shown.returncode == 0, shown.stderr
    for part in (
        "samples/count cpu/nanoseconds[dflt]",
        "inlined x.h:3",
        "outer x.c:9",
        "/usr/lib/libx.so abcd [FN]",
        "Duration: 10s",
        "lost: 4 (no-room)",
    ):
        assert part in shown.stdout.replace(":0 s=0", "").replace("[FN][FL][LN][IN]", "[FN]"), shown.stdout


def test_strangers_bytes_are_decoded_in_the_sandbox() -> None:
    sandbox = Sandbox()
    try:
        body = (SAMPLES / "go-cpu.pb.gz").read_bytes()
        received = intake.receive(sandbox, "pprof", body, {"app": "busy"}, NOW)
        assert received == pprof.decode_profile(body, {"app": "busy"}, NOW, "push")
        with pytest.raises(ValueError, match="not a pprof profile: it has no sample_type"):
            intake.receive(sandbox, "pprof", b"", {}, NOW)
    finally:
        sandbox.close()
