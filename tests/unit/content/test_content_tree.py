"""A layer respects what is below it: links to directories stay links, directories keep owners and modes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from trimtab.content import ContentStore, ImageSpec, build, oci, parse_digest
from trimtab.content.tarwriter import LayerWriter
from trimtab.content.tree import GrowingTree, Tree

Entry = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def entries(store: ContentStore, digest: str) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(store.path(parse_digest(digest))) as tar:
        return {one.name: one for one in tar}


def test_paths_go_where_links_lead() -> None:
    tree = GrowingTree(Tree(["usr", "usr/bin", "usr/lib", "run", "var"]))
    tree.add_link("bin", "usr/bin")
    tree.add_link("var/run", "/run")
    tree.add_link("usr/lib/alias", "../bin")
    tree.add_link("etc/passwd", "../usr/passwd")
    tree.add_link("up", "../..")
    assert tree.resolve("bin/sh") == "usr/bin/sh"
    assert tree.resolve("bin") == "bin"
    assert tree.resolve("bin", last=True) == "usr/bin"
    assert tree.resolve("var/run/app/pid") == "run/app/pid"
    assert tree.resolve("usr/lib/alias/x") == "usr/bin/x"
    assert tree.resolve("etc/passwd", last=True) == "etc/passwd"
    assert tree.frozen().links == {"bin": "usr/bin", "usr/lib/alias": "usr/bin", "var/run": "run"}


def test_links_through_links_are_found_in_any_order() -> None:
    tree = GrowingTree(Tree(["a", "a/b"]))
    tree.add_links({"one": "two/b", "two": "a", "loop": "pool", "pool": "loop"})
    assert tree.resolve("one/x") == "a/b/x"
    assert tree.resolve("loop/x") == "loop/x"


def image_below(store: ContentStore, *layers: list[Entry]) -> None:
    """An image from elsewhere, its layers as others write them, tagged `trimtab.local/below:latest`."""
    descriptors, diff_ids = [], []
    for layer in layers:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for info, data in layer:
                tar.addfile(info, io.BytesIO(data))
        digest = store.put(buffer.getvalue())
        diff_ids.append(digest)
        descriptors.append(
            oci.Descriptor(
                media_type="application/vnd.docker.image.rootfs.diff.tar", digest=digest, size=store.size(digest)
            )
        )
    config = oci.Config(
        architecture=oci.host_platform().architecture,
        os="linux",
        config=oci.Runtime(user="7:7", env=["PATH=/bin", "A=1"], entrypoint=["/old"], cmd=["x"], labels={"a": "1"}),
        rootfs=oci.RootFs(type="layers", diff_ids=diff_ids),
    )
    manifest = oci.Manifest(
        schema_version=2, media_type=oci.DOCKER_MANIFEST, config=oci.put_document(store, config), layers=descriptors
    )
    store.tag("trimtab.local/below:latest", parse_digest(oci.put_document(store, manifest).digest))


def entry(name: str, kind: bytes = tarfile.DIRTYPE, target: str = "", data: bytes = b"", mode: int = 0o755) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, target, mode, len(data)
    return info, data


async def test_files_go_on_an_image_from_elsewhere_without_breaking_it(store: ContentStore, tmp_path: Path) -> None:
    image_below(
        store,
        [
            entry("./usr/"),
            entry("usr/bin"),
            entry("bin", tarfile.SYMTYPE, "usr/bin"),
            entry("tmp", mode=0o1777),
            entry("gone/deep"),
            entry("etc/passwd", tarfile.REGTYPE, data=b"root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n"),
            entry("usr/local/bin/python3.12", tarfile.REGTYPE, data=b"ELF"),
        ],
        [entry(".wh.gone", tarfile.REGTYPE)],
    )
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    spec = ImageSpec(
        name="above",
        from_="trimtab.local/below",
        files={"/bin/tool": "tool", "/tmp/x": "tool", "/gone/x": "tool"},
        writable=["/tmp/mine"],
        user="web",
        entrypoint=["/bin/tool"],
        env={"B": "2"},
    )
    built = await build(spec, store, context=tmp_path)
    found = entries(store, built.layers[-1].digest)
    assert set(found) == {"usr/bin/tool", "tmp/x", "tmp/mine", "gone", "gone/x"}
    assert (found["tmp/mine"].uid, found["tmp/mine"].gid) == (33, 44)
    _, manifest = oci.image_manifest(store, built.digest)
    assert [one.media_type for one in manifest.layers] == ["application/vnd.oci.image.layer.v1.tar"] * 2 + [oci.LAYER]
    runtime = oci.read_config(store, manifest).config
    assert (runtime.user, runtime.entrypoint, runtime.cmd) == ("33:44", ["/bin/tool"], None)
    assert runtime.env == ["PATH=/bin", "A=1", "B=2"]
    assert runtime.labels == {"a": "1"}
    assert manifest.annotations["org.opencontainers.image.base.name"].startswith("trimtab.local/below@sha256:")


async def test_what_an_image_below_says_holds_until_it_is_said_otherwise(store: ContentStore, tmp_path: Path) -> None:
    image_below(store, [entry("bin")])
    built = await build(ImageSpec(name="above", from_="trimtab.local/below", cmd=["y"]), store, context=tmp_path)
    _, manifest = oci.image_manifest(store, built.digest)
    runtime = oci.read_config(store, manifest).config
    assert (runtime.user, runtime.entrypoint, runtime.cmd) == ("7:7", ["/old"], ["y"])


async def test_packages_cannot_go_on_what_is_not_debian(store: ContentStore, tmp_path: Path) -> None:
    from trimtab.content import BadSpec

    image_below(store, [entry("bin")])
    with pytest.raises(
        BadSpec, match=r"image x: debian: trimtab.local/below is not a Debian image, so packages cannot"
    ):
        await build(ImageSpec(name="x", from_="trimtab.local/below", debian=["jq"]), store, context=tmp_path)
    with pytest.raises(
        BadSpec, match=r"image x: python: trimtab.local/below has no Python that packages could be put into"
    ):
        await build(ImageSpec(name="x", from_="trimtab.local/below", python=["six"]), store, context=tmp_path)


def test_a_layer_follows_its_own_links(store: ContentStore) -> None:
    with store.ingest() as ingest:
        writer = LayerWriter(ingest)
        writer.directory("usr/sbin")
        writer.symlink("sbin", "usr/sbin")
        writer.directory("sbin", mode=0o700)
        writer.file("sbin/init", b"x", mode=0o755, uid=3, gid=4)
        writer.hardlink("sbin/telinit", "sbin/init")
        layer = writer.finish()
    found = entries(store, layer.digest)
    assert sorted(found) == ["sbin", "usr/sbin", "usr/sbin/init", "usr/sbin/telinit"]
    assert found["sbin"].issym()
    link = found["usr/sbin/telinit"]
    assert link.linkname == "usr/sbin/init"
    # Whoever unpacks it sets the mode and owner of the link's entry for the file itself.
    assert (link.mode, link.uid, link.gid) == (0o755, 3, 4)
