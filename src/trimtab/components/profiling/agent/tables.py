""".eh_frame -> rows: how to come from every address of a file to the caller of what runs there.

    build(fds) in a process without privileges -> bytes, kept on disk by build id -> read() -> the kernel's map

Addresses of rows are offsets in the file, as the kernel's mappings give them: no load bias is needed to look one up. Rows that say the same
as the one before are left out; where no function says anything a row says so (CFA_GAP).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.agent import cfa, elf, layout

VERSION = 1
"""Of what `build` returns: a kept table of another version is made again."""
ROWS_MAX = 1 << 22
"""What the BPF program's search reaches (SEARCH_STEPS)."""
FRAME_BYTES_MAX = 256 << 20
FILE_BYTES_MAX = 4 << 30

_POINTER_WIDTHS = {0x00: ("<Q", 8), 0x0B: ("<i", 4), 0x03: ("<I", 4), 0x04: ("<Q", 8), 0x0C: ("<q", 8)}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a file."""

    version: int
    build_id: str
    segments: list[elf.Segment]
    go: bool
    rules: bytes
    """`layout.RULE`s."""
    offsets: bytes
    """u32, ascending."""
    which: bytes
    """u16 by row: the index of its rule."""
    skipped: int
    """Functions whose instructions made no sense."""

    @property
    def rows(self) -> int:
        return len(self.offsets) // 4


def build(fds: Sequence[int]) -> bytes:
    """The table of the ELF file `fds[0]`, to be read by `read`. The file is hostile: call it where nothing is to be gained. Raises
    `ValueError` with one line."""
    size = os.fstat(fds[0]).st_size
    if not 0 < size <= FILE_BYTES_MAX:
        raise ValueError(f"{size} bytes: an executable has 1 to {FILE_BYTES_MAX}")
    with mmap.mmap(fds[0], size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as data:
        return of_bytes(data)


def identity(fds: Sequence[int]) -> str:
    """What the table of the file `fds[0]` is kept under: its build id, and a digest of what the table is made of, so that a file that
    only claims another's build id does not get into the other's way. Raises `ValueError` with one line."""
    size = os.fstat(fds[0]).st_size
    if not 0 < size <= FILE_BYTES_MAX:
        raise ValueError(f"{size} bytes: an executable has 1 to {FILE_BYTES_MAX}")
    with mmap.mmap(fds[0], size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as data:
        facts = elf.read(data)
        offset, length, address = facts.eh_frame
        digest = hashlib.blake2b(f"{address} {facts.segments} {facts.go}".encode(), digest_size=12)
        with data[offset : offset + min(length, FRAME_BYTES_MAX)] as frames:
            digest.update(frames)
        return f"{facts.build_id}-{digest.hexdigest()}"


def of_bytes(data: memoryview) -> bytes:
    """As `build`, of a file that is in memory."""
    facts = elf.read(data)
    rows, skipped = _rows(data, facts)
    rules, which = np.unique(rows["rule"], return_inverse=True) if len(rows) else (rows["rule"], np.empty(0, np.int64))
    if len(rules) > 0xFFFF:
        raise ValueError(f"{len(rules)} different rules: more than the {0xFFFF} that a table can have")
    return msgspec.msgpack.encode(
        Table(
            version=VERSION,
            build_id=facts.build_id,
            segments=facts.segments,
            go=facts.go,
            rules=rules.tobytes(),
            offsets=rows["offset"].tobytes(),
            which=which.astype("<u2").tobytes(),
            skipped=skipped,
        )
    )


_DECODER = msgspec.msgpack.Decoder(Table)


def read(data: bytes) -> Table:
    """Raises `ValueError` when it is no table of this version."""
    try:
        table = _DECODER.decode(data)
    except msgspec.MsgspecError as err:
        raise ValueError(f"not an unwind table: {err}") from err
    count, rules = table.rows, len(table.rules) // layout.RULE.itemsize
    which = np.frombuffer(table.which, "<u2")
    if table.version != VERSION or len(which) != count or (count and int(which.max()) >= rules):
        raise ValueError(f"an unwind table of version {table.version}, not {VERSION}, or not whole")
    return table


ROW = np.dtype([("offset", "<u4"), ("rule", layout.RULE)])


class Cie(NamedTuple):
    """What functions have in common."""

    align: tuple[int, int]
    encoding: int
    augmented: bool
    state: cfa.State


def _rows(data: memoryview, facts: elf.Elf) -> tuple[NDArray[Any], int]:
    offset, size, address = facts.eh_frame
    if size > FRAME_BYTES_MAX:
        raise ValueError(f".eh_frame of {size} bytes: more than {FRAME_BYTES_MAX}")
    frames = bytes(data[offset : offset + size])
    cies: dict[int, Cie | None] = {}
    found: list[cfa.Row] = []
    skipped = 0
    for record, identity, end in _records(frames):
        if identity == 0:
            continue
        base = record + 4 - identity
        if base not in cies:
            cies[base] = _cie(frames, base)
        cie = cies[base]
        try:
            if cie is None:
                raise ValueError("no such CIE")
            found += _function(frames, record + 8, end, cie, address)
        except (ValueError, IndexError, struct.error):
            skipped += 1
        if len(found) > 2 * ROWS_MAX:
            raise ValueError(f"more than {ROWS_MAX} rows")
    return _merged(found, facts), skipped


def _records(frames: bytes) -> list[tuple[int, int, int]]:
    """Where each record begins, its id (0: a CIE), where it ends."""
    records, place, size = [], 0, len(frames)
    unpack = struct.Struct("<II").unpack_from
    while place + 8 <= size:
        length, identity = unpack(frames, place)
        if length == 0:  # between what different objects brought
            place += 4
            continue
        end = place + 4 + length
        if length < 4 or length >= 0xFFFFFFF0 or end > size:
            break
        records.append((place, identity, end))
        place = end
    return records


def _pointer(data: bytes, place: int, encoding: int, address: int) -> tuple[int, int]:
    """A pointer as it is encoded, and the place behind it; `address` is where `data` begins in memory."""
    form = _POINTER_WIDTHS.get(encoding & 0x0F)
    if form is None or encoding & 0x70 not in (0, 0x10):
        raise ValueError(f"pointer encoding {encoding:#04x}")
    value = struct.unpack_from(form[0], data, place)[0]
    if encoding & 0x70 == 0x10:
        value += address + place
    return value & 0xFFFFFFFFFFFFFFFF, place + form[1]


def _cie(frames: bytes, place: int) -> Cie | None:
    """None: it makes no sense, and so do none of its functions."""
    try:
        length, identity = struct.unpack_from("<II", frames, place)
        if place < 0 or identity != 0:
            return None
        end, place = place + 4 + length, place + 8
        if frames[place] not in (1, 3):
            return None
        text_end = frames.index(0, place + 1, end)
        augmentation = frames[place + 1 : text_end]
        code, place = cfa.uleb(frames, text_end + 1)
        scale, place = cfa.sleb(frames, place)
        returns, place = cfa.uleb(frames, place)
        encoding, augmented = 0, augmentation[:1] == b"z"
        if (augmentation and not augmented) or returns != cfa.RIP:
            return None
        if augmented:
            size, place = cfa.uleb(frames, place)
            encoding = _encoding(frames, place, augmentation[1:])
            place += size
        _, state = cfa.run(frames[place:end], (code, scale), 0, None)
        return Cie((code, scale), encoding, augmented, state)
    except (ValueError, IndexError, struct.error):
        return None


def _encoding(frames: bytes, place: int, augmentation: bytes) -> int:
    """How functions' addresses are written."""
    encoding = 0
    for letter in augmentation:
        if letter == ord("R"):
            encoding = frames[place]
            place += 1
        elif letter == ord("L"):
            place += 1
        elif letter == ord("P"):
            kind = frames[place]
            _, place = _pointer(frames, place + 1, kind & 0x0F, 0)
        elif letter not in b"SB":
            raise ValueError(f"augmentation {chr(letter)!r}")
    return encoding


