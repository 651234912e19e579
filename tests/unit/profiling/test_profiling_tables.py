"""Unwind tables against programs compiled here, against the other way of making them, and against hostile input."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.components.profiling.agent import cfa, elf, lanes, layout, tables

LIBC = Path("/usr/lib/x86_64-linux-gnu/libc.so.6")
SOURCE = """
int leaf(int x) { return x + 1; }
__attribute__((noinline)) int with_array(int n) { volatile char room[4000]; room[n] = 1; return leaf(room[n]); }
int main(int argc, char **argv) { return with_array(argc); }
"""


def table_of(path: Path) -> tables.Table:
    fd = os.open(path, os.O_RDONLY)
    try:
        return tables.read(tables.build([fd]))
    finally:
        os.close(fd)


def rules_of(table: tables.Table) -> list[tuple[int, cfa.Rule]]:
    rules = np.frombuffer(table.rules, layout.RULE)[np.frombuffer(table.which, "<u2")]
    names = ("cfa", "reg", "rbp", "cfa_offset", "rbp_offset", "more")
    offsets = np.frombuffer(table.offsets, "<u4").tolist()
    return [(at, tuple(int(rule[name]) for name in names)) for at, rule in zip(offsets, rules, strict=True)]  # type: ignore[misc]


def rule_at(table: tables.Table, offset: int) -> cfa.Rule:
    return max(row for row in rules_of(table) if row[0] <= offset)[1]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("no gcc: nothing to compile the known program with")
    (tmp_path / "known.c").write_text(SOURCE)
    subprocess.run(["gcc", "-O1", "-fomit-frame-pointer", "-o", "known", "known.c"], cwd=tmp_path, check=True)
    return tmp_path / "known"


def place_of(program: Path, symbol: str) -> int:
    """A function's offset in the file: programs are linked here with addresses that are offsets of their first segments."""
    listed = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    return next(int(line.split()[0], 16) for line in listed.splitlines() if line.split()[-1] == symbol)


def test_a_compiled_program_has_the_rows_that_its_code_asks_for(program: Path) -> None:
    table = table_of(program)

    before = rule_at(table, place_of(program, "with_array"))
    inside = {rule[3] for at, rule in rules_of(table) if 0 < at - place_of(program, "with_array") < 60}
    assert before == (layout.CFA_REGISTER, cfa.RSP, layout.RBP_SAME, 8, 0, cfa.RETURN_AT)
    assert any(offset > 2000 for offset in inside), "nothing says that the array is on the stack"
    assert rule_at(table, place_of(program, "_start"))[0] == layout.CFA_END
    assert table.skipped == 0


def test_entries_of_the_procedure_linkage_table_and_signal_frames_are_followed() -> None:
    kinds = {rule[0] for _, rule in rules_of(table_of(LIBC))}

    assert {layout.CFA_PLT, layout.CFA_SIGNAL, layout.CFA_REGISTER, layout.CFA_END, layout.CFA_GAP} <= kinds


def test_all_at_once_is_the_same_as_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = table_of(LIBC)
    monkeypatch.setattr(lanes, "LANES_MIN", 1 << 40)
    slow = table_of(LIBC)

    assert rules_of(quick) == rules_of(slow)
    assert quick.rows > 10_000


def elf_file(frames: bytes) -> bytes:
    """An ELF file with 1 MB of code at 0x100000 and this .eh_frame, found by its program header alone."""
    headers = 64 + 3 * 56
    header_at, frames_at = headers, headers + 8
    size = frames_at + len(frames)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    code = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x100000, 0, 1 << 20, 1 << 20, 4096)
    data = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, size, size, 4096)
    index = struct.pack("<IIQQQQQQ", 0x6474E550, 4, header_at, header_at, 0, 8, 8, 4)
    return head + code + data + index + b"\x01\x1b\xff\xff" + struct.pack("<i", 4) + frames


def record(identity: int, body: bytes) -> bytes:
    return struct.pack("<II", 4 + len(body), identity) + body


CIE = record(0, b"\x01zR\0\x01\x78\x10\x01\x1b\x0c\x07\x08\x90\x01\0\0")


def frames_of(programs: list[bytes]) -> bytes:
    """One CIE and a function of 4 KB for each program."""
    frames = CIE
    for index, program in enumerate(programs):
        place = 64 + 3 * 56 + 8 + len(frames)
        began = 0x100000 + index * 4096 - (place + 8)
        frames += record(len(frames) + 4, struct.pack("<iI", began, 4096) + b"\0" + program)
    return frames + bytes(4)


INSTRUCTIONS = """00 41 44 0210 031001 0e10 0e9001 8602 8303 0d06 0c0708 0a 0b c6 c3 0710 2e10 86ff7f 8f02 0c0610 0d0a 0f03770806 1006027600
    16060130 050602 0806 9002"""
usual = st.sampled_from([bytes.fromhex(instruction) for instruction in INSTRUCTIONS.split()])
programs = st.lists(st.lists(usual, max_size=14).map(b"".join), min_size=1, max_size=6)


@given(programs)
@settings(max_examples=150, deadline=None)
def test_any_instructions_mean_the_same_both_ways(found: list[bytes]) -> None:
    content = memoryview(elf_file(frames_of(found)))
    before = lanes.LANES_MIN
    try:
        lanes.LANES_MIN = 1
        quick = tables.read(tables.of_bytes(content))
    finally:
        lanes.LANES_MIN = before
    slow = tables.read(tables.of_bytes(content))

    assert rules_of(quick) == rules_of(slow)
    assert quick.skipped == slow.skipped


@given(st.binary(max_size=400), st.binary(max_size=64), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_a_hostile_file_gives_a_table_or_one_line(noise: bytes, patch: bytes, place: int) -> None:
    content = bytearray(elf_file(frames_of([noise[:100]]) + noise))
    content[place : place + len(patch)] = patch
    said = ""
    offsets = np.empty(0, np.int64)
    try:
        offsets = np.frombuffer(tables.read(tables.of_bytes(memoryview(bytes(content)))).offsets, "<u4").astype(
            np.int64
        )
    except ValueError as err:
        said = str(err)
    assert "\n" not in said
    assert (np.diff(offsets) > 0).all()


def test_what_is_no_elf_file_is_said_so() -> None:
    with pytest.raises(ValueError, match="not a 64-bit little-endian ELF file"):
        elf.read(memoryview(b"#!/bin/sh\n" * 20))


def test_a_kept_table_of_another_version_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tables.of_bytes(memoryview(elf_file(frames_of([b"\x41\x0e\x10"]))))
    monkeypatch.setattr(tables, "VERSION", tables.VERSION + 1)

    with pytest.raises(ValueError, match="of version"):
        tables.read(kept)


@pytest.mark.parametrize(
    ("expression", "rule"),
    [
        ("770880003f1a3b2a332422", (layout.CFA_PLT, cfa.RSP, 0, 8, 0, 11)),
        ("770880003f1a3a2a332422", (layout.CFA_PLT, cfa.RSP, 0, 8, 0, 10)),
        ("767806", (layout.CFA_DEREF, cfa.RBP, 0, -8, 0, 0)),
        ("77300623 08", (layout.CFA_DEREF, cfa.RSP, 0, 48, 0, 8)),
        ("77a00106", cfa.SIGNAL),
        ("9119", cfa.UNSUPPORTED),
    ],
)
def test_the_usual_expressions(expression: str, rule: cfa.Rule) -> None:
    state = cfa.by_expression(cfa.State(), bytes.fromhex(expression))

    assert state.rule() == rule
