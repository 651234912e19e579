"""Reading the logs that containerd writes: CRI's line format, the last lines, following, rotation.

A line is `TIME STREAM TAG TEXT`; the tag is F for a whole line and P for a piece of a long one, which the next line
continues. The log of attempt 3 of a container is `3.log`; when that is large it is renamed to `3.log.1` and a new one begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from trimtab.components.node.inotify import DirectoryWatch

BLOCK_BYTES = 64 * 1024
LAST_WORDS_LINES = 80
LAST_WORDS_BYTES = 2048
"""Both as the kubelet's fallback for a container that failed without a termination message."""


@dataclass(frozen=True)
class Line:
    at: str
    stream: str
    text: bytes
    whole: bool


@dataclass(frozen=True)
class LogOptions:
    """tail: only so many last lines. since: nothing older. limit_bytes: nothing beyond."""

    follow: bool = False
    tail: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None


def parse(raw: bytes) -> Line | None:
    """One line of a log file, its end removed; None for what is none (a torn write)."""
    parts = raw.split(b" ", 3)
    if len(parts) < 3:
        return None
    text = parts[3] if len(parts) == 4 else b""
    return Line(parts[0].decode("latin-1"), parts[1].decode("latin-1"), text, not parts[2].startswith(b"P"))


def moment(text: str) -> datetime | None:
    """The time of a line; nanoseconds are cut to microseconds."""
    head, dot, rest = text.partition(".")
    if dot:
        digits = "".join(c for c in rest if c.isdigit())
        zone = "+00:00" if rest.endswith("Z") else rest[-6:]
        digits = digits[: len(rest) - len(zone)] if not rest.endswith("Z") else digits
        text = f"{head}.{digits[:6]:0<6}{zone}"
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def tail_offset(path: Path, lines: int) -> tuple[int, int]:
    """Where the last `lines` whole lines of a file begin, and how many whole lines there are from there."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        size = BLOCK_BYTES
        while True:
            start = max(0, end - size)
            file.seek(start)
            buffer = file.read(end - start)
            # All but the first line of a part of the file are known to be complete.
            first = 0 if start == 0 else buffer.find(b"\n") + 1
            offset, found = _last_lines(buffer, first, lines)
            if start == 0 or found > lines:
                return start + offset, min(found, lines)
            size *= 2  # doubling keeps the whole work linear


def last_words(path: Path, lines: int = LAST_WORDS_LINES) -> str:
    """The end of a log as text, as Kubernetes falls back to; empty where there is no log."""
    try:
        offset, _ = tail_offset(path, lines)
        with path.open("rb") as file:
            file.seek(offset)
            said = [line.text for raw in file.read().split(b"\n") if (line := parse(raw)) is not None]
    except OSError:
        return ""
    return b"\n".join(said)[-LAST_WORDS_BYTES:].decode(errors="replace").strip()


def _last_lines(buffer: bytes, first: int, lines: int) -> tuple[int, int]:
    """The offset after the whole line before the last `lines` ones; and the whole lines seen (`lines` + 1: that many and
    one more)."""
    found, end = 0, len(buffer)
    while end > first:
        start = buffer.rfind(b"\n", first, end - 1) + 1 or first
        line = parse(buffer[start:end].rstrip(b"\n"))
        if line is not None and line.whole and buffer[end - 1 : end] == b"\n":
            found += 1
            if found > lines:
                return end, found
        end = start
    return first, found


def _render(line: Line, options: LogOptions, *, begins: bool) -> bytes:
    prefix = f"{line.at} ".encode() if options.timestamps and begins else b""
    return prefix + line.text + (b"\n" if line.whole else b"")


class _Reader:
    """Turns bytes of a log file into what the client gets."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._rest = b""
        self._begins = True
        self._left = options.limit_bytes
        self.done = False

    def feed(self, data: bytes) -> bytes:
        out = bytearray()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for raw in lines:
            line = parse(raw)
            if line is None or self._too_old(line):
                continue
            out += _render(line, self._options, begins=self._begins)
            self._begins = line.whole
        if self._left is not None:
            out = out[: self._left]
            self._left -= len(out)
            self.done = self._left <= 0
        return bytes(out)

    def _too_old(self, line: Line) -> bool:
        if self._options.since is None:
            return False
        at = moment(line.at)
        return at is not None and at < self._options.since


