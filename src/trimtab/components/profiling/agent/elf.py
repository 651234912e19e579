"""The little of an ELF file that unwinding needs: where its code is, its build id, its .eh_frame. Files are hostile: every read is checked."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

HEADER_BYTES = 64
SEGMENTS_MAX = 512
SECTIONS_MAX = 4096
NOTE_BYTES_MAX = 1 << 16
ADDRESS_MAX = 1 << 56
GO_SECTIONS = (b".gopclntab\0", b".data.rel.ro.gopclntab\0")
_LOAD, _NOTE, _EH_FRAME_HDR = 1, 4, 0x6474E550
_EXECUTABLE = 1
_X86_64 = 62


class Segment(NamedTuple):
    """A loaded stretch: bytes of the file from `offset` are in memory from `address` (before the load bias) on."""

    offset: int
    address: int
    size: int
    executable: bool


class Elf(NamedTuple):
    """What was found."""

    segments: list[Segment]
    build_id: str
    eh_frame: tuple[int, int, int]
    """Offset, size and address; zeros: there is none."""
    go: bool
    entry: int
    """The offset in the file where the program begins; 0: nowhere."""
    go_table: tuple[int, int, int] = (0, 0, 0)
    """Of Go's table of functions: offset, size, and the address of .text."""


def read(data: memoryview) -> Elf:
    """Raises `ValueError` when it is no ELF file of this machine's kind."""
    try:
        return _read(data)
    except (struct.error, IndexError, OverflowError) as err:
        raise ValueError(f"not a whole ELF file: {err}") from err


def _read(data: memoryview) -> Elf:
    if bytes(data[:6]) != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    machine, entry, programs, sections = *struct.unpack_from("<H", data, 18), *struct.unpack_from("<QQQ", data, 24)
    if machine != _X86_64:
        raise ValueError(f"an ELF file for machine {machine}, not for x86-64")
    _, program_count, section_bytes, section_count, names_index = struct.unpack_from("<5H", data, 54)
    segments, build_id, header = [], "", None
    for index in range(min(program_count, SEGMENTS_MAX)):
        kind, flags, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, programs + 56 * index)
        if max(offset, address, size) > ADDRESS_MAX:
            raise ValueError(f"a segment at {max(offset, address, size):#x}, where no program's is")
        if kind == _LOAD:
            segments.append(Segment(offset, address, size, bool(flags & _EXECUTABLE)))
        elif kind == _NOTE:
            build_id = build_id or _build_id(data[offset : offset + min(size, NOTE_BYTES_MAX)])
        elif kind == _EH_FRAME_HDR:
            header = (offset, address)
    frames, table = _sections(data, sections, section_bytes, section_count, names_index)
    if not frames[1] and header:
        frames = _behind_header(data, *header, segments)
    if not build_id:
        build_id = "sha256-" + hashlib.sha256(data).hexdigest()[:40]
    places = [entry - s.address + s.offset for s in segments if s.executable and 0 <= entry - s.address < s.size]
    return Elf(segments, build_id, frames, table[1] > 0, places[0] if entry and places else 0, table)


def _build_id(notes: memoryview) -> str:
    place = 0
    while place + 12 <= len(notes):
        name_bytes, size, kind = struct.unpack_from("<III", notes, place)
        name = place + 12
        content = name + -(-name_bytes // 4) * 4
        if kind == 3 and bytes(notes[name : name + name_bytes]) == b"GNU\0" and 0 < size <= 64:
            return bytes(notes[content : content + size]).hex()
        place = content + -(-size // 4) * 4
    return ""


def _sections(
    data: memoryview, table: int, entry_bytes: int, count: int, names_index: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    frames, go, code = (0, 0, 0), (0, 0), 0
    if not table or entry_bytes < 64 or names_index >= count or table + count * entry_bytes > len(data):
        return frames, (0, 0, 0)
    names, names_bytes = struct.unpack_from("<QQ", data, table + names_index * entry_bytes + 24)
    for index in range(min(count, SECTIONS_MAX)):
        name, kind, _, address, offset, size = struct.unpack_from("<IIQQQQ", data, table + index * entry_bytes)
        if name >= names_bytes or kind == 8 or offset + size > len(data):
            continue
        text = bytes(data[names + name : names + name + 24])
        if text.startswith(b".eh_frame\0"):
            frames = (offset, size, address)
        elif text.startswith(GO_SECTIONS):
            go = (offset, size)
        elif text.startswith(b".text\0"):
            code = address
    return frames, (*go, code)


def _behind_header(data: memoryview, offset: int, address: int, segments: list[Segment]) -> tuple[int, int, int]:
    """Where there are no section headers: .eh_frame by the pointer that .eh_frame_hdr begins with."""
    version, encoding = data[offset], data[offset + 1]
    if version != 1 or encoding != 0x1B:
        return 0, 0, 0
    target = address + 4 + struct.unpack_from("<i", data, offset + 4)[0]
    for segment in segments:
        if segment.address <= target < segment.address + segment.size:
            place = target - segment.address + segment.offset
            return place, min(segment.offset + segment.size, len(data)) - place, target
    return 0, 0, 0
