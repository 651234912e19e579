"""A layer in the making: entries in, one reproducible gzip-compressed tar blob in the store out.

Whoever adds an entry decides its path, mode, owner and bytes; everything else that could differ between two machines or
two days (times, order of extended headers, names of users, the compressor's header) is fixed here. The tar is hashed,
compressed, hashed again and stored in one pass, so that a layer of any size needs no memory and no second reading.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from typing import IO

import msgspec

from trimtab.content.digest import Digest
from trimtab.content.errors import BuildFailed
from trimtab.content.store import CHUNK_BYTES, Ingest
from trimtab.content.tree import GrowingTree, Tree

EPOCH_S = 315532800  # 1980-01-01, the earliest time that zip files, and so wheels made inside the container, can hold
COMPRESSION_LEVEL = 4  # half of level 6's time for 3 % more bytes (measured on the Python base and on PostgreSQL)

_MTIME_FIRST_S = 1_000_000_000
_MTIME_SPAN_S = 500_000_000


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A finished layer: the compressed blob, and the digest of the tar inside, which the image config lists."""

    digest: str
    size: int
    diff_id: str
    entries: int


def content_mtime_s(sha256: bytes) -> int:
    """A time made from a file's hash, between 2001 and 2017.

    Web servers make ETag and Last-Modified of a static file from its time and size. Were the time the same in all
    builds, a browser would keep the old file of two that are equally long.
    """
    return _MTIME_FIRST_S + int.from_bytes(sha256[:4], "big") % _MTIME_SPAN_S


class LayerWriter:
    """Writes tar entries into an ingest, for a layer on top of the tree `below`.

    Paths are relative, without a leading slash or `./`. A path that leads through a link to a directory is written where
    it leads; a directory that is there already keeps its owner and mode.
    """

    def __init__(self, ingest: Ingest, below: Tree | None = None) -> None:
        self._ingest = ingest
        self._sink = _Compressor(ingest)
        self._tar = tarfile.open(  # noqa: SIM115
            fileobj=self._sink, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", bufsize=CHUNK_BYTES
        )
        self._tree = GrowingTree(below)
        self._files: dict[str, tuple[int, int, int]] = {}
        self.entries = 0

    def directory(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """A directory, unless it is there already."""
        path = self._tree.resolve(checked(path), last=True)
        if path and not self._tree.has(path):
            self._tree.add_directory(path)
            self._add(path + "/", tarfile.DIRTYPE, mode, uid, gid)

    def own_directory(self, path: str, uid: int, gid: int) -> None:
        """A directory that belongs to this user, whomever it belonged to before."""
        path = self._tree.resolve(checked(path), last=True)
        self._tree.add_directory(path)
        self._add(path + "/", tarfile.DIRTYPE, 0o755, uid, gid)

    def parents(self, path: str) -> None:
        """The directories above a path, as root's, where they are not there already."""
        parts = self.place(path).split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            self.directory("/".join(parts[:depth]))

    def place(self, path: str) -> str:
        """Where an entry of this path goes."""
        return self._tree.resolve(checked(path))

    @property
    def tree(self) -> Tree:
        """The tree below with what this layer added."""
        return self._tree.frozen()

    def file(
        self,
        path: str,
        data: bytes | IO[bytes],
        size_bytes: int | None = None,
        *,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        mtime_s: int = EPOCH_S,
    ) -> None:
        """A regular file, from bytes, or from an open file together with its size."""
        if isinstance(data, bytes):
            size_bytes, data = len(data), io.BytesIO(data)
        assert size_bytes is not None
        path = self.place(path)
        self._files[path] = mode, uid, gid
        self._add(path, tarfile.REGTYPE, mode, uid, gid, size_bytes=size_bytes, data=data, mtime_s=mtime_s)

    def symlink(self, path: str, target: str, *, uid: int = 0, gid: int = 0) -> None:
        path = self.place(path)
        self._tree.add_link(path, target)
        self._add(path, tarfile.SYMTYPE, 0o777, uid, gid, target=target)

    def hardlink(self, path: str, target: str) -> None:
        """Another name for a file that this layer already has. It repeats the file's mode and owner: who unpacks the layer
        sets those of the last entry for both."""
        target = self.place(target)
        mode, uid, gid = self._files[target]
        self._add(self.place(path), tarfile.LNKTYPE, mode, uid, gid, target=target)

    def finish(self) -> Layer:
        """Ends the tar and keeps the blob."""
        self._tar.close()
        self._sink.finish()
        digest: Digest = self._ingest.commit()
        return Layer(
            digest=digest,
            size=self._ingest.size_bytes,
            diff_id="sha256:" + self._sink.uncompressed.hexdigest(),
            entries=self.entries,
        )

    def _add(
        self,
        path: str,
        kind: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        size_bytes: int = 0,
        data: IO[bytes] | None = None,
        target: str = "",
        mtime_s: int = EPOCH_S,
    ) -> None:
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.uid, info.gid = kind, mode & 0o7777, uid, gid
        info.size, info.linkname, info.mtime = size_bytes, target, mtime_s
        self._tar.addfile(info, data)
        self.entries += 1


def checked(path: str) -> str:
    """The path without leading `/` or `./`. Refuses one that would leave the image."""
    path = path.lstrip("/")
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    path = path.rstrip("/")
    if path == ".":
        return ""
    if "\0" in path or ".." in path.split("/"):
        raise BuildFailed(f"the path {path[:200]!r} leads out of the image")
    return path


class _Compressor(io.RawIOBase):
    """Where the tar goes: hashed, compressed, stored."""

    def __init__(self, ingest: Ingest) -> None:
        super().__init__()
        self._ingest = ingest
        self._gzip = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, wbits=31)  # 31: with a gzip header, time 0
        self.uncompressed = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # tarfile hands over bytes; the base class says Buffer
        if self._ingest.closed:
            return len(data)  # an abandoned tarfile writes its end when it is collected
        self.uncompressed.update(data)
        self._ingest.write(self._gzip.compress(data))
        return len(data)

    def finish(self) -> None:
        self._ingest.write(self._gzip.flush())
