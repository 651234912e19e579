"""Builds from Debian's archive and PyPI: the same every time, without network the second time, one line when it fails."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from passable import passable_directory
from trimtab.content import BuildFailed, ContentStore, ImageSpec, Step, build, oci, parse_digest

SHOP = ImageSpec(
    name="shop",
    python="requirements.txt",
    debian=["jq"],
    files={"/app": "."},
    workdir="/app",
    cmd=["python3", "-m", "shop"],
)


def cut_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """apt and pip reach nothing from here on: their proxies are a port where nobody listens."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")


async def test_two_builds_in_different_places_are_the_same_bit_for_bit(
    image_store: ContentStore, project: Path, tmp_path: Path
) -> None:
    first = await build(SHOP, image_store, context=project)
    elsewhere = tmp_path / "another" / "directory"
    shutil.copytree(project, elsewhere)
    for path in elsewhere.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    store = ContentStore(tmp_path / "content")
    second = await build(SHOP, store, context=elsewhere)
    assert [layer.digest for layer in second.layers] == [layer.digest for layer in first.layers]
    assert (second.digest, second.sbom) == (first.digest, first.sbom)
    for one in oci.closure(store, second.digest):
        store.verify(parse_digest(one.digest))


async def test_a_change_of_code_remakes_the_last_layer_without_network(
    image_store: ContentStore, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await build(SHOP, image_store, context=project)
    cut_the_network(monkeypatch)
    (project / "shop" / "__init__.py").write_text("NAME = 'other'\n")
    second = await build(SHOP, image_store, context=project)
    assert [(layer.name, layer.cached) for layer in second.layers] == [
        ("python base", True),
        ("debian packages", True),
        ("python packages", True),
        ("files", False),
    ]
    assert second.digest != first.digest
    assert second.layers[-1].size < 5_000
    third = await build(SHOP, image_store, context=project)
    assert third.digest == second.digest
    assert all(layer.cached for layer in third.layers)


async def test_the_bill_of_materials_lists_what_is_inside(image_store: ContentStore, project: Path) -> None:
    built = await build(SHOP, image_store, context=project)
    assert built.sbom is not None
    bill = json.loads(image_store.read(built.sbom))
    purls = {one["purl"] for one in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert "pkg:pypi/gunicorn@23.0.0" in purls
    assert any(one.startswith("pkg:deb/debian/libc6@2.36-9%2Bdeb12") and "arch=" in one for one in purls)
    assert any(one.startswith("pkg:deb/debian/jq@") for one in purls)
    assert all(len(one["hashes"][0]["content"]) == 64 for one in bill["components"])
    gunicorn = next(one for one in bill["components"] if one["name"] == "gunicorn")
    assert gunicorn["licenses"] == [{"license": {"name": "MIT"}}]
    _, manifest = oci.image_manifest(image_store, built.digest)
    assert manifest.annotations["dev.trimtab.sbom"] == built.sbom
    [referrer] = image_store.referrers(built.digest)
    document = oci.read_any(image_store, referrer)
    assert isinstance(document, oci.Manifest)
    assert document.subject is not None
    assert document.subject.digest == built.digest
    assert document.layers[0].digest == built.sbom


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            ImageSpec(name="x", debian=["no-such-package"]),
            "Debian 12 has no package named no-such-package; see packages.debian.org for the right name",
        ),
        (
            ImageSpec(name="x", debian=["jq=0.1"]),
            "Debian 12 has no version 0.1 of jq; leave the version out to get the current one",
        ),
        (
            ImageSpec(name="x", python=["six==99"]),
            "no wheel of six==99 for Python 3.11; wheels there are: ...",
        ),
        (
            ImageSpec(name="x", python=["trimtab-no-such-package"]),
            "no wheel of trimtab-no-such-package for Python 3.11: there is no such package, or it has none; "
            "choose another version, or allow building from source with wheels_only=False",
        ),
        (
            ImageSpec(name="x", python=["six==1.17.0", "six==1.16.0"]),
            "the Python requirements contradict each other: ",
        ),
        (
            ImageSpec(name="x", python=["six==1.17.0 --hash=sha256:" + "0" * 64]),
            "a Python package is not what its hash says: six==1.17.0",
        ),
    ],
    ids=["no package", "no version", "no such wheel", "no project", "conflict", "hash"],
)
async def test_what_cannot_be_had_is_named_in_one_line(image_store: ContentStore, spec: ImageSpec, line: str) -> None:
    with pytest.raises(BuildFailed) as failed:
        await build(spec, image_store)
    assert line in str(failed.value)
    assert "\n" not in str(failed.value)


async def test_without_network_it_says_so(
    image_store: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await build(ImageSpec(name="base", python=[]), image_store)
    cut_the_network(monkeypatch)
    with pytest.raises(BuildFailed, match="cannot reach the Python package index; is the network there"):
        await build(ImageSpec(name="x", python=["humanize==4.9.0"]), image_store)
    with pytest.raises(BuildFailed, match=r"cannot read Debian's package indexes: .*; is the network there"):
        await build(ImageSpec(name="x", debian=["jq"]), ContentStore(tmp_path / "empty"))


async def test_progress_names_steps_and_fractions(tmp_path: Path, image_store: ContentStore) -> None:
    steps: list[Step] = []
    await build(ImageSpec(name="progress", python=[], debian=["tini"]), image_store, steps.append)
    assert {step.image for step in steps} == {"progress"}
    assert steps[-1].name == "built"
    assert steps[-1].fraction == 1.0
    assert all(step.fraction is None or 0 <= step.fraction <= 1 for step in steps)
    assert any(step.name == "debian packages" and "tini" in step.detail for step in steps)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
@pytest.mark.skipif(
    any(not stat.S_IMODE(parent.stat().st_mode) & stat.S_IXOTH for parent in Path(sys.prefix).parents),
    reason="the environment lies below a closed directory, which the command opens for its tools and this test does not",
)
async def test_what_root_builds_in_a_users_store_belongs_to_that_user() -> None:
    with passable_directory() as base:
        directory = base / "content"
        directory.mkdir()
        os.chown(directory, 65534, 65534)
        store = ContentStore(directory)
        await build(ImageSpec(name="x", debian=["tini"], python=["six==1.17.0"]), store)
        foreign = [
            path
            for path in directory.rglob("*")
            if path.stat().st_uid != 65534 and not path.is_relative_to(directory / "apt")
        ]
        assert foreign == []
