"""Go's own table of functions: each version of the format as published, real Go programs, and broken ones."""

import os
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.components.profiling.symbols import golang
from trimtab.components.profiling.symbols.elf import ElfFile
from trimtab.components.profiling.symbols.sandbox import ParseError

TEXT = 0x401000
Function = tuple[str, int, str, list[tuple[int, int]]]
"""Name, size in bytes, file, and (bytes, line) of its stretches."""

PROGRAM: list[Function] = [
    ("internal/cpu.Initialize", 16, "internal/cpu/cpu.go", [(16, 12)]),
    ("main.(*T).work", 300, "example.org/main.go", [(10, 7), (200, 9), (90, 5)]),
    ("main.main", 40, "example.org/main.go", [(40, 100_000)]),
]
VERSIONS = {"1.16": 0xFFFFFFFA, "1.18": 0xFFFFFFF0, "1.20": 0xFFFFFFF1, "1.26": 0xFFFFFFF1}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def stretches(steps: list[tuple[int, int]]) -> bytes:
    """A pc-value table: differences of values, zigzag, and lengths."""
    out, before = b"", -1
    for length, value in steps:
        delta = value - before
        out += varint(delta << 1 if delta >= 0 else (~delta << 1) | 1) + varint(length)
        before = value
    return out + b"\0"


def table(version: str, functions: list[Function]) -> bytes:
    """What Go's linker writes, as far as names, files and lines go."""
    old = version == "1.16"
    names, files, values, units = bytearray(), bytearray(), bytearray(b"\0"), b""
    file_at: dict[str, int] = {}
    rows, entry = [], 0
    for name, size, file, lines in functions:
        if file not in file_at:
            file_at[file] = len(files)
            files += file.encode() + b"\0"
        number = len(units) // 4
        units += struct.pack("<I", file_at[file])
        places = []
        for steps in ([(size, 0)], lines):
            places.append(len(values))
            values += stretches(steps)
        start = entry + (TEXT if old else 0)
        rows.append(
            (start, struct.pack("<QiiIIIIII" if old else "<IiiIIIIII", start, len(names), 0, 0, 0, *places, 0, number))
        )
        names += name.encode() + b"\0"
        entry += size
    ends = entry + (TEXT if old else 0)
    pair = "<QQ" if old else "<II"
    at = (2 * len(rows) + 1) * (8 if old else 4)
    index, bodies = b"", b""
    for start, body in rows:
        index += struct.pack(pair, start, at + len(bodies))
        bodies += body
    functab = index + struct.pack(pair[:2], ends) + bodies
    text = [] if old else [0 if version == "1.26" else TEXT]
    parts = [bytes(names), units, bytes(files), bytes(values), functab]
    first = 8 + 8 * (7 if old else 8)
    offsets = [first + sum(map(len, parts[:n])) for n in range(5)]
    head = struct.pack("<IHBB", VERSIONS[version], 0, 1, 8)
    return head + struct.pack(f"<{len(text) + 7}Q", len(rows), len(file_at), *text, *offsets) + b"".join(parts)


def kept(content: bytes) -> bytes:
    return golang.HEAD.pack(golang.MAGIC, TEXT) + content


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_of_the_format_gives_names_files_and_lines(version: str) -> None:
    lines = golang.Lines(kept(table(version, PROGRAM)))
    at = TEXT
    for name, _, file, steps in PROGRAM:
        for length, line in steps:
            for address in (at, at + length - 1):
                assert lines.place(address) == (name.encode(), file.encode(), line)
            at += length
    assert lines.place(TEXT - 1) is None
    assert lines.place(at) is None
    lines.close()


def go_programs() -> list[str]:
    return [path for name in ("go", "runc", "containerd") if (path := shutil.which(name))]


@pytest.mark.parametrize("program", go_programs())
def test_real_programs_are_read_as_binutils_read_them(program: str) -> None:
    with open(program, "rb") as content:
        file = ElfFile(content.fileno())
        section = file.section(".gopclntab", ".data.rel.ro.gopclntab")
        if section is None:
            pytest.skip(f"{program} is not written in Go")
        lines = golang.Lines(golang.kept(file, section))
        text = next(s for s in file.sections if s.name == ".text")
    told = subprocess.run(["nm", "-S", program], capture_output=True, text=True, timeout=120).stdout
    rows = [
        line.split(" ", 3)
        for line in told.splitlines()
        if re.match(r"[0-9a-f]+ [0-9a-f]+ [tT] (runtime|os|syscall)\.[a-z]+$", line)
    ]
    for start, size, _, name in random.Random(1).sample(rows, min(300, len(rows))):
        found = lines.place(int(start, 16) + int(size, 16) // 2)
        assert found is not None
        assert found[0].decode() == name
        assert os.path.basename(found[1].decode()).endswith((".go", ".s", "<autogenerated>"))
    places = [lines.place(at) for at in range(text.address, text.address + text.size, 4096)]
    assert sum(place is not None for place in places) > len(places) // 2
    assert any(place is not None and place[0].startswith(b"runtime.") for place in places)
    lines.close()


@given(data=st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_broken_table_gives_places_or_one_line(data: st.DataObject) -> None:
    content = bytearray(kept(table(data.draw(st.sampled_from(sorted(VERSIONS))), PROGRAM)))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(60, len(content))) :]
    try:
        lines = golang.Lines(bytes(content))
        for address in range(TEXT, TEXT + 360, 7):
            lines.place(address)
    except ParseError as err:
        said = str(err)
    else:
        said = "Go's table of functions"
    assert said.startswith("Go's table of functions")


def test_what_is_no_table_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match=r"^Go's table of functions is cut short$"):
        golang.Lines(b"")
    with pytest.raises(ParseError, match=r"^Go's table of functions is of a version that is not known$"):
        golang.Lines(kept(b"\xfb\xff\xff\xff" + table("1.20", PROGRAM)[4:]))
