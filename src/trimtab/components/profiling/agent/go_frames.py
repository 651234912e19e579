"""How to unwind Go: from the table of its own runtime, .gopclntab, which no stripping removes. Frame pointers do not do: a function that
calls nothing sets up none, and the chain leaves out its caller.

    .gopclntab: by function, how far the stack pointer is below the return address, address by address --> rows as of .eh_frame

Functions at the top of a stack end it; where one writes the stack pointer itself (onto the system's stack), frame pointers go on. What is
read is bounded, as in the file it is hostile.
Facts of the format: Go's src/runtime/symtab.go, src/internal/abi/symtab.go (flags) and src/debug/gosym/pclntab.go; 1.18 to 1.26.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from trimtab.components.profiling.agent import cfa, layout

TABLE_BYTES_MAX = 256 << 20
FUNCTIONS_MAX = 1 << 20
STRETCHES_MAX = 100_000
FRAME_BYTES_MAX = 1 << 30

_1_18, _1_20 = 0xFFFFFFF0, 0xFFFFFFF1
_HEAD = struct.Struct("<IHBB8Q")
_FLAGS_AT = {_1_18: 37, _1_20: 41}
_TOP_FRAME, _WRITES_SP, _ASSEMBLER = 1, 2, 4
_SIGNAL_RETURN = (b"runtime.sigreturn__sigaction\0", b"runtime.sigreturn\0")
Stretches = list[tuple[int, int]]
"""From this byte of a function on, the stack pointer is so far below the return address."""


def rows(data: memoryview, text: int) -> Iterator[cfa.Row]:
    """Addresses and what holds from them on, of the section's bytes; `text`: the address of .text. Raises `ValueError`, `IndexError` and
    `struct.error`: no such table, or damage."""
    version, zero, quantum, pointer, count, _, start, names, _, _, values, functions = _HEAD.unpack_from(data)
    if version not in _FLAGS_AT or zero or quantum != 1 or pointer != 8 or count > FUNCTIONS_MAX:
        raise ValueError("Go's table of functions is of a version that is not known")
    base = start or text
    index = struct.unpack_from(f"<{2 * count + 1}I", data, functions)
    known: dict[int, Stretches] = {}
    for number in range(count):
        entry, place, end = index[2 * number], functions + index[2 * number + 1], index[2 * number + 2]
        (name,), (stack,) = struct.unpack_from("<i", data, place + 4), struct.unpack_from("<I", data, place + 16)
        flags = data[place + _FLAGS_AT[version]]
        if flags & _ASSEMBLER and _starts(data, names + name):
            # The kernel made it the return address, and callers are looked up one byte before: that byte belongs to it, too.
            yield base + entry - 1, cfa.SIGNAL
        elif flags & _TOP_FRAME:
            yield base + entry, cfa.END
        elif flags & _WRITES_SP or not stack:
            yield base + entry, cfa.GAP
        else:
            if stack not in known:
                known[stack] = _stretches(data, values + stack)
            for at, below in known[stack]:
                if entry + at < end:
                    yield base + entry + at, _rule(below)
    yield base + index[2 * count], cfa.GAP


def _starts(data: memoryview, place: int) -> bool:
    return any(bytes(data[place : place + len(name)]) == name for name in _SIGNAL_RETURN)


def _rule(below: int) -> cfa.Rule:
    """The caller's frame pointer is the first thing that is pushed."""
    if not 0 <= below <= FRAME_BYTES_MAX:
        return cfa.GAP
    saved = (layout.RBP_AT_CFA, -16) if below >= 8 else (layout.RBP_SAME, 0)
    return layout.CFA_REGISTER, cfa.RSP, saved[0], below + 8, saved[1], cfa.RETURN_AT


def _stretches(data: memoryview, place: int) -> Stretches:
    found: Stretches = []
    value, at = -1, 0
    for step in range(STRETCHES_MAX):
        delta, place = cfa.uleb(data, place)
        if not delta and step:
            return found
        value += ~(delta >> 1) if delta & 1 else delta >> 1
        found.append((at, value))
        length, place = cfa.uleb(data, place)
        at += length
    raise ValueError("Go's table of functions has no end")
