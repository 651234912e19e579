"""Tree digests: what a selection of files is, as one sha256 that says nothing of when or by whom it was written.

A tree is a Merkle tree (as the Directory of the Remote Execution API is one): a directory is the list of its entries, each
with kind, name and content; its digest is the sha256 of that list, and the list itself is kept as a blob (`encode`, `decode`).
Kinds: `f` file, `x` executable file, `l` symbolic link (its target is its content; it is not followed), `d` directory. No time,
no owner, no other mode. Sockets, pipes and devices are no content and are passed by.

`Scanner` reads a project once for all selections of a graph. What it hashed it remembers in the index by the file's time, size,
inode and change time; a file that was changed within the clock's grain before it was hashed is not remembered, since it could be
changed again without its times telling (git's rule for racy entries).
"""

from __future__ import annotations

import hashlib
import marshal
import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from trimtab.ci.cache.index import Index
from trimtab.ci.cache.selection import EVERYTHING, NEVER, NOTHING, Selection, State, step

HEADER = b"trimtab tree 1\n"
CHUNK_BYTES = 1 << 20
GRAIN_NS = 50_000_000
"""The kernel's clock for files is up to a tick (10 ms) behind."""
COARSE_GRAIN_NS = 2_000_000_000
"""For file systems that keep whole seconds, FAT pairs of them."""
PARALLEL_BYTES_MIN = 32 << 20
"""Less is hashed faster by one thread: opening files holds the interpreter, hashing does not."""
ATTEMPTS = 5
MARSHAL_VERSION = 4


class TreeError(Exception):
    """A file that cannot be read, or does not stand still. One line."""


@dataclass(slots=True)
class File:
    """An entry that is no directory. value: the sha256 in hex, of a link the target; empty until it is hashed."""

    kind: str
    value: str
    size: int
    path: str


@dataclass(slots=True)
class Node:
    """A directory of a selection. entries: by name."""

    entries: dict[str, File | Node] = field(default_factory=dict)
    _digest: str = ""
    _blob: bytes = b""

    @property
    def blob(self) -> bytes:
        """The list of its entries as it is hashed and kept."""
        if not self._blob:
            self._blob = encode(
                (name, "d", entry.digest[7:], 0)
                if isinstance(entry, Node)
                else (name, entry.kind, entry.value, entry.size)
                for name, entry in self.entries.items()
            )
        return self._blob

    @property
    def digest(self) -> str:
        if not self._digest:
            self._digest = "sha256:" + hashlib.sha256(self.blob).hexdigest()
        return self._digest

    def nodes(self) -> Iterator[Node]:
        """Itself and all directories below."""
        yield self
        for entry in self.entries.values():
            if isinstance(entry, Node):
                yield from entry.nodes()

    def files(self, below: str = "") -> Iterator[tuple[str, File]]:
        """Everything that is no directory, by its path."""
        for name, entry in self.entries.items():
            if isinstance(entry, Node):
                yield from entry.files(f"{below}{name}/")
            else:
                yield below + name, entry


Entry = tuple[str, str, str, int]
"""Name, kind, content (sha256 in hex; of a link its target) and size."""


def encode(entries: Iterable[Entry]) -> bytes:
    """A directory as the bytes whose sha256 is its digest: sorted by name, fields ended by NUL."""
    text = "".join(f"{kind}\0{name}\0{value}\0{size}\0" for name, kind, value, size in sorted(entries))
    return HEADER + os.fsencode(text)


def decode(blob: bytes) -> list[Entry]:
    """The entries of a directory. Raises ValueError for bytes that are none, or name what is outside of it."""
    if not blob.startswith(HEADER):
        raise ValueError("no tree")
    parts = os.fsdecode(blob[len(HEADER) :]).split("\0")
    if len(parts) % 4 != 1 or parts[-1]:
        raise ValueError("a tree that is cut off")
    found = []
    for at in range(0, len(parts) - 1, 4):
        kind, name, value, size = parts[at : at + 4]
        if kind not in ("f", "x", "l", "d") or name in ("", ".", "..") or "/" in name:
            raise ValueError(f"a tree with the entry {name!r}")
        if kind != "l" and (len(value) != 64 or not set(value) <= set("0123456789abcdef")):
            raise ValueError(f"a tree with the entry {name!r}")
        found.append((name, kind, value, int(size)))
    return found


