"""A directory tree becomes entries, and what changed since it was last looked at is read again.

    first look   every file is read, unless an earlier backup read it just so (signature: inode, size, times)
    last look    while the pods stand still: only what changed since is copied aside (a reflink where the file system can)

A pod may do what it likes in its volume meanwhile: directories are opened one below the other and links are never followed,
so nothing outside of the tree is ever read; pipes and devices are not opened.

A file's times tell that it was written, but for writes through memory maps to pages that are dirty already. So the file
system is synced first: that write-protects the pages, and the next write counts (Linux, `clear_page_dirty_for_io`).
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from trimtab.engine.backup.format import HOLE, PIECE_BYTES, Entry
from trimtab.engine.backup.pieces import Sender, name_of
from trimtab.engine.errors import EngineError

SMALL_BYTES = 256 << 10
"""Smaller files share pieces with their neighbours."""
BUNDLES_BEGIN = 16
"""Of 256 names so many begin a new shared piece, whatever came before: a change moves the borders of its neighbours only."""
RACY_NS = 2_000_000_000
"""A file that was written less than so long before the look may be written again within the same tick of its clock."""
DEPTH_MAX = 400
"""Directories below each other: each is open while those in it are read. What is deeper was not made by a sane program."""
_KINDS = {stat.S_IFDIR: "d", stat.S_IFREG: "f", stat.S_IFLNK: "l", stat.S_IFIFO: "p"}
_libc = ctypes.CDLL(None, use_errno=True)

Signature = tuple[int, int, int, int]


@dataclass
class Seen:
    """An entry and how its file looked when it was read."""

    entry: Entry
    signature: Signature


Tree = dict[bytes, Seen]


def sync(path: Path) -> None:
    """Writes what is dirty on the file system of `path` to its disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _libc.syncfs(handle)
    finally:
        os.close(handle)


@dataclass
class _Met:
    """What a walk meets: a name in an open directory."""

    directory: int
    name: bytes
    path: bytes
    status: os.stat_result


def _walk(handle: int, path: bytes, without: frozenset[bytes]) -> Iterator[_Met]:
    """Everything below an open directory, parents first, by name, but for what is in the directories `without`. What vanishes
    meanwhile is left out."""
    with os.scandir(handle) as entries:
        names = sorted(os.fsencode(entry.name) for entry in entries)
    for name in names:
        try:
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            continue
        met = _Met(handle, name, path + b"/" + name if path else name, status)
        yield met
        if stat.S_ISDIR(status.st_mode) and met.path not in without:
            if met.path.count(b"/") >= DEPTH_MAX:
                raise EngineError(
                    f"a directory is nested deeper than {DEPTH_MAX} levels, below {os.fsdecode(met.path[:100])}: "
                    "it cannot be backed up; delete it, or move it up"
                )
            try:
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                yield from _walk(below, met.path, without)
            finally:
                os.close(below)


def _signature(status: os.stat_result) -> Signature:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _entry(path: bytes, status: os.stat_result) -> Entry:
    return Entry(
        path=path,
        kind=_KINDS[stat.S_IFMT(status.st_mode)],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
    )


def _xattrs(handle: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(handle, name) for name in os.listxattr(handle)}
    except OSError:
        return {}


@dataclass
class Bundle:
    """Small files that become one piece together."""

    sender: Sender
    data: bytearray = field(default_factory=bytearray)
    entries: list[Entry] = field(default_factory=list)

    def add(self, entry: Entry, data: bytes) -> None:
        begins = sha256(entry.path).digest()[0] < BUNDLES_BEGIN
        if len(self.data) + len(data) > PIECE_BYTES or begins:
            self.flush()
        entry.offset = len(self.data)
        self.data += data
        self.entries.append(entry)

    def flush(self) -> None:
        if self.entries:
            number = self.sender.add(bytes(self.data)) if self.data else HOLE
            for entry in self.entries:
                entry.pieces = [number] if entry.size else []
        self.data, self.entries = bytearray(), []


def read_file(handle: int, entry: Entry, sender: Sender, bundle: Bundle) -> None:
    """Sends the content of an open file and notes where it is."""
    entry.size = os.fstat(handle).st_size
    if entry.size < SMALL_BYTES:
        data = os.pread(handle, entry.size, 0)
        entry.size = len(data)
        bundle.add(entry, data)
        return
    entry.pieces, offset = [], 0
    while offset < entry.size:
        length = min(PIECE_BYTES, entry.size - offset)
        if _is_hole(handle, offset, length):
            entry.pieces.append(HOLE)
        else:
            data = os.pread(handle, length, offset)
            # A file that shrinks meanwhile has changed: it is read again.
            entry.pieces.append(sender.add(data.ljust(length, b"\0")))
        offset += length


def _is_hole(handle: int, offset: int, length: int) -> bool:
    try:
        return os.lseek(handle, offset, os.SEEK_DATA) >= offset + length
    except OSError:
        return True  # ENXIO: no data from here on


def look(
    root: Path,
    sender: Sender,
    before: Tree,
    began_ns: int,
    tell: Callable[[], None],
    without: frozenset[bytes] = frozenset(),
) -> Tree:
    """Reads a tree. What looks as in `before` is not read again.

    began_ns: when this look began, by the file system's clock. without: directories whose content is left out.
    """
    bundle = Bundle(sender)
    tree: Tree = {}
    for found, handle in _entries(root, tree, before, began_ns, without):
        if handle is not None:
            read_file(handle, found, sender, bundle)
            tell()
    bundle.flush()
    return tree


