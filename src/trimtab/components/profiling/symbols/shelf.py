"""What is known of names, on disk: for each build one file, the best that was found yet.

    ROOT/symbols/BUILD_ID.QUALITY     symcache (dwarf), Go's own table (pclntab), or a symbol table; nothing: seen, and it has none
    ROOT/symbols/BUILD_ID.asked       where it was looked for, when, and what came of it
    ROOT/symbols/uploads/BUILD_ID.*   whole files that were uploaded, served by the debuginfod protocol

Written by the agent (root) and by whoever answers questions (the owner of ROOT); files belong to the owner. A file is there whole or
not at all; a better one takes the place of a worse one. When it is too much, what was not used for longest goes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, get_args

import msgspec
from msgspec import Struct

Quality = Literal["nothing", "dynsym", "minidebug", "symtab", "pclntab", "dwarf"]
"""From worst to best. nothing: the program was seen and has no names at all."""

QUALITIES: tuple[Quality, ...] = get_args(Quality)

NAMES_BYTES_MAX = 2 << 30
UPLOADS_BYTES_MAX = 4 << 30
TOUCH_S = 3600
"""Use is noted so often."""
_BUILD_ID = re.compile(r"(?:sha256-)?[0-9a-f]{8,128}")


class Asked(Struct):
    """What came of asking a source: at Unix seconds, and a line when it was not what was looked for."""

    at: float
    outcome: str = ""


class Link(Struct):
    """Where a program says that its debug information is."""

    name: str
    path: str


class Trail(Struct, omit_defaults=True):
    """What is known of the search for one build."""

    asked: dict[str, Asked] = {}
    link: Link | None = None
    trouble: str = ""
    """Why what the program itself has could not be read."""


_TRAIL = msgspec.msgpack.Decoder(Trail)


def is_build_id(text: str) -> bool:
    return _BUILD_ID.fullmatch(text) is not None


def better(one: Quality, other: Quality | None) -> bool:
    return other is None or QUALITIES.index(one) > QUALITIES.index(other)


class Shelf:
    """Under `root`, which exists. Safe for several processes at once."""

    def __init__(
        self, root: Path, *, names_bytes: int = NAMES_BYTES_MAX, uploads_bytes: int = UPLOADS_BYTES_MAX
    ) -> None:
        self._root = root
        self._most = {"names": names_bytes, "uploads": uploads_bytes}
        self.names = root / "symbols"
        self.uploads = root / "symbols" / "uploads"

    def best(self, build_id: str) -> tuple[Quality, Path] | None:
        """Of what is there, used now. Raises `ValueError` when it is no build id."""
        for quality in reversed(QUALITIES):
            path = self.path(build_id, quality)
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            if time.time() - status.st_mtime > TOUCH_S:
                with contextlib.suppress(OSError):
                    os.utime(path)
            return quality, path
        return None

    def path(self, build_id: str, quality: Quality) -> Path:
        if not is_build_id(build_id):
            raise ValueError(f"{build_id[:80]!r} is no build id")
        return self.names / f"{build_id}.{quality}"

    def upload(self, build_id: str, what: str) -> Path:
        if not is_build_id(build_id):
            raise ValueError(f"{build_id[:80]!r} is no build id")
        return self.uploads / f"{build_id}.{what}"

    @contextlib.contextmanager
    def part(self) -> Iterator[Part]:
        """A new file, which is gone after the block unless it was put somewhere. Raises `OSError`."""
        _own_directory(self._root, self.names)
        _own_directory(self._root, self.uploads)
        path = self.names / f".{secrets.token_hex(8)}.part"
        with open(path, "x+b") as file:
            _give(file.fileno(), self._root)
            part = Part(path, file)
            try:
                yield part
            finally:
                path.unlink(missing_ok=True)

    def put(self, part: Part, build_id: str, quality: Quality) -> bool:
        """Takes a part in as the names of a build, unless what is there is as good. Makes room."""
        best = self.best(build_id)
        if best is not None and not better(quality, best[0]):
            return False
        part.place(self.path(build_id, quality))
        for worse in QUALITIES[: QUALITIES.index(quality)]:
            self.path(build_id, worse).unlink(missing_ok=True)
        self._make_room(self.names, self._most["names"], spare=self.path(build_id, quality))
        return True

    def put_upload(self, part: Part, build_id: str, what: str) -> None:
        """Of a build: `debuginfo`, `executable`, or a section that was cut out of them."""
        part.place(self.upload(build_id, what))
        if not what.startswith("section."):
            for cut in self.uploads.glob(f"{build_id}.section.*"):
                cut.unlink(missing_ok=True)
        self._make_room(self.uploads, self._most["uploads"], spare=self.upload(build_id, what))

    def forget(self, build_id: str, quality: Quality) -> None:
        self.path(build_id, quality).unlink(missing_ok=True)

    # The search

    def trail(self, build_id: str) -> Trail:
        try:
            return _TRAIL.decode((self.names / f"{build_id}.asked").read_bytes())
        except (OSError, msgspec.MsgspecError):
            return Trail()

    def note(self, build_id: str, trail: Trail) -> None:
        """Keeps what is known. A full disk loses it, and the search is done again."""
        with contextlib.suppress(OSError), self.part() as part:
            part.file.write(msgspec.msgpack.encode(trail))
            part.place(self.names / f"{build_id}.asked", durable=False)

    def _make_room(self, directory: Path, most: int, spare: Path) -> None:
        files = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                    status = entry.stat(follow_symlinks=False)
                    files.append((status.st_mtime, status.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= most:
                return
            if path != str(spare):
                with contextlib.suppress(OSError):
                    os.unlink(path)
                    total -= size


class Part:
    """A file that is being written."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self.file = file

    def place(self, at: Path, durable: bool = True) -> None:
        """Puts it there, whole."""
        self.file.flush()
        if durable:
            os.fsync(self.file.fileno())
        os.rename(self.path, at)


def _own_directory(root: Path, directory: Path) -> None:
    """Makes it, the owner's of `root`."""
    try:
        os.mkdir(directory, 0o750)
    except FileExistsError:
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _give(fd, root)
    finally:
        os.close(fd)


def _give(fd: int, root: Path) -> None:
    """To the owner of `root`, when this is root."""
    owner = root.stat()
    if os.geteuid() == 0 and (owner.st_uid, owner.st_gid) != (0, 0):
        os.fchown(fd, owner.st_uid, owner.st_gid)
        os.fchmod(fd, stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | (0o110 if stat.S_ISDIR(os.fstat(fd).st_mode) else 0))
