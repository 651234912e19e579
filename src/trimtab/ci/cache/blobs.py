"""Content on disk: blobs by their sha256, and trees of them put together to be mounted.

The layout is that of `trimtab.content` (`blobs/sha256/<hex>`), written and read here by the standard library alone and without
an fsync a file: what a power cut takes is made again. Sources and outputs enter as blobs (`keep`, `capture`); `materialise`
gives a directory made of hard links to them, to be mounted as a read-only lower layer. All files have one time, since what is
in no key must not be seen by a step; so any write to a blob shows in its time, and one stat tells that a blob is whole.
Whatever is not whole is `Lost`, which makes a miss and never an error of the run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import stat
import time
from collections.abc import Iterator
from io import BufferedRandom
from typing import Protocol

from trimtab.ci.cache.index import CacheError
from trimtab.ci.cache.tree import CHUNK_BYTES, Entry, File, Node, TreeError, decode, encode

TIME_NS = 946_684_800_000_000_000
"""2000-01-01: zip archives know no time before 1980, and what a step makes is always newer."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Lost(Exception):
    """A blob that is missing or damaged: which, and in what way."""

    def __init__(self, digest: str, how: str) -> None:
        self.digest = digest
        super().__init__(f"blob {digest[7:19]} is {how}")


class Far(Protocol):
    """Where blobs can be had that are not here."""

    def knows(self, digest: str) -> bool:
        """Whether it can be had."""

    def fetch(self, digest: str) -> bool:
        """Brings it; False when that does not go."""


