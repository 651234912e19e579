"""Names from an ELF file's symbol tables, as a table that is searched without reading it.

    .symtab, .dynsym or both --functions, sorted by address--> starts | ends | offsets of names | names

Runs in the sandbox. A place belongs to a symbol only within its size: between two exported functions of a stripped library lie others,
whose names nobody knows. A symbol without a size (of assembler) reaches to the next one of its section.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from trimtab.components.profiling.symbols.elf import ElfFile, Section
from trimtab.components.profiling.symbols.sandbox import ParseError

MAGIC = b"TTSYMS1\n"
HEAD = struct.Struct("<8sQQ")
SYMBOLS_BYTES_MAX = 512 << 20
STRINGS_BYTES_MAX = 512 << 20
NAME_MAX = 4096
NESTED_MAX = 8
"""So many symbols that begin before a place are tried: functions seldom lie within others."""

_SYMBOL = struct.Struct("<IBBHQQ")
_FUNCTIONS = {0, 2, 10}
"""STT_NOTYPE, which assembler's labels have; STT_FUNC, STT_GNU_IFUNC."""
_GLOBAL, _WEAK = 1, 2
_LOW, _HIGH = 1, 0xFF00
"""Indexes of real sections."""
_EXECUTED = 4

Row = tuple[int, int, bytes]
"""Start, end, name."""
Found = tuple[int, int, int, bytes]
"""Start, end (below zero: the end of its section, for want of a size), how little the name is preferred, name."""


def rows(file: ElfFile, section: Section) -> Iterator[Found]:
    """The functions of one symbol table."""
    if not 0 < section.link < len(file.sections):
        raise ParseError("a symbol table without names")
    names = file.content(file.sections[section.link], STRINGS_BYTES_MAX)
    content = file.content(section, SYMBOLS_BYTES_MAX)
    executed = {index for index, one in enumerate(file.sections) if one.flags & _EXECUTED}
    for name_at, info, _, index, value, size in _SYMBOL.iter_unpack(content[: len(content) - len(content) % 24]):
        kind, binding = info & 15, info >> 4
        if kind not in _FUNCTIONS or not _LOW <= index < _HIGH or index not in executed or name_at >= len(names):
            continue
        end = names.find(b"\0", name_at, name_at + NAME_MAX)
        name = names[name_at : end if end >= 0 else name_at + NAME_MAX]
        if not name or (
            kind == 0 and not size and name.startswith((b"$", b".L", b"_L"))
        ):  # mapping symbols, local labels
            continue
        reach = file.sections[index].address + file.sections[index].size
        ends = value + size if size else -reach
        yield value, ends, {_GLOBAL: 0, _WEAK: 1}.get(binding, 2) + (3 if kind == 0 else 0), name


def build(file: ElfFile, sections: Iterable[Section]) -> bytes:
    """The table of all functions of these symbol tables; empty when there are none."""
    return merged(row for section in sections for row in rows(file, section))


def merged(found: Iterable[Found]) -> bytes:
    """Of several names at one address the most public one."""
    best: dict[int, tuple[int, int, bytes]] = {}
    for start, end, rank, name in found:
        known = best.get(start)
        if known is None or (rank, end < 0, name) < (known[0], known[1] < 0, known[2]):
            best[start] = (rank, end, name)
    return packed([(start, *best[start][1:]) for start in sorted(best)])


def packed(found: list[Row]) -> bytes:
    """found: sorted by start. An end below zero is the end of the section, reached if no symbol begins before."""
    starts, ends, offsets, names = [], [], [], bytearray()
    known: dict[bytes, int] = {}
    for index, (start, end, name) in enumerate(found):
        if end < 0:
            end = min(-end, found[index + 1][0]) if index + 1 < len(found) else -end
        starts.append(start)
        ends.append(min(end, (1 << 64) - 1))
        if name not in known:
            known[name] = len(names)
            names += name + b"\0"
        offsets.append(known[name])
    if not starts:
        return b""
    count = len(starts)
    return (
        HEAD.pack(MAGIC, count, len(names))
        + struct.pack(f"<{count}Q{count}Q{count}Q", *starts, *ends, *offsets)
        + names
    )


class Table:
    """A table that `build` made. Raises `ParseError` when it is none."""

    def __init__(self, content: bytes | mmap.mmap) -> None:
        if len(content) < HEAD.size:
            raise ParseError("not a table of symbols")
        magic, count, size = HEAD.unpack_from(content)
        if magic != MAGIC or HEAD.size + 24 * count + size != len(content):
            raise ParseError("not a table of symbols")
        self._content = content
        whole = memoryview(content)
        stretch = whole[HEAD.size : HEAD.size + 24 * count]
        numbers = stretch.cast("Q")
        self._starts, self._ends, self._offsets = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
        self._held = numbers, stretch, whole
        self._names_at = HEAD.size + 24 * count

    def close(self) -> None:
        """Lets go of the content."""
        for view in (self._starts, self._ends, self._offsets, *self._held):
            view.release()

    def name(self, address: int) -> bytes:
        """Of the innermost symbol that the address lies in; empty when it lies in none."""
        last = bisect_right(self._starts, address) - 1
        for index in range(last, max(-1, last - NESTED_MAX), -1):
            if address < self._ends[index]:
                at = self._names_at + self._offsets[index]
                end = self._content.find(b"\0", at)
                return bytes(self._content[at : end if end >= 0 else at])
        return b""
