"""Images in files: the OCI image layout, as a directory or a tar, in and out.

The tar is what `ctr images import`, `skopeo copy oci-archive:` and `docker load` read: `oci-layout`, `index.json`, `blobs/`.
Everything read is verified against its digest.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trimtab.content import oci
from trimtab.content.digest import Digest, hex_of, parse_digest
from trimtab.content.errors import Corrupt, NoSuchImage
from trimtab.content.store import CHUNK_BYTES, DOCUMENT_BYTES_MAX, ContentStore

_MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"


def export_tar(store: ContentStore, digest: Digest, name: str) -> Iterator[bytes]:
    """The image as an OCI layout tar, in chunks, reproducibly. `name`: the full reference that containerd gives it."""
    sink = _Chunks()
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK_BYTES) as tar:
        _member(tar, "oci-layout", len(_MARKER), io.BytesIO(_MARKER))
        index = _index(store, digest, name)
        _member(tar, "index.json", len(index), io.BytesIO(index))
        for blob in _blobs(store, digest):
            with store.open(blob) as file:
                _member(tar, f"blobs/sha256/{hex_of(blob)}", store.size(blob), file)
            yield from sink.taken()
    yield from sink.taken()


def export_directory(store: ContentStore, digest: Digest, name: str, directory: Path) -> None:
    """The image as an OCI layout directory, which must not exist or be empty."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for blob in _blobs(store, digest):
        with store.open(blob) as source, (blobs / hex_of(blob)).open("xb") as target:
            while chunk := source.read(CHUNK_BYTES):
                target.write(chunk)
    (directory / "index.json").write_bytes(_index(store, digest, name))
    (directory / "oci-layout").write_bytes(_MARKER)


def import_directory(store: ContentStore, directory: Path) -> dict[str, Digest]:
    """Takes an OCI layout directory in; returns {name in the layout, or "": digest}. Raises Corrupt, NoSuchImage."""
    index = directory / "index.json"
    if not index.is_file():
        raise NoSuchImage(f"{directory} is not an OCI image layout: it has no index.json")
    blobs = directory / "blobs" / "sha256"
    for path in sorted(blobs.iterdir()) if blobs.is_dir() else ():
        store.put_file(path, expect=parse_digest("sha256:" + path.name))
    return _named(store, index.read_bytes(), str(directory))


def import_tar(store: ContentStore, stream: IO[bytes], where: str = "the archive") -> dict[str, Digest]:
    """Takes an OCI layout tar in, from a stream. Raises Corrupt, NoSuchImage."""
    index = b""
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isreg() else None
                if file is None:
                    continue
                name = entry.name.removeprefix("./")
                if name == "index.json":
                    index = file.read(DOCUMENT_BYTES_MAX)
                elif name.startswith("blobs/sha256/"):
                    _take(store, file, parse_digest("sha256:" + name.rpartition("/")[2]))
    except tarfile.TarError as error:
        raise Corrupt(f"{where} is not a whole tar archive: {error}") from None
    if not index:
        raise NoSuchImage(f"{where} is not an OCI image archive: it has no index.json")
    return _named(store, index, where)


def _take(store: ContentStore, file: IO[bytes], digest: Digest) -> None:
    with store.ingest() as ingest:
        while chunk := file.read(CHUNK_BYTES):
            ingest.write(chunk)
        ingest.commit(digest)


def _named(store: ContentStore, index: bytes, where: str) -> dict[str, Digest]:
    document = oci.decode_any(index, f"{where}: index.json")
    if not isinstance(document, oci.Index):
        raise Corrupt(f"{where}: index.json lists no manifests")
    found: dict[str, Digest] = {}
    for one in document.manifests:
        digest = parse_digest(one.digest)
        if not store.has(digest):
            raise Corrupt(f"{where}: its index names {digest}, which it does not contain")
        oci.closure(store, digest)
        found[one.annotations.get(_CONTAINERD_NAME) or one.annotations.get(_REF_NAME, "")] = digest
    return found


def _index(store: ContentStore, digest: Digest, name: str) -> bytes:
    document = oci.read_any(store, digest)
    kind = document.media_type or (oci.INDEX if isinstance(document, oci.Index) else oci.MANIFEST)
    tag = name.rpartition(":")[2] if ":" in name.rpartition("/")[2] else "latest"
    one = oci.Descriptor(
        media_type=kind,
        digest=digest,
        size=store.size(digest),
        annotations={_CONTAINERD_NAME: name, _REF_NAME: tag},
    )
    return oci.encode(oci.Index(schema_version=2, media_type=oci.INDEX, manifests=[one]))


def _blobs(store: ContentStore, digest: Digest) -> list[Digest]:
    return sorted({parse_digest(one.digest) for one in oci.closure(store, digest)})


def _member(tar: tarfile.TarFile, name: str, size: int, file: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    tar.addfile(info, file)


class _Chunks(io.RawIOBase):
    """Collects what tarfile writes until the consumer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # tarfile hands over bytes; the base class says Buffer
        self._held.append(bytes(data))
        return len(data)

    def taken(self) -> Iterator[bytes]:
        held, self._held = self._held, []
        yield from held
