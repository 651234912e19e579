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

from trimtab.components.profiling.agent import cfa, elf, go_frames, lanes, layout

VERSION = 3
"""Of what `build` returns: a kept table of another version is made again."""
ROWS_MAX = 1 << 22
"""What the BPF program's search reaches (SEARCH_STEPS)."""
FRAME_BYTES_MAX = 256 << 20
FILE_BYTES_MAX = 4 << 30

_POINTER_WIDTHS = {0x00: ("<Q", 8), 0x0B: ("<i", 4), 0x03: ("<I", 4), 0x04: ("<Q", 8), 0x0C: ("<q", 8)}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a file."""

    version: int
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


def identity(fds: Sequence[int]) -> dict[str, Any]:
    """What the file `fds[0]` is: build_id, segments, go, size (of what its table is made of, bytes); and `identity`, what its table is kept under: the build id, and a digest of what
    the table is made of, so that a file that only claims another's build id does not get into the other's way. Raises `ValueError` with
    one line."""
    size = os.fstat(fds[0]).st_size
    if not 0 < size <= FILE_BYTES_MAX:
        raise ValueError(f"{size} bytes: an executable has 1 to {FILE_BYTES_MAX}")
    with mmap.mmap(fds[0], size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as data:
        facts = elf.read(data)
        (offset, length, address), go = facts.eh_frame, facts.go_table
        digest = hashlib.blake2b(f"{VERSION} {address} {facts.segments} {facts.entry}".encode(), digest_size=12)
        with data[offset : offset + min(length, FRAME_BYTES_MAX)] as frames:
            digest.update(frames)
        with data[go[0] : go[0] + min(go[1], go_frames.TABLE_BYTES_MAX)] as functions:
            digest.update(functions)
        return {
            "identity": f"{facts.build_id}-{digest.hexdigest()}",
            "build_id": facts.build_id,
            "segments": [list(segment) for segment in facts.segments],
            "go": facts.go,
            "size": length,
        }


def of_bytes(data: memoryview) -> bytes:
    """As `build`, of a file that is in memory."""
    facts = elf.read(data)
    rows, rules, skipped = _rows(data, facts)
    if len(rows) > ROWS_MAX:
        raise ValueError(f"{len(rows)} rows: more than {ROWS_MAX}")
    if len(rules) > 0xFFFF:
        raise ValueError(f"{len(rules)} different rules: more than the {0xFFFF} that a table can have")
    return msgspec.msgpack.encode(
        Table(
            version=VERSION,
            rules=rules.tobytes(),
            offsets=rows["offset"].tobytes(),
            which=rows["number"].astype("<u2").tobytes(),
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


ROW = np.dtype([("offset", "<u4"), ("number", "<u4")])


class Cie(NamedTuple):
    """What functions have in common."""

    align: tuple[int, int]
    encoding: int
    augmented: bool
    state: cfa.State


class Found(NamedTuple):
    """Rows in no order: addresses, and numbers of rules."""

    address: NDArray[np.int64]
    number: NDArray[np.int64]


class Rules:
    """Every rule once, with a number. 0 is CFA_GAP."""

    def __init__(self) -> None:
        self.numbers: dict[cfa.Rule, int] = {cfa.GAP: 0}

    def of(self, rule: cfa.Rule) -> int:
        return self.numbers.setdefault(rule, len(self.numbers))

    def of_words(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        unique, which = np.unique(words, return_inverse=True)
        return np.array([self.of(lanes.rule_of(int(word))) for word in unique], np.int64)[which]

    def table(self) -> NDArray[Any]:
        return np.array([(*rule[:3], 0, *rule[3:]) for rule in self.numbers], layout.RULE)


class Fdes(NamedTuple):
    """Functions' records, by columns: where they are, and which CIE is theirs."""

    place: NDArray[np.int64]
    end: NDArray[np.int64]
    cie: NDArray[np.int64]


def _rows(data: memoryview, facts: elf.Elf) -> tuple[NDArray[Any], NDArray[Any], int]:
    offset, size, address = facts.eh_frame
    if size > FRAME_BYTES_MAX:
        raise ValueError(f".eh_frame of {size} bytes: more than {FRAME_BYTES_MAX}")
    frames = bytes(data[offset : offset + size])
    fdes, cies = _fdes(frames)
    rules = Rules()
    quick, rest = _quick(frames, fdes, cies, address, rules)
    addresses, numbers, skipped = [], [], 0
    for place, end, which in zip(*(column[rest].tolist() for column in fdes), strict=True):
        try:
            cie = cies[which]
            if cie is None:
                raise ValueError("no such CIE")
            for at, rule in _function(frames, place + 8, end, cie, address):
                addresses.append(at)
                numbers.append(rules.of(rule))
        except (ValueError, IndexError, struct.error):
            skipped += 1
        if len(addresses) + len(quick.address) > 2 * ROWS_MAX:
            raise ValueError(f"more than {ROWS_MAX} rows")
    for at, rule in _go(data, facts):
        addresses.append(at)
        numbers.append(rules.of(rule))
    slow = np.array(addresses, np.uint64).astype(np.int64), np.array(numbers, np.int64)
    found = Found(*(np.concatenate(columns) for columns in zip(quick, slow, strict=True)))
    rows = _merged(found, rules, facts)
    return rows, rules.table(), skipped


