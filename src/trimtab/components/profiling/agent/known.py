"""What files were found to be, kept on disk: one that was looked into once is known again at once, after an eviction, after a restart, or as
a copy, without a process that parses it.

    descriptor --fstat--> stamp (device, inode, size, times) --> Entry: what the file is, its path, its key in the kernel
         '--bytes, of a small file that is in memory--> digest --'   (the same program compiled once more)

Nothing is parsed here. Reading never waits for a disk or a file system: what is not in memory is not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

VERSION = 1
"""Of what is kept: facts of another version are found again."""
ENTRIES_MAX = 4096
DIGEST_BYTES_MAX = 1 << 20
"""Of files that are known by their content, too: a millisecond to read."""
RECORD_BYTES_MAX = 64 << 10
_LENGTH = struct.Struct("<I")
_STAMP = struct.Struct("<5Q")
_WORD = (1 << 64) - 1


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One file."""

    version: int
    name: bytes
    """The stamp, or the digest."""
    key: bytes
    """What the kernel's maps know the file by; empty of a digest."""
    path: str
    facts: dict[str, Any]
    """What `tables.identity` said; under `interpreter` what `python_elf.interpreter` did, if it was asked."""


_DECODER = msgspec.msgpack.Decoder(Entry)


class Known:
    """All of them, by stamp and by digest. What cannot be read is not known; what cannot be written is not kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[bytes, bytes] = {}
        self._used: set[bytes] = set()
        self._written = 0
        self._load()

    def find(self, fd: int, *, own: bool = False) -> Entry | None:
        """What is known of an open file. `own`: it is our own, in memory."""
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            found = self._entry(_stamp(status)) or self._entry(_digest(fd, status.st_size, own))
            if found and found.name not in self._used:
                self._add(found)  # the newest of the next start
            return found
        return None

    def keep(self, fd: int, key: bytes, path: str, facts: dict[str, Any], *, own: bool = False) -> None:
        """Of a file that was looked into."""
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            if not own:
                self._add(Entry(VERSION, _stamp(status), key, path, facts))
            if name := _digest(fd, status.st_size, own):
                self._add(Entry(VERSION, name, b"", path, facts))

    def newest(self) -> Iterator[Entry]:
        """Those that have a key, the one that was used last first."""
        for name in reversed(list(self._records)):
            if (entry := self._entry(name)) and entry.key:
                yield entry

    def _entry(self, name: bytes) -> Entry | None:
        record = self._records.get(name)
        return None if record is None else _DECODER.decode(record)

    def _add(self, entry: Entry) -> None:
        record = msgspec.msgpack.encode(entry)
        if len(record) > RECORD_BYTES_MAX:
            return
        self._records.pop(entry.name, None)
        self._records[entry.name] = record
        self._used.add(entry.name)
        while len(self._records) > ENTRIES_MAX:
            oldest = next(iter(self._records))
            del self._records[oldest]
            self._used.discard(oldest)
        with contextlib.suppress(OSError):
            if self._written >= 2 * ENTRIES_MAX:
                self._rewrite()
                return
            self._written += 1
            with open(self._path, "ab", buffering=0) as file:
                file.write(_LENGTH.pack(len(record)) + record)

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except OSError:
            return
        place = 0
        with contextlib.suppress(msgspec.MsgspecError, struct.error):  # what is behind damage is found again
            while place < len(data):
                (length,) = _LENGTH.unpack_from(data, place)
                record = data[place + _LENGTH.size : place + _LENGTH.size + length]
                entry = _DECODER.decode(record)
                place += _LENGTH.size + length
                self._written += 1
                if entry.version == VERSION:
                    self._records.pop(entry.name, None)
                    self._records[entry.name] = record
        if place < len(data) or self._written > ENTRIES_MAX:
            with contextlib.suppress(OSError):
                self._rewrite()

    def _rewrite(self) -> None:
        kept = list(self._records.values())[-ENTRIES_MAX:]
        fresh = self._path.with_suffix(".part")
        fresh.write_bytes(b"".join(_LENGTH.pack(len(record)) + record for record in kept))
        fresh.rename(self._path)
        self._written = len(kept)


def _stamp(status: os.stat_result) -> bytes:
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _STAMP.pack(*(number & _WORD for number in numbers))


def _digest(fd: int, size: int, own: bool) -> bytes:
    """Of the whole content, if it is little and all of it is in memory; else empty."""
    if not 0 < size <= DIGEST_BYTES_MAX:
        return b""
    content = bytearray(size)
    try:
        count = os.preadv(fd, [content], 0, 0 if own else os.RWF_NOWAIT)
    except OSError:  # none of it is in memory, or the file system does not say
        return b""
    return hashlib.blake2b(content, digest_size=24).digest() if count == size else b""
