"""Images by somebody who means harm, as the base of a build: nothing is written outside, nothing takes memory or time without end, and one
line says what was wrong. Through containerd they are tried in `tests/integration/node/test_node_hostile.py`."""

from __future__ import annotations

import gzip
import io
import os
import resource
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.content import ContentStore, ImageSpec, build, oci, parse_digest, tarreader
from trimtab.content.errors import ContentError

OUTSIDE = Path("/tmp/trimtab-hostile-layer")


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    return info, data


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def endless(head: bytes, size_bytes: int) -> bytes:
    """A gzip stream of a head and zeros: small, and very long when unpacked."""
    pack = zlib.compressobj(9, zlib.DEFLATED, wbits=31)
    out = bytearray(pack.compress(head))
    zeros = bytes(1 << 20)
    for _ in range(size_bytes >> 20):
        out += pack.compress(zeros)
    return bytes(out + pack.flush())


def base(store: ContentStore, layer: bytes) -> None:
    """The layer as an image `trimtab.local/base`."""
    digest = store.put(layer)
    config = oci.Config(
        architecture=oci.host_platform().architecture, os="linux", rootfs=oci.RootFs(type="layers", diff_ids=[digest])
    )
    manifest = oci.Manifest(
        schema_version=2,
        media_type=oci.MANIFEST,
        config=oci.put_document(store, config),
        layers=[oci.Descriptor(media_type=oci.LAYER, digest=digest, size=len(layer))],
    )
    store.tag("trimtab.local/base:latest", parse_digest(oci.put_document(store, manifest).digest))


async def refused(store: ContentStore, tmp_path: Path, layer: bytes) -> str:
    """The one line that a build on that layer ends with."""
    base(store, layer)
    spec = ImageSpec(name="above", from_="trimtab.local/base", inline={"/hello": "hello"})
    with pytest.raises(ContentError) as said:
        await build(spec, store, context=tmp_path)
    assert "\n" not in str(said.value)
    assert not OUTSIDE.exists()
    return str(said.value)


@pytest.mark.parametrize(
    "name",
    ["../../../../tmp/trimtab-hostile-layer", "a/../../../tmp/trimtab-hostile-layer", "/../tmp/trimtab-hostile-layer"],
)
async def test_a_path_that_leads_out(store: ContentStore, tmp_path: Path, name: str) -> None:
    said = await refused(store, tmp_path, gzip.compress(tar_of(entry(name, data=b"evil"))))

    assert f"{name.lstrip('/')!r} leads out of the image" in said


async def test_links_out_devices_and_whiteouts_are_looked_at_only(store: ContentStore, tmp_path: Path) -> None:
    OUTSIDE.unlink(missing_ok=True)
    layer = tar_of(
        entry("out", tarfile.SYMTYPE, "/tmp"),
        entry("out/trimtab-hostile-layer", data=b"evil"),
        entry("hard", tarfile.LNKTYPE, "../../../../../../etc/shadow"),
        entry("disk", tarfile.BLKTYPE),
        entry("pipe", tarfile.FIFOTYPE),
        entry("etc", tarfile.DIRTYPE),
        entry("etc/.wh..wh..opq"),
        entry(".wh...", data=b""),
        entry(".wh.."),
    )
    base(store, gzip.compress(layer))

    built = await build(
        ImageSpec(name="above", from_="trimtab.local/base", inline={"/hello": "hello"}), store, context=tmp_path
    )

    assert built.digest
    assert not OUTSIDE.exists()


async def test_a_layer_without_end(store: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarreader, "UNPACKED_BYTES_MAX", 1 << 30)
    info = tarfile.TarInfo("zeros")
    info.size = 5 << 30
    layer = endless(info.tobuf(tarfile.GNU_FORMAT), 64 << 20)

    said = await refused(store, tmp_path, layer)

    assert len(layer) < 1 << 20
    assert said.endswith("unpacks to more than 1 GiB")


async def test_more_names_than_anybody_needs(
    store: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarreader, "ENTRIES_MAX", 1000)
    layer = tar_of(*(entry(f"f{number}") for number in range(1001)))

    assert (await refused(store, tmp_path, gzip.compress(layer))).endswith("has more than 1000 entries")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
async def test_a_header_that_claims_gigabytes(store: ContentStore, tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 4 << 30
    layer = endless(info.tobuf(tarfile.GNU_FORMAT), 256 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    said = await refused(store, tmp_path, layer)

    assert said.endswith(f"is not a whole tar archive: an entry's header claims {4 << 30} bytes")
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 200 << 10


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tar: gzip.compress(tar)[:-20],
        lambda tar: gzip.compress(tar[:700]),
        lambda tar: os.urandom(3000),
        lambda tar: gzip.compress(os.urandom(3000)),
        lambda tar: b"",
    ],
)
async def test_what_is_no_whole_archive(store: ContentStore, tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    layer = spoil(tar_of(entry("etc/passwd", data=b"root:x:0:0::/:/bin/sh\n" * 100)))

    assert "is not a whole tar archive: " in await refused(store, tmp_path, layer)


def sparse(directory: Path, size_bytes: int) -> bytes:
    """A layer with one file of holes."""
    with (directory / "huge").open("wb") as file:
        file.truncate(size_bytes)
    command = ["tar", "--sparse", "-C", str(directory), "-czf", "-", "huge"]
    return subprocess.run(command, capture_output=True, check=True).stdout


async def test_a_sparse_file_costs_what_it_holds(store: ContentStore, tmp_path: Path) -> None:
    layer = sparse(tmp_path, 1 << 40)

    said = await refused(store, tmp_path, layer)

    assert len(layer) < 10_000
    assert said.endswith("unpacks to more than 64 GiB")