class Blobs:
    """The blobs and trees below a directory. For several threads and processes at once."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._blobs = os.path.join(directory, "blobs", "sha256")
        self._executables = os.path.join(directory, "executables")
        self._trees = os.path.join(directory, "trees")
        self._ingest = os.path.join(directory, "ingest")
        self._count = itertools.count()
        self._held: int | None = None
        self.far: Far | None = None

    # Who uses them

    def hold(self) -> None:
        """Keeps others from removing anything until `release`, or the end of this process."""
        if self._held is None:
            try:
                self._held = self._lock(fcntl.LOCK_SH)
            except OSError as err:
                raise self._no_room(err) from None

    def release(self) -> None:
        """Ends `hold`."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody uses them now; nobody begins to before the end."""
        try:
            descriptor = self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            os.close(descriptor)

    def _lock(self, mode: int) -> int:
        os.makedirs(self.directory, exist_ok=True)
        descriptor = os.open(os.path.join(self.directory, "in-use"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, mode)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    # Blobs

    def path(self, digest: str) -> str:
        """Where a blob is or would be. Not to be written."""
        return os.path.join(self._blobs, digest.removeprefix("sha256:"))

    def has(self, digest: str) -> bool:
        """Whether a blob is here or can be had."""
        return os.path.exists(self.path(digest)) or (self.far is not None and self.far.knows(digest))

    def size(self, digest: str) -> int:
        """The bytes of a blob that is here. Raises `Lost`."""
        try:
            return os.stat(self.path(digest)).st_size
        except OSError:
            raise Lost(digest, "missing") from None

    def _brought(self, digest: str) -> bool:
        """Brings a blob that is not here, from where others keep it."""
        return self.far is not None and not os.path.exists(self.path(digest)) and self.far.fetch(digest)

    @contextlib.contextmanager
    def temporary(self) -> Iterator[BufferedRandom]:
        """A file in the making, gone in the end unless it was taken. Raises `CacheError`."""
        path = self._temporary()
        try:
            with open(path, "wb+") as file:
                yield file
        except OSError as err:
            raise self._no_room(err) from None
        finally:
            _unlink(path)

    def take(self, file: BufferedRandom, digest: str) -> None:
        """Makes a temporary file the blob that it should be. Raises `Lost` for one that is another."""
        file.flush()
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != digest[7:]:
            raise Lost(digest, "damaged")
        os.chmod(file.name, 0o644)
        os.utime(file.name, ns=(TIME_NS, TIME_NS))
        os.rename(file.name, self.path(digest))

    def put(self, data: bytes) -> str:
        """Keeps bytes; gives their digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if not self._trusted(digest, len(data)):
            self._write(digest, [data])
        return digest

    def read(self, digest: str) -> bytes:
        """The bytes of a blob, verified. Raises `Lost`."""
        self._brought(digest)
        try:
            with open(self.path(digest), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise Lost(digest, "missing") from None
        except OSError as err:
            raise Lost(digest, f"unreadable ({err.strerror})") from None
        if hashlib.sha256(data).hexdigest() != digest[7:]:
            self.forget(digest)
            raise Lost(digest, "damaged")
        return data

    def sizes(self) -> dict[str, int]:
        """All blobs with the bytes that they take on the disk."""
        found: dict[str, int] = {}
        for directory in (self._blobs, self._executables):
            with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
                for entry in entries:
                    digest = f"sha256:{entry.name}"
                    found[digest] = found.get(digest, 0) + entry.stat(follow_symlinks=False).st_blocks * 512
        return found

    def drop_trees(self, live: set[str], grace_s: float) -> None:
        """Removes the directories of all trees but these, and what writers that died have left."""
        before = time.time() - grace_s
        for directory in (self._trees, self._ingest):
            with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
                for entry in entries:
                    if f"sha256:{entry.name}" in live or entry.stat(follow_symlinks=False).st_ctime > before:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        _unlink(entry.path)

    def check(self, digest: str, size_bytes: int) -> None:
        """Looks whether a blob is here and whole; one whose time says that it was written to is read. Raises `Lost`."""
        if self._trusted(digest, size_bytes) or (self._brought(digest) and self._trusted(digest, size_bytes)):
            return
        path = self.path(digest)
        try:
            with open(path, "rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == digest[7:]
        except FileNotFoundError:
            raise Lost(digest, "missing") from None
        except OSError as err:
            raise Lost(digest, f"unreadable ({err.strerror})") from None
        if not whole:
            self.forget(digest)
            raise Lost(digest, "damaged")
        os.utime(path, ns=(TIME_NS, TIME_NS))

    def forget(self, digest: str, grace_s: float = 0.0) -> bool:
        """Removes a blob, if it is not younger than that."""
        if grace_s:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.path(digest)).st_ctime > time.time() - grace_s:
                    return False
        _unlink(self.path(digest))
        _unlink(os.path.join(self._executables, digest[7:]))
        return True

    def _trusted(self, digest: str, size_bytes: int) -> bool:
        try:
            found = os.stat(self.path(digest))
        except OSError:
            return False
        return found.st_size == size_bytes and found.st_mtime_ns == TIME_NS

    def _write(self, digest: str, chunks: Iterator[bytes] | list[bytes], mode: int = 0o644) -> None:
        """Writes a blob whose content is known to have this digest."""
        temporary = self._temporary()
        try:
            with open(temporary, "wb", buffering=0) as file:
                for chunk in chunks:
                    while chunk:
                        chunk = chunk[file.write(chunk) :]
            os.chmod(temporary, mode)
            os.utime(temporary, ns=(TIME_NS, TIME_NS))
            os.rename(temporary, self.path(digest))
        except OSError as err:
            _unlink(temporary)
            raise self._no_room(err) from None
        except BaseException:
            _unlink(temporary)
            raise

    def _temporary(self) -> str:
        for directory in (self._ingest, self._blobs):
            if not os.path.isdir(directory):
                try:
                    os.makedirs(directory, exist_ok=True)
                except OSError as err:
                    raise self._no_room(err) from None
        return os.path.join(self._ingest, f"{os.getpid()}-{next(self._count)}-{os.urandom(4).hex()}")

    def _no_room(self, err: OSError) -> CacheError:
        if err.errno in NO_ROOM:
            return CacheError(f"no space left in {self.directory}; free some, or `trimtab ci cache prune`")
        return CacheError(f"cannot write {err.filename or self.directory}: {err.strerror}")

    # Into the store

    def keep(self, root: str, node: Node) -> str:
        """Keeps a selection of the project, each file as it was hashed. Raises `TreeError` for one that has changed since."""
        for one in node.nodes():
            for entry in one.entries.values():
                digest = "" if isinstance(entry, Node) else f"sha256:{entry.value}"
                if isinstance(entry, File) and entry.kind != "l" and not self._trusted(digest, entry.size):
                    self._keep(os.path.join(root, entry.path), entry)
            self.put(one.blob)
        return node.digest

    def _keep(self, path: str, file: File) -> None:
        found, size, _ = self._copy(path)
        if found[7:] != file.value or size != file.size:
            raise TreeError(f"{path} was changed while the run began; start it again")

    def capture(self, path: str, *, take: bool = False) -> tuple[str, int]:
        """Keeps what a step has left at `path`; gives the tree's digest and its bytes. A file is a tree with that one entry.

        take: the files there may become the blobs themselves, because nobody will write to them any more. Raises OSError for what
        cannot be read.
        """
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            return self._capture_directory(path, take)
        entry = self._capture_file(path, os.path.basename(path), found, take)
        if entry is None:
            raise TreeError(f"{path} is neither a file nor a directory")
        return self.put(encode([entry])), entry[3]

    def _capture_directory(self, path: str, take: bool) -> tuple[str, int]:
        entries: list[Entry] = []
        total = 0
        with _readable(path), os.scandir(path) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    digest, size = self._capture_directory(item.path, take)
                    entries.append((item.name, "d", digest[7:], 0))
                    total += size
                    continue
                entry = self._capture_file(item.path, item.name, item.stat(follow_symlinks=False), take)
                if entry is not None:
                    entries.append(entry)
                    total += entry[3]
        return self.put(encode(entries)), total

    def _capture_file(self, path: str, name: str, found: os.stat_result, take: bool) -> Entry | None:
        if stat.S_ISLNK(found.st_mode):
            return name, "l", os.readlink(path), 0
        if not stat.S_ISREG(found.st_mode):
            return None
        if not found.st_mode & 0o400:
            os.chmod(path, found.st_mode | 0o400)
        digest, size, _ = self._copy(path, take and found.st_nlink == 1)
        return name, "x" if found.st_mode & 0o100 else "f", digest[7:], size

    def _copy(self, path: str, take: bool = False) -> tuple[str, int, bool]:
        """Copies a file in: digest, bytes, whether it was new."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            size = os.fstat(descriptor).st_size
            if size < CHUNK_BYTES and not take:
                data = file.readall()
                digest = "sha256:" + hashlib.sha256(data).hexdigest()
                new = not self._trusted(digest, len(data))
                if new:
                    self._write(digest, [data])
                return digest, len(data), new
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
            if self._trusted(digest, size):
                return digest, size, False
            if take and self._link_in(path, digest):
                return digest, size, True
            file.seek(0)
            total = hashlib.sha256()

            def chunks() -> Iterator[bytes]:
                while chunk := file.read(CHUNK_BYTES):
                    total.update(chunk)
                    yield chunk
                if total.hexdigest() != digest[7:]:
                    raise TreeError(f"{path} changes while it is read; stop what writes it")

            self._write(digest, chunks())
            return digest, size, True

    def _link_in(self, path: str, digest: str) -> bool:
        temporary = self._temporary()
        try:
            os.link(path, temporary, follow_symlinks=False)
            os.chmod(temporary, 0o644)
            os.utime(temporary, ns=(TIME_NS, TIME_NS))
            os.rename(temporary, self.path(digest))
        except OSError:
            _unlink(temporary)
            return False  # another file system
        return True

    # Out of it

    def entries(self, tree: str) -> list[Entry]:
        """What is in a directory. Raises `Lost`."""
        try:
            return decode(self.read(tree))
        except ValueError:
            raise Lost(tree, "no tree") from None

    def files(self, tree: str, below: str = "") -> Iterator[tuple[str, Entry]]:
        """Everything of a tree that is no directory, by its path. Raises `Lost`."""
        for entry in self.entries(tree):
            name, kind, value, _ = entry
            if kind == "d":
                yield from self.files(f"sha256:{value}", f"{below}{name}/")
            else:
                yield below + name, entry

    def reached(self, tree: str, seen: set[str]) -> Iterator[tuple[str, int]]:
        """The digests of a tree, itself and all below, which are not in `seen` yet, with their sizes; -1 for a directory."""
        if tree in seen:
            return
        seen.add(tree)
        yield tree, -1
        for _, kind, value, size in self.entries(tree):
            digest = f"sha256:{value}"
            if kind == "d":
                yield from self.reached(digest, seen)
            elif kind != "l" and digest not in seen:
                seen.add(digest)
                yield digest, size

    def directories(self, tree: str) -> set[str]:
        """The digests of a tree and of the directories in it. Raises `Lost`."""
        found = {tree}
        for _, kind, value, _ in self.entries(tree):
            if kind == "d":
                found |= self.directories(f"sha256:{value}")
        return found

    def whole(self, tree: str) -> None:
        """Looks whether all of a tree is here. Raises `Lost`."""
        if os.path.isdir(os.path.join(self._trees, tree[7:])):
            return
        for digest, size in self.reached(tree, set()):
            if size >= 0:
                self.check(digest, size)

    def materialise(self, tree: str) -> str:
        """A directory with the files of a tree, for reading only: its files are the store's own. Raises `Lost`."""
        path = os.path.join(self._trees, tree[7:])
        if os.path.isdir(path):
            return path
        temporary = os.path.join(self._trees, f".{os.path.basename(self._temporary())}")
        try:
            os.makedirs(temporary)
            self._fill(temporary, tree)
            try:
                os.rename(temporary, path)
            except OSError as err:
                if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        except OSError as err:
            raise self._no_room(err) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return path

    def _fill(self, directory: str, tree: str) -> None:
        for name, kind, value, size in self.entries(tree):
            target = os.path.join(directory, name)
            if kind == "d":
                os.mkdir(target)
                self._fill(target, f"sha256:{value}")
            elif kind == "l":
                os.symlink(value, target)
                os.utime(target, ns=(TIME_NS, TIME_NS), follow_symlinks=False)
            else:
                digest = f"sha256:{value}"
                self.check(digest, size)
                self._place(self._executable(digest) if kind == "x" else self.path(digest), target)
        os.utime(directory, ns=(TIME_NS, TIME_NS))

    def _executable(self, digest: str) -> str:
        """A blob as an executable file: a file of its own, since a mode belongs to all links of a file."""
        path = os.path.join(self._executables, digest[7:])
        source = self.path(digest)
        try:
            found = os.stat(path)
            if found.st_mtime_ns == TIME_NS and found.st_size == os.stat(source).st_size:
                return path
        except FileNotFoundError:
            os.makedirs(self._executables, exist_ok=True)
        temporary = self._temporary()
        try:
            shutil.copyfile(source, temporary)
            os.chmod(temporary, 0o755)
            os.utime(temporary, ns=(TIME_NS, TIME_NS))
            os.rename(temporary, path)
        except BaseException:
            _unlink(temporary)
            raise
        return path

    def _place(self, source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError as err:
            if err.errno != errno.EMLINK:
                raise
            shutil.copy2(source, target)


class _readable:
    """Makes a directory of ours readable while it is read: steps leave some that are not."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        mode = os.stat(self._path).st_mode
        if mode & 0o500 != 0o500:
            os.chmod(self._path, mode | 0o500)

    def __exit__(self, *_: object) -> None:
        return


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
