"""Code objects of CPython: their names, files and lines, out of what BPF copied and out of the process' memory while it lives.

    python_codes (BPF) --> decode() --> Code --line_table() reads /proc/PID/mem--> Code.line(instruction)

What is read belongs to a program that may be hostile: sizes are bounded, and what makes no sense is left out.
"""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_right
from collections import OrderedDict
from sys import intern

from trimtab.components.profiling.agent.python_elf import Layout

LINE_TABLE_BYTES_MAX = 1 << 20
NAME_CHARACTERS_MAX = 1024

_TEXT = "4I"
NAME_BYTES, FILE_BYTES = 96, 192
_CODE = struct.Struct(f"<3Q2I{_TEXT}{_TEXT}{NAME_BYTES}s{FILE_BYTES}s")
CODE_BYTES = _CODE.size
_WIDTHS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
_MASK = (1 << 64) - 1


class Memory:
    """The memory of a process. Reads raise `OSError` when it has ended, or nothing is there."""

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, address: int, count: int) -> bytes:
        if not 0 < address < 1 << 47:
            raise OSError(f"no address of a process: {address:#x}")
        data = os.pread(self._fd, count, address)
        if len(data) < count:
            raise OSError(f"{count} bytes at {address:#x} are not all there")
        return data

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def text(self, layout: Layout, address: int) -> str:
        """A str, at most `NAME_CHARACTERS_MAX` characters of it."""
        length, state = self.word(address + 16), int.from_bytes(self.read(address + 32, 4), "little")
        state >>= 2 if state & 0x1C else 16  # bits of `interned`: 16 in some of 3.14; the kind is never 0
        width, compact, ascii_only = state & 7, state & 8, state & 16
        if not compact or width not in _WIDTHS:
            raise OSError(f"no str at {address:#x}")
        begin = address + (layout.ascii if ascii_only else layout.unicode)
        return self.read(begin, width * min(length, NAME_CHARACTERS_MAX)).decode(_WIDTHS[width], "replace")


def mix(value: int, word: int) -> int:
    """`mixed` of bpf/walk.h."""
    value = ((value ^ word) * 0x9E3779B97F4A7C15) & _MASK
    return value ^ (value >> 29)


def identity(process: int, address: int, file: int, name: int) -> int:
    """The key of a code object in the maps: its place in a process, and the objects that are its file and name."""
    return mix(mix(mix(process, address), file), name) | 1


LINE_MAX = 1 << 31
"""What a process says beyond this is no line."""


class Code:
    """A code object: `name` is the qualified one; `line()` is exact once its table was read."""

    __slots__ = ("_table", "address", "file", "first_line", "name", "pid", "process")

    def __init__(self, process: int, pid: int, address: int, name: str, file: str, first_line: int) -> None:
        self.process, self.pid, self.address = process, pid, address
        self.name, self.file, self.first_line = name, file, first_line
        self._table: bytes | None = None

    def keep(self, table: bytes) -> None:
        self._table = table

    def line(self, instruction: int) -> int:
        """Of the instruction at so many bytes from the code's begin; the function's first line when it is not known."""
        starts, found = LINES.of(self._table, self.first_line) if self._table else ((), ())
        if instruction >= 1 << 31 or not starts:
            return self.first_line
        line = found[bisect_right(starts, instruction >> 1) - 1]
        return line if 0 < line < LINE_MAX else self.first_line


def _text(width: int, length: int, begin: int, data: bytes) -> str:
    if width not in _WIDTHS:
        return ""
    kept = data[: min(width * (length - begin), len(data))]
    text = kept.decode(_WIDTHS[width], "replace")
    return f"…{text}" if begin else text


def decode(record: bytes) -> tuple[Code, bool]:
    """A code object as BPF copied it, and whether its name is whole."""
    _, address, process, pid, first_line, *rest = _CODE.unpack(record)
    name_length, _, name_width, _, file_length, file_begin, file_width, _, name, file = rest
    code = Code(
        process,
        pid,
        address,
        intern(_text(name_width, name_length, 0, name) or "?"),
        intern(_text(file_width, file_length, file_begin, file)),
        first_line,
    )
    return code, name_length * name_width <= NAME_BYTES and not file_begin


def complete(code: Code, key: int, memory: Memory, layout: Layout, *, whole: bool) -> None:
    """Reads the table of lines, and what was cut of the names, if the memory still holds this very code object.
    Raises `OSError` when the process has ended or its memory changed."""
    file, name = (memory.word(code.address + offset) for offset in (layout.filename, layout.qualified_name))
    if identity(code.process, code.address, file, name) != key:
        raise OSError("another object is there now")
    if not whole:
        code.name, code.file = memory.text(layout, name), memory.text(layout, file)
    table = memory.word(code.address + layout.line_table)
    if (size := memory.word(table + 16)) <= LINE_TABLE_BYTES_MAX:
        code.keep(memory.read(table + 32, size))


def _variable(table: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = table[place]
        place += 1
        value |= (byte & 63) << shift
        shift += 6
        if not byte & 64:
            return value, place


def lines(table: bytes, first_line: int) -> tuple[list[int], list[int]]:
    """Begins (in code units) and lines (0: of no line) of a location table of 3.11 and later, by CPython's Objects/locations.md; what
    comes after damage is left out."""
    starts, found = [], []
    unit, line, place = 0, first_line, 0
    try:
        while place < len(table):
            head = table[place]
            kind, place = head >> 3 & 15, place + 1
            if kind in (13, 14):
                delta, place = _variable(table, place)
                line += -(delta >> 1) if delta & 1 else delta >> 1
                for _ in range(3 if kind == 14 else 0):
                    _, place = _variable(table, place)
            elif 10 <= kind <= 12:
                line, place = line + kind - 10, place + 2
            elif kind < 10:
                place += 1
            starts.append(unit)
            found.append(0 if kind == 15 else line)
            unit += (head & 7) + 1
    except IndexError:
        pass
    return starts, found


class Lines:
    """Tables of lines that were decoded: processes that run the same code share them, the same bytes being the same lines."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max, self._bytes = bytes_max, 0
        self._decoded: OrderedDict[tuple[bytes, int], tuple[array[int], array[int]]] = OrderedDict()

    def of(self, table: bytes, first_line: int) -> tuple[array[int], array[int]]:
        """As `lines`."""
        known = self._decoded.get((table, first_line))
        if known:
            self._decoded.move_to_end((table, first_line))
            return known
        starts, found = lines(table, first_line)
        decoded = array("q", starts), array("q", (line if abs(line) < LINE_MAX else 0 for line in found))
        self._decoded[table, first_line] = decoded
        self._bytes += _taken(table, decoded)
        while self._bytes > self._bytes_max:
            (old, _), gone = self._decoded.popitem(last=False)
            self._bytes -= _taken(old, gone)
        return decoded


def _taken(table: bytes, decoded: tuple[array[int], array[int]]) -> int:
    return len(table) + 16 * len(decoded[0]) + 300


LINES_BYTES_MAX = 8 << 20
LINES = Lines(LINES_BYTES_MAX)
