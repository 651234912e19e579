"""Go's table of functions as a way to unwind: a table made by hand, and damage."""

from __future__ import annotations

import struct

import pytest

from trimtab.components.profiling.agent import cfa, go_frames, layout, types

TEXT = 0x401000
TOP, WRITES_SP, ASSEMBLER = 1, 2, 4
HEAD_BYTES = 8 + 8 * 8


def table(functions: list[tuple[str, int, bytes, int]], *, version: int = 0xFFFFFFF1) -> memoryview:
    """Name, size, pairs of its table of the stack pointer, and flags, of functions that follow each other."""
    names, values, bodies, index = b"\0", b"\0", b"", []
    entry, after_index = 0, 4 * (2 * len(functions) + 1)
    for name, size, pairs, flags in functions:
        index += [entry, after_index + len(bodies)]
        bodies += struct.pack("<IiiIIIIIIiBBBB", entry, len(names), 0, 0, len(values), 0, 0, 0, 0, 1, 0, flags, 0, 0)
        names += name.encode() + b"\0"
        values += pairs + b"\0"
        entry += size
    content = struct.pack(f"<{2 * len(functions) + 1}I", *index, entry) + bodies
    places = HEAD_BYTES, HEAD_BYTES + len(names), HEAD_BYTES + len(names) + len(values)
    head = struct.pack("<IHBB8Q", version, 0, 1, 8, len(functions), 0, TEXT, places[0], 0, 0, places[1], places[2])
    return memoryview(head + names + values + content)


def rule(below: int) -> cfa.Rule:
    saved = (layout.RBP_AT_CFA, -16) if below else (layout.RBP_SAME, 0)
    return layout.CFA_REGISTER, cfa.RSP, saved[0], below + 8, saved[1], -8


# From -1: +1 is 0 for 4 bytes (zigzag 2), then +24 (zigzag 48) for 20, then -24 (zigzag 47) for 8.
FRAME = bytes([2, 4, 48, 20, 47, 8])
LEAF = bytes([2, 32])


def test_rows_follow_the_stack_pointer() -> None:
    found = list(go_frames.rows(table([("main.work", 32, FRAME, 0), ("main.leaf", 32, LEAF, 0)]), 0))
    assert found == [
        (TEXT, rule(0)),
        (TEXT + 4, rule(24)),
        (TEXT + 24, rule(0)),
        (TEXT + 32, rule(0)),
        (TEXT + 64, cfa.GAP),
    ]


def test_tops_of_stacks_end_and_switches_of_stacks_are_left_to_frame_pointers() -> None:
    functions = [
        ("runtime.goexit", 16, LEAF, TOP | ASSEMBLER),
        ("runtime.systemstack", 16, LEAF, WRITES_SP | ASSEMBLER),
        ("runtime.sigreturn__sigaction", 16, LEAF, ASSEMBLER),
    ]
    assert list(go_frames.rows(table(functions), 0)) == [
        (TEXT, cfa.END),
        (TEXT + 16, cfa.GAP),
        (TEXT + 31, cfa.SIGNAL),
        (TEXT + 48, cfa.GAP),
    ]


def test_damage_is_refused() -> None:
    whole = bytes(table([("main.work", 32, FRAME, 0)]))
    with pytest.raises(ValueError, match="version that is not known"):
        list(go_frames.rows(table([("main.work", 32, FRAME, 0)], version=0xFFFFFFFB), 0))
    for size in range(0, len(whole), 7):
        with pytest.raises((ValueError, IndexError, struct.error)):
            list(go_frames.rows(memoryview(whole[:size]), 0))


def test_types_are_those_that_are_known() -> None:
    assert types.parse("cpu, offcpu,cpu") == ("cpu", "offcpu")
    for text in ("", "cpu,heat"):
        with pytest.raises(
            ValueError, match="of cpu, offcpu, pagefaults, disk, network, allocations, separated by commas"
        ):
            types.parse(text)


def test_a_sample_stands_for_what_it_was_one_of() -> None:
    assert types.value(0, 3, 0, 1000) == 3000
    assert types.value(1, 3, 77, 1000) == 77
    assert types.value(2, 3, 0, 1000) == 3 * types.FAULTS