def _go(data: memoryview, facts: elf.Elf) -> list[cfa.Row]:
    """Of a Go program; none when its table cannot be read: frame pointers have to do."""
    offset, size, text = facts.go_table
    if not size:
        return []
    with data[offset : offset + min(size, go_frames.TABLE_BYTES_MAX)] as functions:
        try:
            return list(go_frames.rows(functions, text))
        except (ValueError, IndexError, struct.error):
            return []


def _fdes(frames: bytes) -> tuple[Fdes, list[Cie | None]]:
    records = np.array(_records(frames), np.int64).reshape(-1, 3)
    records = records[records[:, 1] != 0]
    bases, which = np.unique(records[:, 0] + 4 - records[:, 1], return_inverse=True)
    return Fdes(records[:, 0], records[:, 2], which), [_cie(frames, base) for base in bases.tolist()]


PCREL_SDATA4 = 0x1B
"""How compilers for this machine write the addresses of functions."""


def _quick(
    frames: bytes, fdes: Fdes, cies: list[Cie | None], address: int, rules: Rules
) -> tuple[Found, NDArray[np.int64]]:
    """The rows of all functions that are as most are, and which are left."""
    words = [
        lanes.word_of(cie.state) if cie and cie.augmented and cie.encoding == PCREL_SDATA4 else None for cie in cies
    ]
    usual = np.array([word is not None for word in words], bool)[fdes.cie] & (fdes.end - fdes.place >= 17)
    chosen = np.nonzero(usual)[0]
    if not len(chosen):
        return Found(np.empty(0, np.int64), np.empty(0, np.int64)), np.arange(len(fdes.place))
    data = np.frombuffer(frames + bytes(16), np.uint8)
    place, end, which = (column[chosen] for column in fdes)
    began = _signed(_four_bytes(data, place + 8)) + place + 8 + address
    size = _signed(_four_bytes(data, place + 12))
    more = data[place + 16].astype(np.int64)
    first = place + 17 + more
    good = (size > 0) & (more < 0x80) & (first <= end) & (began >= 0)
    aligns = np.array([cie.align if cie else (0, 0) for cie in cies], np.int64)
    state = np.array([word or 0 for word in words], np.int64)
    functions = lanes.Functions(first, end, began, state[which], aligns[which, 0], aligns[which, 1])
    result = lanes.run(data, lanes.Functions(*(column[good] for column in functions)))
    lane_size, lane_began = size[good], began[good]
    limit = (lane_began + lane_size)[result.lane]
    inside = result.address < limit
    done = ~result.left
    found = Found(
        np.concatenate([result.address[inside], (lane_began + lane_size)[done]]),
        np.concatenate([rules.of_words(result.word[inside]), np.zeros(int(done.sum()), np.int64)]),
    )
    left = np.ones(len(fdes.place), bool)
    left[chosen[good][done]] = False
    return found, np.nonzero(left)[0]


def functions(data: memoryview) -> NDArray[np.int64]:
    """First addresses and sizes of the functions of the ELF file `data` that its .eh_frame tells of in the usual way, ascending. Raises
    `ValueError`."""
    offset, size, address = elf.read(data).eh_frame
    frames = bytes(data[offset : offset + min(size, FRAME_BYTES_MAX)])
    fdes, cies = _fdes(frames)
    usual = np.array([cie is not None and cie.encoding == PCREL_SDATA4 for cie in cies], bool)[fdes.cie]
    place = fdes.place[usual & (fdes.end - fdes.place >= 16)]
    content = np.frombuffer(frames + bytes(16), np.uint8)
    begins = _signed(_four_bytes(content, place + 8)) + place + 8 + address
    found = np.stack([begins, _four_bytes(content, place + 12)], axis=1)
    return found[np.argsort(begins, kind="stable")]


def _four_bytes(data: NDArray[np.uint8], place: NDArray[np.int64]) -> NDArray[np.int64]:
    value = np.zeros(len(place), np.int64)
    for byte in range(4):
        value |= data[place + byte].astype(np.int64) << (8 * byte)
    return value


def _signed(value: NDArray[np.int64]) -> NDArray[np.int64]:
    return (value ^ 0x80000000) - 0x80000000


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


def _merged(found: Found, rules: Rules, facts: elf.Elf) -> NDArray[Any]:
    """Sorted by offset in the file; the last of those at one address holds, a function's begin before another's end."""
    offsets = np.full(len(found.address), -1, np.int64)
    for segment in facts.segments:
        if segment.executable:
            inside = (found.address >= segment.address) & (found.address <= segment.address + segment.size)
            offsets[inside] = found.address[inside] - segment.address + segment.offset
    inside = (offsets >= 0) & (offsets < 1 << 32)
    offsets, numbers = offsets[inside], found.number[inside]
    order = np.argsort(offsets * 2 + (numbers != 0), kind="stable")
    offsets, numbers = offsets[order], numbers[order]
    last = np.ones(len(offsets), bool)
    last[:-1] = offsets[1:] != offsets[:-1]
    offsets, numbers = offsets[last], numbers[last]
    fresh = np.ones(len(offsets), bool)
    fresh[1:] = numbers[1:] != numbers[:-1]
    offsets, numbers = offsets[fresh], numbers[fresh]
    entry = int(np.searchsorted(offsets, facts.entry, side="right")) - 1
    if facts.entry and entry >= 0 and numbers[entry] == 0:
        numbers[entry] = rules.of(cfa.END)
    rows = np.zeros(len(offsets), ROW)
    rows["offset"], rows["number"] = offsets, numbers
    return rows