async def read(path: Path, options: LogOptions, ended: asyncio.Event) -> AsyncIterator[bytes]:
    """The log in pieces as the client wants it. ended: set when nothing more will be written."""
    files = [p for p in (*reversed(pieces(path)), path) if p.exists()]
    starts = _starts(files, options)
    reader = _Reader(options)
    if not options.follow:
        for file, offset in starts:
            for block in _blocks(file, offset):
                if piece := reader.feed(block):
                    yield piece
                if reader.done:
                    return
        return
    with DirectoryWatch(path.parent) as watch:
        for file, offset in starts[:-1]:
            for block in _blocks(file, offset):
                if piece := reader.feed(block):
                    yield piece
        async for piece in _follow(path, starts[-1][1] if starts else 0, reader, watch, ended):
            yield piece
            if reader.done:
                return


def _starts(files: list[Path], options: LogOptions) -> list[tuple[Path, int]]:
    if options.tail is None:
        return [(file, 0) for file in files]
    out: list[tuple[Path, int]] = []
    wanted = options.tail
    for file in reversed(files):
        offset, found = tail_offset(file, wanted)
        out.insert(0, (file, offset))
        wanted -= found
        if wanted <= 0:
            break
    return out


def _blocks(path: Path, offset: int) -> Iterator[bytes]:
    """What the file holds now; what is written meanwhile is not waited for, or a flood would never end."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        left = file.seek(0, os.SEEK_END) - offset
        file.seek(offset)
        while left > 0 and (block := file.read(min(BLOCK_BYTES, left))):
            left -= len(block)
            yield block


async def _follow(
    path: Path, offset: int, reader: _Reader, watch: DirectoryWatch, ended: asyncio.Event
) -> AsyncIterator[bytes]:
    file = path.open("rb") if path.exists() else None
    try:
        if file is not None:
            file.seek(offset)
        while True:
            over = ended.is_set()
            watch.changed.clear()
            while file is not None and (block := file.read(BLOCK_BYTES)):
                if piece := reader.feed(block):
                    yield piece
            fresh = _reopened(path, file)
            if fresh is not None:
                if file is not None:
                    file.close()
                file = fresh
                continue
            if over:
                return
            waits = [asyncio.create_task(watch.changed.wait()), asyncio.create_task(ended.wait())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waits:
                    task.cancel()
    finally:
        if file is not None:
            file.close()


def _reopened(path: Path, file):  # type: ignore[no-untyped-def]
    """The file that now has the name, when it is another one than `file`."""
    try:
        fresh = path.open("rb")
    except FileNotFoundError:
        return None
    if file is not None and os.fstat(fresh.fileno()).st_ino == os.fstat(file.fileno()).st_ino:
        fresh.close()
        return None
    return fresh


def pieces(path: Path) -> list[Path]:
    """The older pieces of a log, newest first: `.1`, `.2` ..."""
    found = [p for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit()]
    return sorted(found, key=lambda piece: int(piece.suffix[1:]))


def rotate(path: Path, older_max: int = 1) -> Path:
    """Renames a log, and older pieces one number up, so that `older_max` of them stay; returns the newest piece. The log's
    writer must be told to open a new one."""
    for number, piece in sorted(enumerate(pieces(path), 1), reverse=True):
        if number >= older_max:
            piece.unlink()
        else:
            piece.replace(path.with_name(f"{path.name}.{number + 1}"))
    newest = path.with_name(f"{path.name}.1")
    path.replace(newest)
    return newest


def cut(piece: Path, bytes_max: int) -> None:
    """Leaves only the last whole lines of a piece that nobody writes any more: what a flood brought until it was noticed. Readers
    that have it open read on in the old file."""
    with piece.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= bytes_max:
            return
        file.seek(size - bytes_max)
        file.readline()
        shorter = piece.with_name(f"{piece.name}-cut")
        with shorter.open("wb") as out:
            shutil.copyfileobj(file, out)
    shorter.replace(piece)
