"""What a pprof profile costs to read and to write: 10,000 samples of depth 25, 5,000 locations, 3,000 functions.

    python benchmarks/profiling_pprof.py

Beside it, where the protobuf package is installed, its parser with the same profile walked into tuples; the schema is made here from the
published field numbers. CPU time, best of five, with the machine's load.
"""

from __future__ import annotations

import gzip
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trimtab.components.profiling.batch import Frame
from trimtab.components.profiling.formats import pprof
from trimtab.components.profiling.formats.wire import content, encoded, number
from trimtab.components.profiling.storage.store import Profiles, Query

NOW = 1_900_000_000


class Named(msgspec.Struct):
    lines: list[Frame]


class Plain:
    def names(self, frames: Sequence[Frame]) -> list[Named]:
        return [Named([frame]) for frame in frames]


def profile() -> bytes:
    chance, parts = random.Random(1), [content(1, number(1, 1) + number(2, 2)), content(1, number(1, 3) + number(2, 4))]
    for _ in range(10_000):
        stack = b"".join(encoded(chance.randrange(1, 5001)) for _ in range(25))
        parts.append(content(2, content(1, stack) + content(2, encoded(chance.randrange(1, 5)) + encoded(10_000_000))))
    parts.append(content(3, number(1, 1) + number(3, 1 << 40) + number(5, 5)))
    for index in range(5000):
        line = content(4, number(1, index % 3000 + 1) + number(2, index))
        parts.append(content(4, number(1, index + 1) + number(2, 1) + number(3, index * 16 + 1) + line))
    parts += [content(5, number(1, index + 1) + number(2, index + 6) + number(4, 5)) for index in range(3000)]
    texts = [
        "",
        "samples",
        "count",
        "cpu",
        "nanoseconds",
        "/usr/bin/x",
        *(f"function_{index}" for index in range(3000)),
    ]
    return b"".join([*parts, *(content(6, text.encode()) for text in texts)])


def peer() -> Callable[[bytes], Any] | None:
    """The protobuf package's parser, and a walk to where our decoder ends: stacks of (function, line) and values."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        return None
    file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="p", syntax="proto3")
    int64, text, message = 3, 9, 11

    def add(name: str, *fields: tuple[str, int, int, bool, str]) -> None:
        made = file.message_type.add(name=name)
        for title, numbered, kind, repeated, of in fields:
            field = made.field.add(name=title, number=numbered, type=kind, label=3 if repeated else 1)
            if of:
                field.type_name = f".p.{of}"

    add("Sample", ("location_id", 1, int64, True, ""), ("value", 2, int64, True, ""))
    add("Line", ("function_id", 1, int64, False, ""), ("line", 2, int64, False, ""))
    add("Location", ("id", 1, int64, False, ""), ("line", 4, message, True, "Line"))
    add("Function", ("id", 1, int64, False, ""), ("name", 2, int64, False, ""))
    tables = (("sample", 2, "Sample"), ("location", 4, "Location"), ("function", 5, "Function"))
    add("Profile", *((title, at, message, True, of) for title, at, of in tables), ("string_table", 6, text, True, ""))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("p.Profile"))

    def read(body: bytes) -> Any:
        found = kind.FromString(gzip.decompress(body))
        functions = {one.id: found.string_table[one.name] for one in found.function}
        places = {
            one.id: tuple((functions[line.function_id], line.line) for line in one.line) for one in found.location
        }
        return [
            (tuple(line for place in one.location_id for line in places[place]), list(one.value))
            for one in found.sample
        ]

    return read


def timed(title: str, work: Callable[[], Any]) -> None:
    spent = []
    for _ in range(5):
        before = time.process_time()
        work()
        spent.append(time.process_time() - before)
    print(f"{title}: {1000 * min(spent):.0f} ms of CPU")


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    plain = profile()
    body = gzip.compress(plain, 6)
    print(f"{len(plain):,} bytes, {len(body):,} gzipped")
    timed("read into a batch", lambda: pprof.decode(body, {}, NOW))
    if read := peer():
        timed("protobuf: parsed and walked into tuples", lambda: read(body))
    with tempfile.TemporaryDirectory() as directory:
        store = Profiles(Path(directory))
        store.append(pprof.decode(body, {}, NOW))
        selection = store.select(Query(start=NOW, end=NOW + 10))
        timed("written from a selection", lambda: pprof.encode(selection, Plain()))


if __name__ == "__main__":
    main()