@dataclass
class Times:
    """Where a scan's time went, and what it saw."""

    index_s: float = 0.0
    scan_s: float = 0.0
    hash_s: float = 0.0
    digest_s: float = 0.0
    files: int = 0
    hashed: int = 0


_Known = tuple[int, int, int, int, str]
"""Time, size, inode, change time; and the sha256 in hex that they stand for."""


class Scanner:
    """The files of a project by selections. One for each look: it remembers what it saw."""

    def __init__(self, root: str, index: Index | None = None) -> None:
        self.root = os.path.abspath(root)
        self.times = Times()
        self._index = index
        self._listings: dict[str, list[tuple[str, File | None]]] = {}
        self._nodes: dict[tuple[str, State, State], Node] = {}
        self._stored: dict[str, bytes] = {}
        self._known: dict[str, dict[str, _Known]] = {}
        self._stats: dict[str, tuple[str, str, os.stat_result]] = {}

    def trees(self, selections: Iterable[Selection]) -> dict[Selection, Node]:
        """The tree of each selection. Raises `TreeError` for what cannot be read."""
        began = time.perf_counter()
        if self._index is not None and not self._stored:
            self._stored = dict(self._index.rows("select dir, entries from stat where root = ?", (self.root,)))
        loaded = time.perf_counter()
        pending: list[File] = []
        found = {one: self._node("", *one.start(), pending) for one in selections}
        scanned = time.perf_counter()
        self._hash(pending)
        hashed = time.perf_counter()
        for node in found.values():
            _ = node.digest
        self.times.index_s += loaded - began
        self.times.scan_s += scanned - loaded
        self.times.hash_s += hashed - scanned
        self.times.digest_s += time.perf_counter() - hashed
        return found

    def _node(self, directory: str, include: State, exclude: State, pending: list[File]) -> Node:
        known = self._nodes.get((directory, include, exclude))
        if known is not None:
            return known
        node = Node()
        everything = include is EVERYTHING and not exclude
        for name, file in self._listing(directory):
            below_include, below_exclude = include, exclude
            if not everything:
                out, below_exclude = step(exclude, name)
                if out:
                    continue
                meant, below_include = step(include, name)
                if file is not None and not meant:
                    continue
            if file is not None:
                node.entries[name] = file
                if not file.value:
                    pending.append(file)
            elif below_include is not NOTHING and below_include:
                below = self._node(f"{directory}{name}/", below_include, below_exclude, pending)
                if below.entries:
                    node.entries[name] = below
        self._nodes[directory, include, exclude] = node
        return node

    def _listing(self, directory: str) -> list[tuple[str, File | None]]:
        """The entries of a directory; None for one that is a directory itself."""
        listing = self._listings.get(directory)
        if listing is not None:
            return listing
        listing = []
        known = self._load(directory)
        path = os.path.join(self.root, directory)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if name in NEVER:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        listing.append((name, None))
                        continue
                    file = self._file(entry, directory, known.get(name))
                    if file is not None:
                        listing.append((name, file))
        except FileNotFoundError:
            if not directory:
                raise TreeError(f"{self.root} does not exist") from None
        except OSError as err:
            raise TreeError(f"cannot read {path.rstrip('/')}: {err.strerror}; make it readable or exclude it") from None
        self.times.files += len(listing)
        self._listings[directory] = listing
        return listing

    def _file(self, entry: os.DirEntry[str], directory: str, known: _Known | None) -> File | None:
        path = directory + entry.name
        try:
            found = entry.stat(follow_symlinks=False)
            mode = found.st_mode
            if stat.S_ISLNK(mode):
                return File("l", os.readlink(entry.path), 0, path)
        except FileNotFoundError:
            return None  # gone since the directory was read
        if not stat.S_ISREG(mode):
            return None
        file = File("x" if mode & 0o100 else "f", "", found.st_size, path)
        if known is not None and known[:4] == (found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns):
            file.value = known[4]
        else:
            self._stats[path] = (directory, entry.name, found)
        return file

    # What is remembered

    def _load(self, directory: str) -> dict[str, _Known]:
        blob = self._stored.get(directory)
        if not blob:
            return {}
        if zlib.crc32(blob[4:]) != int.from_bytes(blob[:4], "big"):
            return {}
        known: dict[str, _Known] = marshal.loads(blob[4:])
        self._known[directory] = known
        return known

    def _save(self, changed: dict[str, dict[str, _Known]]) -> None:
        if self._index is None or not changed:
            return
        rows = []
        for directory, entries in changed.items():
            names = {name for name, file in self._listings[directory] if file is not None}
            kept = {name: known for name, known in self._known.get(directory, {}).items() if name in names}
            blob = marshal.dumps({**kept, **entries}, MARSHAL_VERSION)
            rows.append((self.root, directory, zlib.crc32(blob).to_bytes(4, "big") + blob))
        try:
            self._index.write_many("insert or replace into stat values (?, ?, ?)", rows)
        except sqlite3.Error:
            return  # a full or busy disk: what is not remembered is hashed again

    # Content

    def _hash(self, pending: list[File]) -> None:
        files = list({file.path: file for file in pending}.values())
        if not files:
            return
        large = sum(file.size for file in files) >= PARALLEL_BYTES_MIN
        if large and len(files) > 1 and (os.cpu_count() or 1) > 1:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
                known = list(pool.map(self._read, files))
        else:
            known = [self._read(file) for file in files]
        changed: dict[str, dict[str, _Known]] = {}
        for file, one in zip(files, known, strict=True):
            if one is not None:
                directory, name, _ = self._stats[file.path]
                changed.setdefault(directory, {})[name] = one
        self.times.hashed += len(files)
        self._save(changed)

    def _read(self, file: File) -> _Known | None:
        """Hashes a file as it stands now; gives what may be remembered of it, None when it changed too lately."""
        path = os.path.join(self.root, file.path)
        try:
            for _ in range(ATTEMPTS):
                now_ns = time.time_ns()
                with open(path, "rb", buffering=0, opener=_no_follow) as source:
                    before = os.fstat(source.fileno())
                    value = _sha256(source.fileno(), before.st_size)
                    after = os.fstat(source.fileno())
                if _same(before) == _same(after):
                    file.value, file.size = value, after.st_size
                    file.kind = "x" if after.st_mode & 0o100 else "f"
                    newest = max(after.st_mtime_ns, after.st_ctime_ns)
                    coarse = after.st_mtime_ns % 1_000_000_000 == 0 and after.st_ctime_ns % 1_000_000_000 == 0
                    if newest >= now_ns - (COARSE_GRAIN_NS if coarse else GRAIN_NS):
                        return None
                    return (*_same(after), value)
        except OSError as err:
            raise TreeError(f"cannot read {path}: {err.strerror}; make it readable or exclude it") from None
        raise TreeError(f"{path} changes while it is read; stop what writes it or exclude it")


def _same(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def _no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _sha256(descriptor: int, size_bytes: int) -> str:
    if size_bytes < CHUNK_BYTES:
        data = os.read(descriptor, size_bytes + 1)
        if len(data) == size_bytes:
            return hashlib.sha256(data).hexdigest()
        os.lseek(descriptor, 0, os.SEEK_SET)
    total = hashlib.sha256()
    while chunk := os.read(descriptor, CHUNK_BYTES):
        total.update(chunk)
    return total.hexdigest()