def _function(frames: bytes, place: int, end: int, cie: Cie, address: int) -> list[cfa.Row]:
    began, place = _pointer(frames, place, cie.encoding, address)
    size, place = _pointer(frames, place, cie.encoding & 0x0F, address)
    if not 0 < size < 1 << 31:
        raise ValueError(f"a function of {size} bytes")
    if cie.augmented:
        more, place = cfa.uleb(frames, place)
        place += more
    if place > end:
        raise IndexError("a function beyond its record")
    rows, _ = cfa.run(frames[place:end], cie.align, began, cie.state)
    return [row for row in rows if row[0] < began + size] + [(began + size, cfa.GAP)]


def _merged(found: list[cfa.Row], facts: elf.Elf) -> NDArray[Any]:
    """Sorted by offset in the file; the last of those at one address holds, a function's begin before another's end."""
    known: dict[cfa.Rule, int] = {}
    numbers = np.fromiter((known.setdefault(rule, len(known)) for _, rule in found), np.int64, len(found))
    addresses = np.fromiter((address for address, _ in found), np.uint64, len(found)).astype(np.int64)
    gap = known.get(cfa.GAP, -1)
    offsets = np.full(len(found), -1, np.int64)
    for segment in facts.segments:
        if segment.executable:
            inside = (addresses >= segment.address) & (addresses <= segment.address + segment.size)
            offsets[inside] = addresses[inside] - segment.address + segment.offset
    inside = (offsets >= 0) & (offsets < 1 << 32)
    offsets, numbers = offsets[inside], numbers[inside]
    order = np.lexsort((np.arange(len(offsets)), numbers != gap, offsets))
    offsets, numbers = offsets[order], numbers[order]
    last = np.ones(len(offsets), bool)
    last[:-1] = offsets[1:] != offsets[:-1]
    offsets, numbers = offsets[last], numbers[last]
    fresh = np.ones(len(offsets), bool)
    fresh[1:] = numbers[1:] != numbers[:-1]
    rows = np.zeros(int(fresh.sum()), ROW)
    rows["offset"] = offsets[fresh]
    table = np.array([(cfa_, reg, rbp, 0, a, b, c) for cfa_, reg, rbp, a, b, c in known], layout.RULE)
    if len(rows):
        rows["rule"] = table[numbers[fresh]]
    return rows
