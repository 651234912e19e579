"""What an ELF file says of itself: which build it is, what is mapped where, and what it has of names.

    descriptor --header, program headers, section headers--> `ElfFacts`

Reads by offset and never the whole file (but for the hash of one without a build id). Every number in the file is a stranger's: each
is checked against the file's size before it is used, and what is wrong is one line. Source of the format: System V ABI, "Object Files",
and Linux' include/uapi/linux/elf.h.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from trimtab.components.profiling.symbols.sandbox import FDS_MAX, ParseError, Sandbox, one_line

SEGMENTS_MAX = 4096
SECTIONS_MAX = 100_000
NOTES_BYTES_MAX = 1 << 20
NAMES_BYTES_MAX = 8 << 20
BUILD_ID_BYTES = range(4, 65)
CHUNK_BYTES = 1 << 20

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NOTE = struct.Struct("<III")
_TYPES: dict[int, Literal["rel", "exec", "dyn", "core"]] = {1: "rel", 2: "exec", 3: "dyn", 4: "core"}
_MACHINES = {62: "x86_64", 183: "aarch64", 243: "riscv64"}
_PT_LOAD, _PT_NOTE = 1, 4
_SHT_SYMTAB, _SHT_NOTE, _SHT_NOBITS, _SHT_DYNSYM = 2, 7, 8, 11
_NT_GNU_BUILD_ID = 3


class Segment(Struct, frozen=True):
    """What of the file is mapped where. flags: 1 execute, 2 write, 4 read."""

    offset: int
    vaddr: int
    filesz: int
    memsz: int
    flags: int


class Section(Struct, frozen=True):
    name: str
    type: int
    address: int
    offset: int
    size: int
    link: int
    flags: int


class ElfFacts(Struct, frozen=True):
    """Of one file. All addresses are the file's own virtual ones."""

    build_id: str
    """hex; of a file without one, `sha256-` and the first 40 digits of the hash of its content."""
    type: Literal["rel", "exec", "dyn", "core"]
    machine: str
    size: int
    entry: int
    segments: list[Segment]
    has_symtab: bool
    has_dynsym: bool
    has_dwarf: bool
    has_minidebug: bool
    """A compressed symbol table in `.gnu_debugdata` (Fedora's way)."""
    debuglink: str
    """The name of a separate file with debug information; empty when none is named."""
    go: bool
    has_code: bool
    """Whether the code itself is in the file; files of debug information leave it out."""

    @property
    def has_own_id(self) -> bool:
        return not self.build_id.startswith("sha256-")

    def address(self, offset: int) -> int | None:
        """The virtual address of a place in the file that is mapped to be executed."""
        for segment in self.segments:
            if segment.flags & 1 and segment.offset <= offset < segment.offset + segment.filesz:
                return segment.vaddr + offset - segment.offset
        return None


def examine(sandbox: Sandbox, fds: Sequence[int]) -> list[ElfFacts | ParseError]:
    """What each file says, or why it says nothing, read in the sandbox. Raises `TimeoutError` and `OSError`, of the sandbox."""
    found: list[ElfFacts | ParseError] = []
    for first in range(0, len(fds), FDS_MAX):
        some = fds[first : first + FDS_MAX]
        answers = sandbox.run("symbols.elf:facts", fds=some)
        try:
            read = msgspec.convert(answers, list[ElfFacts | str])
        except msgspec.ValidationError as err:
            raise ParseError(f"the parser's answer cannot be read: {err}") from err
        if len(read) != len(some):
            raise ParseError("the parser's answer is not whole")
        found += [ParseError(one_line(fact)) if isinstance(fact, str) else fact for fact in read]
    return found


def facts(fds: Sequence[int]) -> list[Any]:
    """Runs in the sandbox: for each file its facts, or a line."""
    answers: list[Any] = []
    for fd in fds:
        try:
            answers.append(msgspec.to_builtins(read(fd)))
        except ParseError as err:
            answers.append(str(err))
    return answers


def read(fd: int) -> ElfFacts:
    """Raises `ParseError`."""
    file = ElfFile(fd)
    sections = file.sections
    names = {section.name for section in sections if section.type != _SHT_NOBITS}
    return ElfFacts(
        build_id=file.build_id() or content_id(fd),
        type=file.type,
        machine=file.machine,
        size=file.size,
        entry=file.entry,
        segments=file.segments,
        has_symtab=any(s.type == _SHT_SYMTAB and s.size for s in sections),
        has_dynsym=any(s.type == _SHT_DYNSYM and s.size for s in sections),
        has_dwarf=bool(names & {".debug_info", ".zdebug_info"}),
        has_minidebug=".gnu_debugdata" in names,
        debuglink=file.debuglink(),
        go=bool(names & {".gopclntab", ".data.rel.ro.gopclntab"}),
        has_code=any(s.flags & 4 and s.type != _SHT_NOBITS for s in sections) or not sections,
    )


def content_id(fd: int) -> str:
    """The name of a file that has no build id."""
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(fd, CHUNK_BYTES, at):
        digest.update(chunk)
        at += len(chunk)
    return f"sha256-{digest.hexdigest()[:40]}"


