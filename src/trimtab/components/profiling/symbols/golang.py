"""Names of Go programs from the table that the Go runtime itself uses, which no stripping removes: runs in the sandbox.

    .gopclntab --as it is, with the start of the code--> kept  --search by address--> function, file, line

Facts of the format: Go's src/internal/abi/symtab.go (versions), src/runtime/symtab.go and src/debug/gosym/pclntab.go (layout),
and the release notes of Go 1.26 (the start of the code is no longer in it). Of the versions 1.16, 1.18 and 1.20, which is 1.26's, too.
Functions that were inlined are named by the function that they went into.
"""

from __future__ import annotations

import struct
from typing import Any

from trimtab.components.profiling.symbols.elf import ElfFile, Section
from trimtab.components.profiling.symbols.sandbox import ParseError

MAGIC = b"TTGOPC1\n"
HEAD = struct.Struct("<8sQ")
TABLE_BYTES_MAX = 512 << 20
STEPS_MAX = 1 << 20
_1_16, _1_18, _1_20 = 0xFFFFFFFA, 0xFFFFFFF0, 0xFFFFFFF1
_NO_FILE = 0xFFFFFFFF


def kept(file: ElfFile, section: Section) -> bytes:
    """What is kept of a Go program. Raises `ParseError` when its table is of no known version."""
    text = next((s.address for s in file.sections if s.name == ".text"), 0)
    content = HEAD.pack(MAGIC, text) + file.content(section, TABLE_BYTES_MAX)
    Lines(content)
    return content


class Lines:
    """A table that `kept` made. Raises `ParseError` when it is none."""

    def __init__(self, content: Any) -> None:
        data = whole = memoryview(content)
        if len(data) < HEAD.size + 8 + 8 * 8:
            raise ParseError("Go's table of functions is cut short")
        magic, text = HEAD.unpack_from(data)
        data = data[HEAD.size :]
        self._held = data, whole
        version, zero, self._quantum, pointer = struct.unpack_from("<IHBB", data)
        if (
            magic != MAGIC
            or zero
            or version not in (_1_16, _1_18, _1_20)
            or pointer != 8
            or self._quantum not in (1, 2, 4)
        ):
            raise ParseError("Go's table of functions is of a version that is not known")
        words = struct.unpack_from("<8Q", data, 8)
        self._new = version != _1_16
        self._count = words[0]
        self._text = (words[2] or text) if self._new else 0
        offsets = words[3:8] if self._new else words[2:7]
        if any(offset > len(data) for offset in offsets):
            raise ParseError("Go's table of functions is cut short")
        self._names, self._units, self._files, self._values, self._functions = (data[offset:] for offset in offsets)
        size = (2 * self._count + 1) * (4 if self._new else 8)
        if not self._count or size > len(self._functions):
            raise ParseError("Go's table of functions is cut short")
        self._index = self._functions[:size].cast("I") if self._new else self._functions[:size].cast("Q")

    def close(self) -> None:
        """Lets go of the content."""
        for view in (self._index, self._names, self._units, self._files, self._values, self._functions, *self._held):
            view.release()

    def place(self, address: int) -> tuple[bytes, bytes, int] | None:
        """Function, file and line of an address; None when it is in no function. Raises `ParseError` when the table is broken."""
        pc = address - self._text
        if not self._index[0] <= pc < self._index[2 * self._count]:
            return None
        low, high = 0, self._count
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._index[2 * middle] <= pc else (low, middle)
        return self._function(self._index[2 * low + 1], pc)

    def _function(self, at: int, pc: int) -> tuple[bytes, bytes, int]:
        try:
            if self._new:
                entry, name, _, _, _, files, lines, _, unit = struct.unpack_from("<IiiIIIIII", self._functions, at)
            else:
                entry, name, _, _, _, files, lines, _, unit = struct.unpack_from("<QiiIIIIII", self._functions, at)
            function = _text(self._names, name)
            line = self._value(lines, entry, pc)
            number = self._value(files, entry, pc)
            file = b""
            if number >= 0:
                (offset,) = struct.unpack_from("<I", self._units, 4 * (unit + number))
                file = _text(self._files, offset) if offset != _NO_FILE else b""
        except (struct.error, IndexError) as err:
            raise ParseError("Go's table of functions is broken") from err
        return function, file, max(line, 0)

    def _value(self, at: int, entry: int, pc: int) -> int:
        """Of a table of stretches of code: what holds at `pc`; -1 when nothing does."""
        if not at:
            return -1
        value, here = -1, entry
        for step in range(STEPS_MAX):
            delta, at = self._varint(at)
            if not delta and step:
                return -1
            value += ~(delta >> 1) if delta & 1 else delta >> 1
            length, at = self._varint(at)
            here += length * self._quantum
            if pc < here:
                return value
        return -1

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 35, 7):
            byte = self._values[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFF, at
        raise IndexError


def _text(data: memoryview, at: int, most: int = 4096) -> bytes:
    if not 0 <= at < len(data):
        raise IndexError
    return bytes(data[at : at + most]).partition(b"\0")[0]
