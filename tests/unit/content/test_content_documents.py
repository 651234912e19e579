"""Image documents, references and layouts."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from image_samples import sample_image, sample_index
from trimtab.content import BadReference, ContentStore, Corrupt, NoSuchImage, layout, oci, parse_reference


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.12-slim", "docker.io/library/python:3.12-slim"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("ghcr.io/a/b@sha256:" + "0" * 64, "ghcr.io/a/b@sha256:" + "0" * 64),
        ("ghcr.io/a/b:1@sha256:" + "0" * 64, "ghcr.io/a/b:1@sha256:" + "0" * 64),
    ],
)
def test_references_are_completed(text: str, whole: str) -> None:
    assert str(parse_reference(text)) == whole


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not an image reference; expected"),
        ("Python", "in lower case"),
        ("a/b:t ag", "'t ag' is not a tag"),
        ("a/../b", "is not an image reference"),
        ("a@sha256:12", "is not a digest"),
        ("exa_mple.com:x/a", "is not a registry's host name"),
        ("a" * 201, "is not an image reference"),
    ],
)
def test_what_is_no_reference_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(BadReference, match=complaint):
        parse_reference(text)


def test_the_same_document_has_the_same_bytes() -> None:
    one = oci.Manifest(
        schema_version=2,
        config=oci.Descriptor(media_type="a", digest="d", size=1),
        layers=[],
        annotations={"b": "1", "a": "2"},
    )
    two = msgspec.structs.replace(one, annotations={"a": "2", "b": "1"})
    assert oci.encode(one) == oci.encode(two)
    assert oci.encode(one).startswith(b'{"schemaVersion":2,"config":{"mediaType":"a"')


def test_dockers_nulls_are_read(store: ContentStore) -> None:
    config = (
        b'{"architecture":"amd64","os":"linux","config":{"Entrypoint":null,"Env":["A=1"],"Volumes":null,"OnBuild":null},'
        b'"rootfs":{"type":"layers","diff_ids":[]},"history":null}'
    )
    digest = store.put(config)
    manifest = oci.Manifest(
        schema_version=2, config=oci.Descriptor(media_type=oci.CONFIG, digest=digest, size=len(config)), layers=[]
    )
    assert oci.read_config(store, manifest).config.env == ["A=1"]


def test_the_platform_decides(store: ContentStore) -> None:
    one, two = sample_image(store), sample_image(store)
    index = sample_index(store, ("amd64", one), ("arm64", two))
    assert oci.image_manifest(store, index, oci.parse_platform("linux/arm64"))[0].digest == two
    with pytest.raises(NoSuchImage, match=r"has no image for linux/riscv64, only for linux/amd64, linux/arm64"):
        oci.image_manifest(store, index, oci.parse_platform("linux/riscv64"))


def test_what_is_no_manifest_is_said_so(store: ContentStore) -> None:
    with pytest.raises(Corrupt, match="is not an image manifest"):
        oci.read_any(store, store.put(b"[]"))
    with pytest.raises(Corrupt, match="is not an image manifest"):
        oci.read_any(store, store.put(b"\xff"))


def test_an_image_goes_through_a_tar_and_comes_back(store: ContentStore, tmp_path: Path) -> None:
    digest = sample_image(store)
    tar = b"".join(layout.export_tar(store, digest, "trimtab.local/x:v1"))
    assert tar == b"".join(layout.export_tar(store, digest, "trimtab.local/x:v1"))
    other = ContentStore(tmp_path / "other")
    assert layout.import_tar(other, io.BytesIO(tar)) == {"trimtab.local/x:v1": digest}
    assert oci.closure(other, digest) == oci.closure(store, digest)


def test_an_image_goes_through_a_directory_and_comes_back(store: ContentStore, tmp_path: Path) -> None:
    digest = sample_index(store, ("amd64", sample_image(store)))
    layout.export_directory(store, digest, "trimtab.local/x:v1", tmp_path / "layout")
    other = ContentStore(tmp_path / "other")
    assert layout.import_directory(other, tmp_path / "layout") == {"trimtab.local/x:v1": digest}


def test_a_damaged_archive_is_refused(store: ContentStore, tmp_path: Path) -> None:
    digest = sample_image(store)
    tar = b"".join(layout.export_tar(store, digest, "x.example/x:v1"))
    other = ContentStore(tmp_path / "other")
    with pytest.raises(Corrupt, match="the archive is not a whole tar archive"):
        layout.import_tar(other, io.BytesIO(tar[:3000]))
    with pytest.raises(Corrupt, match="expected sha256"):
        layout.import_tar(other, io.BytesIO(tar.replace(b'"architecture":"', b'"Architecture":"')))
    with pytest.raises(NoSuchImage, match=r"it has no index\.json"):
        layout.import_directory(other, tmp_path)