class ElfFile:
    """The tables of a 64-bit little-endian file. Raises `ParseError` when it is none, or its tables are broken."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size
        header = os.pread(fd, _HEADER.size, 0)
        if header[:4] != b"\x7fELF":
            raise ParseError("not an ELF file")
        if len(header) < _HEADER.size:
            raise ParseError("ends within its ELF header")
        if header[4:6] != b"\x02\x01":
            raise ParseError("an ELF file, but not a 64-bit little-endian one, which alone are read")
        (_, kind, machine, _, self.entry, segments_at, sections_at, _, _, segment_size, segments, section_size,
         sections, names) = _HEADER.unpack(header)  # fmt: skip
        if kind not in _TYPES:
            raise ParseError(f"an ELF file of the unknown type {kind}")
        self.type = _TYPES[kind]
        self.machine = _MACHINES.get(machine, f"machine-{machine}")
        self._notes: list[tuple[int, int]] = []
        self.segments = self._read_segments(segments_at, segment_size, segments)
        self.sections = self._read_sections(sections_at, section_size, sections, names)

    def at(self, offset: int, size: int, what: str, most: int) -> bytes:
        """A stretch of the file, all of it."""
        if size > most:
            raise ParseError(f"{what}: {size} bytes, more than the {most} that are read")
        if offset > self.size or size > self.size - offset:
            raise ParseError(f"{what}: past the end of the file")
        content = os.pread(self._fd, size, offset)
        if len(content) < size:
            raise ParseError(f"{what}: the file was cut short")
        return content

    def section(self, *names: str) -> Section | None:
        """The first with one of the names that has content."""
        return next((s for s in self.sections if s.name in names and s.type != _SHT_NOBITS and s.size), None)

    def content(self, section: Section, most: int) -> bytes:
        return self.at(section.offset, section.size, f"section {one_line(section.name)}", most)

    def _read_segments(self, at: int, entry_size: int, count: int) -> list[Segment]:
        if not count:
            return []
        if entry_size != _SEGMENT.size or count > SEGMENTS_MAX:
            raise ParseError(f"{count} program headers of {entry_size} bytes: not those of an ELF file")
        table = self.at(at, count * entry_size, "program headers", SEGMENTS_MAX * entry_size)
        found = []
        for kind, flags, offset, vaddr, _, filesz, memsz, _ in _SEGMENT.iter_unpack(table):
            if kind == _PT_LOAD:
                found.append(Segment(offset, vaddr, filesz, memsz, flags & 7))
            elif kind == _PT_NOTE:
                self._notes.append((offset, filesz))
        return found

    def _read_sections(self, at: int, entry_size: int, count: int, names_index: int) -> list[Section]:
        if not at or at >= self.size:  # none, or cut off, as programs in memory are
            return []
        if entry_size != _SECTION.size:
            raise ParseError(f"section headers of {entry_size} bytes: not those of an ELF file")
        first = _SECTION.unpack(self.at(at, entry_size, "section headers", entry_size))
        count = count or first[5]  # more than fit into the header
        names_index = first[6] if names_index == 0xFFFF else names_index
        if count > SECTIONS_MAX:
            raise ParseError(f"{count} sections, more than the {SECTIONS_MAX} that are read")
        rows = list(_SECTION.iter_unpack(self.at(at, count * entry_size, "section headers", SECTIONS_MAX * entry_size)))
        names = b""
        if 0 < names_index < len(rows) and rows[names_index][1] != _SHT_NOBITS:
            names = self.at(rows[names_index][4], rows[names_index][5], "section names", NAMES_BYTES_MAX)
        return [
            Section(_text(names, name), kind, address, offset, size, link, flags)
            for name, kind, flags, address, offset, size, link, _, _, _ in rows
        ]

    def notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Owner, type and content of each note. A broken stretch of notes ends where it is broken."""
        stretches = [(s.offset, s.size) for s in self.sections if s.type == _SHT_NOTE]
        for offset, size in [*stretches, *self._notes]:
            if size > NOTES_BYTES_MAX or offset > self.size or size > self.size - offset:
                continue
            content, at = os.pread(self._fd, size, offset), 0
            while at + _NOTE.size <= len(content):
                name_size, note_size, kind = _NOTE.unpack_from(content, at)
                name_at = at + _NOTE.size
                note_at = name_at + (name_size + 3 & ~3)
                if note_at + note_size > len(content):
                    break
                yield content[name_at : name_at + name_size].rstrip(b"\0"), kind, content[note_at : note_at + note_size]
                at = note_at + (note_size + 3 & ~3)

    def build_id(self) -> str:
        """hex; empty when there is none."""
        for owner, kind, content in self.notes():
            if owner == b"GNU" and kind == _NT_GNU_BUILD_ID and len(content) in BUILD_ID_BYTES:
                return content.hex()
        return ""

    def debuglink(self) -> str:
        """The bare name of the separate file; empty when there is none, or it would lead elsewhere."""
        section = self.section(".gnu_debuglink")
        if section is None:
            return ""
        name = _text(self.content(section, 4096), 0)
        return name if name.isprintable() and "/" not in name and name not in (".", "..") else ""


def _text(table: bytes, at: int) -> str:
    """The string that begins there; empty past the end."""
    if at >= len(table):
        return ""
    end = table.find(b"\0", at)
    return table[at : end if end >= 0 else len(table)].decode("utf-8", "replace")
