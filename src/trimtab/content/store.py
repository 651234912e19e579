"""The content store: blobs named by their sha256, and tags that keep them.

A blob enters through `Ingest`: its bytes go to a temporary file while they are hashed; at the end the hash is compared
with the one expected, the file is fsynced, renamed to `blobs/sha256/<hex>`, and the directory is fsynced. So a blob is
there whole or not at all, whatever kills the process, and two writers of one blob do not disturb each other.

What is kept is what a tag reaches: a tag names a manifest, the manifest names its config and layers, and a referrer (an
SBOM, a signature) lives as long as the manifest it speaks of. `gc` removes the rest. Names under `cache/` are tags as
well, of things that can be made again (layers, wheels, debs); those not used for a while are dropped first.

The directory belongs to one user. When root writes into it, what it writes is given to that user.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from io import BufferedReader
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from trimtab.content.digest import Digest, digest_of, hex_of, parse_digest
from trimtab.content.errors import BadReference, ContentError, Corrupt, DiskFull, NoSuchBlob

CHUNK_BYTES = 1 << 20
DOCUMENT_BYTES_MAX = 4 << 20  # manifests, indexes and configs; the distribution spec asks registries for at least 4 MiB
TAG_BYTES_MAX = 240  # a tag is a file name: 255 bytes less room for the temporary suffix
GC_GRACE_S = 3600.0  # a blob this young may belong to an image whose tag is about to be written
FORMER = "former-"
CACHE_AGE_MAX_S = 30 * 86400.0

_BLOB_NAME = re.compile(r"[0-9a-f]{64}")


class Swept(msgspec.Struct, frozen=True):
    """What a gc removed."""

    blobs: int
    bytes: int
    cache_entries: int


class ContentStore:
    """Blobs, tags and locks under one directory. Safe for several processes at once. Methods block briefly on the disk."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._blobs = self.directory / "blobs" / "sha256"
        self.ingest_directory = self.directory / "ingest"
        self.tags_directory = self.directory / "tags"
        self.referrers_directory = self.directory / "referrers"
        self._locks = self.directory / "locks"
        for path in (self._blobs, self.ingest_directory, self.tags_directory, self.referrers_directory, self._locks):
            if not path.is_dir():
                with self.room_for("its directories"):
                    path.mkdir(parents=True, exist_ok=True)
                    self.give_to_owner(path)
                    self.give_to_owner(path.parent)

    # Blobs

    def put(self, data: bytes, *, expect: Digest | None = None) -> Digest:
        """Keeps these bytes. Costs nothing but the hash when they are here already."""
        digest = digest_of(data)
        if expect is not None and digest != expect:
            raise Corrupt(f"expected {expect}, but the bytes given are {digest}")
        if self._has_whole(digest, len(data)):
            return digest
        with self.ingest() as ingest:
            ingest.write(data)
            return ingest.commit(expect)

    def put_file(self, path: Path, *, expect: Digest | None = None) -> Digest:
        """Keeps a copy of this file."""
        with path.open("rb") as source, self.ingest() as ingest:
            while chunk := source.read(CHUNK_BYTES):
                ingest.write(chunk)
            return ingest.commit(expect)

    @contextlib.contextmanager
    def ingest(self) -> Iterator[Ingest]:
        """A blob in the making: `write` the bytes, then `commit`. Without a commit nothing remains."""
        with self.room_for("a new blob"):
            descriptor, name = tempfile.mkstemp(dir=self.ingest_directory)
        ingest = Ingest(self, descriptor, Path(name))
        try:
            yield ingest
        finally:
            ingest.close()

    @contextlib.contextmanager
    def work_directory(self, purpose: str) -> Iterator[Path]:
        """A temporary directory on the store's disk, its user's alone, for tools to work in."""
        with self.room_for(f"{purpose}'s work"):
            path = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=self.ingest_directory))
            self.give_to_owner(path)
        try:
            with self.room_for(f"{purpose}'s work"):
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def has(self, digest: Digest) -> bool:
        return (self._blobs / hex_of(digest)).is_file()

    def size(self, digest: Digest) -> int:
        """Bytes; raises NoSuchBlob."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise NoSuchBlob(f"{digest} is not in {self.directory}") from None

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be. Read only: writing there breaks the store's one promise."""
        return self._blobs / hex_of(digest)

    def open(self, digest: Digest) -> BufferedReader:
        """The blob as a file, unverified (its reader hashes it, or `verify` was called). Raises NoSuchBlob."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise NoSuchBlob(f"{digest} is not in {self.directory}") from None

    def read(self, digest: Digest, *, limit_bytes: int = DOCUMENT_BYTES_MAX) -> bytes:
        """A small blob, verified. Raises NoSuchBlob, Corrupt."""
        with self.open(digest) as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise ContentError(f"{digest} is larger than {limit_bytes} bytes, too large for a document")
        if digest_of(data) != digest:
            raise self._corrupt(digest)
        return data

    def verify(self, digest: Digest) -> None:
        """Reads the whole blob and compares. Raises NoSuchBlob, Corrupt."""
        with self.open(digest) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != hex_of(digest):
                raise self._corrupt(digest)

    def size_bytes(self) -> int:
        """Bytes of all blobs together."""
        total = 0
        for digest in self.blobs():
            with contextlib.suppress(FileNotFoundError):
                total += self.path(digest).stat().st_size
        return total

    def delete(self, digest: Digest) -> None:
        """Removes one blob, whoever refers to it: for one that is corrupt, so that it can be made or pulled again."""
        self.path(digest).unlink(missing_ok=True)

    def blobs(self) -> Iterator[Digest]:
        """Every digest here, in no order."""
        for entry in os.scandir(self._blobs):
            if _BLOB_NAME.fullmatch(entry.name):
                yield Digest("sha256:" + entry.name)

    # Tags

    def tag(self, name: str, digest: Digest) -> None:
        """Names a blob, durably and at once for every reader. The blob must be here."""
        if not self.has(digest):
            raise NoSuchBlob(f"cannot tag {name}: {digest} is not in {self.directory}")
        self._replace(self.tag_path(name), (digest + "\n").encode())

    def resolve(self, name: str) -> Digest | None:
        """The digest that this tag names, or None."""
        try:
            text = self.tag_path(name).read_text()
        except FileNotFoundError:
            return None
        try:
            return parse_digest(text.strip())
        except BadReference:
            raise Corrupt(f"the tag {name} in {self.directory} is damaged; build or pull the image again") from None

    def untag(self, name: str) -> None:
        self.tag_path(name).unlink(missing_ok=True)

    def tags(self, prefix: str = "") -> dict[str, Digest]:
        """All tags that start so, sorted, each with its digest; the cache's names only where `prefix` asks for them."""
        names = sorted(
            unquote(entry.name) for entry in os.scandir(self.tags_directory) if not entry.name.startswith(".tmp-")
        )
        found: dict[str, Digest] = {}
        for name in names:
            if name.startswith(prefix) and (prefix.startswith("cache/") or not name.startswith("cache/")):
                digest = self.resolve(name)
                if digest is not None:
                    found[name] = digest
        return found

    def touch(self, name: str) -> None:
        """Marks a cache entry as used now, so that gc keeps it."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.tag_path(name))

    def tag_build(self, name: str, digest: Digest) -> None:
        """Names the newest build `NAME:latest`; the one before it is kept as `NAME:former-TIME`, oldest forgotten by gc."""
        latest = f"{name}:latest"
        former = self.resolve(latest)
        if former == digest:
            return
        if former is not None and self.has(former):
            self.tag(f"{name}:{FORMER}{time.time_ns():019d}", former)
        self.tag(latest, digest)

    # Referrers: manifests that speak of another manifest (OCI's `subject`)

    def add_referrer(self, subject: Digest, referrer: Digest) -> None:
        """Records that `referrer`, a manifest here, has `subject` as its subject."""
        directory = self.referrers_directory / hex_of(subject)
        with self.room_for("a referrer"):
            directory.mkdir(exist_ok=True)
            self.give_to_owner(directory)
        self._replace(directory / hex_of(referrer), b"")

    def referrers(self, subject: Digest) -> list[Digest]:
        """The manifests whose subject is this one, sorted by digest."""
        try:
            names = sorted(os.listdir(self.referrers_directory / hex_of(subject)))
        except FileNotFoundError:
            return []
        return [Digest("sha256:" + name) for name in names if _BLOB_NAME.fullmatch(name)]

    # Locks

    @contextlib.asynccontextmanager
    async def lock(self, name: str, *, shared: bool = False) -> AsyncIterator[None]:
        """One holder of this name over all processes (or many, if all ask for `shared`); freed when the holder dies."""
        import asyncio

        descriptor = self._open_lock(name)
        try:
            mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
            wait_s = 0.01
            while True:
                try:
                    fcntl.flock(descriptor, mode)
                    break
                except BlockingIOError:
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 1.5, 0.25)
            yield
        finally:
            os.close(descriptor)

    def try_lock(self, name: str) -> int | None:
        """The lock as a descriptor to close, or None while someone else holds it."""
        descriptor = self._open_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    # Garbage

    def gc(
        self,
        *,
        grace_s: float = GC_GRACE_S,
        cache_age_s: float = CACHE_AGE_MAX_S,
        keep: frozenset[Digest] = frozenset(),
        builds_kept: int | None = None,
    ) -> Swept | None:
        """Removes what no tag, no referrer of a tagged image and nothing in `keep` reaches. `builds_kept`: how many builds
        of each name stay tagged besides the newest; None: all.

        Returns None, with nothing removed, while a build or pull is under way.
        """
        from trimtab.content.garbage import sweep

        lock = self.try_lock("in-use")
        if lock is None:
            return None
        try:
            return sweep(
                self, grace_s=grace_s, cache_age_s=cache_age_s, keep=keep, builds_kept=builds_kept, now_s=time.time()
            )
        finally:
            os.close(lock)

    # Inside

    def _has_whole(self, digest: Digest, size_bytes: int) -> bool:
        try:
            return self.path(digest).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def _open_lock(self, name: str) -> int:
        path = self._locks / hashlib.sha256(name.encode()).hexdigest()[:32]
        with self.room_for("a lock"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            self.give_to_owner(path)
        return descriptor

    def tag_path(self, name: str) -> Path:
        """The file of this tag. Raises BadReference for a name that cannot be one."""
        encoded = quote(name, safe="")
        if not name or len(encoded) > TAG_BYTES_MAX or encoded.startswith("."):
            raise BadReference(f"{name[:80]!r} cannot name an image here; use 1 to {TAG_BYTES_MAX} characters")
        return self.tags_directory / encoded

    def _replace(self, path: Path, data: bytes) -> None:
        with self.room_for(path.name):
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                self._publish(Path(name), path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def _publish(self, temporary: Path, path: Path) -> None:
        """The rename that makes a written file be there, durably."""
        temporary.chmod(0o644)
        self.give_to_owner(temporary)
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def give_to_owner(self, path: Path) -> None:
        """Where root works in another user's store: makes this file that user's. Never follows a link."""
        if os.geteuid() != 0:
            return
        owner = self.directory.stat()
        if (owner.st_uid, owner.st_gid) != (0, 0):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    @contextlib.contextmanager
    def room_for(self, what: str) -> Iterator[None]:
        """Turns a full disk and missing permissions into one line."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(
                    f"no space left in {self.directory} for {what}; free some, or remove old images"
                ) from error
            if isinstance(error, PermissionError):
                raise ContentError(f"cannot write {error.filename or self.directory}: {error.strerror}") from error
            raise

    def _corrupt(self, digest: Digest) -> Corrupt:
        return Corrupt(f"the blob {digest} in {self.directory} is damaged; delete its file and build or pull again")


class Ingest:
    """One blob being written. Not for use after `commit`."""

    def __init__(self, store: ContentStore, descriptor: int, path: Path) -> None:
        self._store = store
        self._file = os.fdopen(descriptor, "wb")
        self._path = path
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        with self._store.room_for("a new blob"):
            self._file.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)
        return len(data)

    @property
    def closed(self) -> bool:
        """Committed or dropped: nothing more is taken."""
        return self._file.closed

    @property
    def digest(self) -> Digest:
        """Of the bytes so far."""
        return Digest("sha256:" + self._hash.hexdigest())

    def commit(self, expect: Digest | None = None) -> Digest:
        """Makes the blob be there, whole and durable, if it is the one expected. Raises Corrupt, DiskFull."""
        digest = self.digest
        if expect is not None and digest != expect:
            raise Corrupt(f"expected {expect}, received {digest} ({self.size_bytes} bytes)")
        with self._store.room_for("a new blob"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._store._publish(self._path, self._store.path(digest))
        return digest

    def close(self) -> None:
        """Drops what was not committed."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)