@dataclass
class Copied:
    """A file that was copied aside. `entry` still lacks its pieces; of those that have a number, nothing is in the copy."""

    entry: Entry
    path: Path
    unchanged: dict[int, int]


def look_again(
    root: Path, aside: Path, prefix: str, before: Tree, began_ns: int, sender: Sender
) -> tuple[Tree, list[Copied]]:
    """The tree as it is now; what changed since `before` is copied to the directory `aside`, under names with
    `prefix`. Nothing is sent. Of a large file only the pieces that changed are copied."""
    copied: list[Copied] = []
    tree: Tree = {}
    for entry, handle in _entries(root, tree, before, began_ns, frozenset()):
        if handle is not None:
            path = aside / f"{prefix}{len(copied)}"
            known = before.get(entry.path)
            old = known.entry.pieces if known is not None and known.entry.size >= SMALL_BYTES else []
            copied.append(Copied(entry, path, _copy(handle, path, old, sender)))
    return tree, copied


def send_copied(copied: list[Copied], sender: Sender) -> None:
    """Sends what `look_again` copied, and removes the copies."""
    bundle = Bundle(sender)
    for item in copied:
        handle = os.open(item.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            read_file(handle, item.entry, sender, bundle)
        finally:
            os.close(handle)
        for number, piece in item.unchanged.items():
            item.entry.pieces[number] = piece
        item.path.unlink()
    bundle.flush()


def _entries(
    root: Path, tree: Tree, before: Tree, began_ns: int, without: frozenset[bytes]
) -> Iterator[tuple[Entry, int | None]]:
    """Fills `tree`; yields each entry, with an open handle where its content must be read."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(top)
        own = _entry(b"", status)
        own.xattrs = _xattrs(top)
        tree[b""] = Seen(own, _signature(status))
        yield own, None
        links: dict[int, bytes] = {}
        for met in _walk(top, b"", without):
            if stat.S_IFMT(met.status.st_mode) not in _KINDS:
                continue  # sockets and devices: made anew by who uses them
            if (made := _one(met, before, began_ns, links)) is None:
                continue
            seen, handle = made
            tree[met.path] = seen
            try:
                yield seen.entry, handle
            finally:
                if handle is not None:
                    os.close(handle)
    finally:
        os.close(top)


def _one(met: _Met, before: Tree, began_ns: int, links: dict[int, bytes]) -> tuple[Seen, int | None] | None:
    """What a walk met as an entry; None when it is gone again."""
    status, signature = met.status, _signature(met.status)
    known = before.get(met.path)
    entry = _entry(met.path, status)
    try:
        if entry.kind == "l":
            entry.target = os.readlink(met.name, dir_fd=met.directory)
            return Seen(entry, signature), None
        if entry.kind == "p":
            return Seen(entry, signature), None
        first = links.setdefault(status.st_ino, met.path) if status.st_nlink > 1 and entry.kind == "f" else met.path
        if first != met.path:
            entry.kind, entry.target = "h", first
            return Seen(entry, signature), None
        if (
            known is not None
            and known.signature == signature
            and known.entry.kind == entry.kind
            and max(status.st_ctime_ns, status.st_mtime_ns) < began_ns - RACY_NS
        ):
            return Seen(known.entry, signature), None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(met.name, flags, dir_fd=met.directory)
    except FileNotFoundError:
        return None
    if stat.S_IFMT(os.fstat(handle).st_mode) != stat.S_IFMT(status.st_mode):
        os.close(handle)
        return None
    entry.xattrs = _xattrs(handle)
    if entry.kind == "d":
        os.close(handle)
        return Seen(entry, signature), None
    return Seen(entry, signature), handle


def _copy(handle: int, path: Path, old: list[int], sender: Sender) -> dict[int, int]:
    """Copies an open file to a new one, within the kernel and sharing blocks where it can; holes stay holes. Returns the pieces
    that are as they were in `old`, which are left out."""
    target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    unchanged: dict[int, int] = {}
    try:
        size = os.fstat(handle).st_size
        os.ftruncate(target, size)
        for begin, end in _data(handle, size):
            if not old:
                _copy_range(handle, target, begin, end)
                continue
            for number in range(begin // PIECE_BYTES, -(-end // PIECE_BYTES)):
                if number not in unchanged:
                    _copy_piece(handle, target, number, size, old, sender, unchanged)
        return unchanged
    finally:
        os.close(target)


def _copy_piece(
    handle: int, target: int, number: int, size: int, old: list[int], sender: Sender, unchanged: dict[int, int]
) -> None:
    begin = number * PIECE_BYTES
    data = os.pread(handle, min(PIECE_BYTES, size - begin), begin)
    if number < len(old) and old[number] >= 0 and name_of(sender.key, data) == sender.names[old[number]]:
        unchanged[number] = old[number]
    else:
        os.pwrite(target, data, begin)


def _copy_range(handle: int, target: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            count = os.copy_file_range(handle, target, end - begin, begin, begin)
        except OSError:  # another file system, or one that cannot
            count = os.pwrite(target, os.pread(handle, min(end - begin, PIECE_BYTES), begin), begin)
        if count == 0:  # it was cut meanwhile
            return
        begin += count


def _data(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(handle, end, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: no data from here on
        end = os.lseek(handle, begin, os.SEEK_HOLE)
        yield begin, end
