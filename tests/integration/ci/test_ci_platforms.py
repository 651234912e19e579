"""One image for two processors: made of a registry's image, or of Debian packages, pushed as an index, and read by skopeo."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registries import answering, docker_registry
from trimtab.ci.definition.values import Base
from trimtab.ci.images.bases import Images
from trimtab.ci.images.platforms import listed
from trimtab.ci.runs.ports import EngineFault
from trimtab.cli.ci import main
from trimtab.content import ContentStore, Credentials, RegistryClient, oci, parse_digest, pause_image
from trimtab.content.reference import parse_reference

BOTH = ("linux/amd64", "linux/arm64")
SHIP = """
from trimtab.ci import image, pipeline, publish, src, step

base = image("HOST/base/pause:1", platforms=["linux/arm64", "linux/amd64"])

@step
def app():
    return base.add(src("app/**")).env(A="1").user("1000")

@pipeline
def ci():
    return publish(app(), "HOST/shop/app", tags="1")
"""


class World:
    def __init__(self, path: Path, host: str) -> None:
        self.host, self.project, self.state = host, path / "project", path / "state"
        (self.project / "app").mkdir(parents=True)
        (self.project / "ship.py").write_text(SHIP.replace("HOST", host))
        (self.project / "app/data.txt").write_text("the same for all")

    def run(self, capsys: pytest.CaptureFixture[str], status: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["run", "-C", str(self.project), "-o", "json"]) == status
        record: dict[str, Any] = json.loads(capsys.readouterr().out)
        return record


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TRIMTAB_CI_DIR", str(tmp_path / "state"))
    with docker_registry(tmp_path / "registry") as host:
        asyncio.run(_push_base(tmp_path / "base", host))
        yield World(tmp_path, host)


async def _push_base(path: Path, host: str) -> None:
    await answering(host)
    store = ContentStore(path)
    index = parse_reference(pause_image(store)).digest
    assert index is not None
    async with RegistryClient(store, credentials=Credentials()) as client:
        await client.push(index, f"{host}/base/pause:1")
        (only, *_) = oci.read_any(store, index).manifests  # type: ignore[union-attr]
        await client.push(parse_digest(only.digest), f"{host}/base/single:1")


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="there is no skopeo on the PATH")
def test_an_index_goes_to_a_registry(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def skopeo(*arguments: str) -> Any:
        command = ["skopeo", *arguments, f"docker://{world.host}/shop/app:1"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)

    world.run(capsys)

    index = skopeo("inspect", "--tls-verify=false", "--raw")
    assert index["mediaType"] == oci.INDEX
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
    for architecture in ("amd64", "arm64"):
        config = skopeo("--override-arch", architecture, "inspect", "--tls-verify=false", "--config")
        assert config["architecture"] == architecture
        assert config["config"]["Entrypoint"] == ["/pause"]
        assert config["config"]["User"] == "1000:1000"
        assert len(config["rootfs"]["diff_ids"]) == 2
    assert {one["state"] for one in world.run(capsys)["steps"].values()} == {"hit"}


def test_each_platform_pulls_its_own(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world.run(capsys)

    async def pulled(architecture: str) -> str:
        store = ContentStore(tmp_path / architecture)
        async with RegistryClient(store, credentials=Credentials()) as client:
            platform = oci.Platform(architecture=architecture)
            digest = await client.pull(f"{world.host}/shop/app:1", platform=platform)
        return oci.read_config(store, oci.image_manifest(store, digest)[1]).architecture

    assert asyncio.run(pulled("amd64")) == "amd64"
    assert asyncio.run(pulled("arm64")) == "arm64"


def test_a_program_for_one_processor_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("/bin/busybox", world.project / "app/tool")

    step = world.run(capsys, status=1)["steps"]["app"]

    unfit = next(one for one in BOTH if one != str(oci.host_platform()))
    assert step["said"] == (
        f"/app/tool is a program for one processor, and {unfit} cannot run it; "
        "make an image of its own for each platform, or add only what runs on all"
    )


def test_a_base_that_is_not_for_it_is_told(world: World, tmp_path: Path) -> None:
    images = Images(tmp_path / "state")
    base = Base(f"{world.host}/base/single:1", platforms=BOTH)
    (digest,) = images.resolve([base]).values()

    with pytest.raises(
        EngineFault, match=r"base/single:1@sha256:\w+ has no image for linux/arm64, only for linux/amd64"
    ):
        images.bring(base, digest, whole=True)


def test_commands_run_on_this_machines_own(world: World, tmp_path: Path) -> None:
    images = Images(tmp_path / "state")
    base = Base(f"{world.host}/base/pause:1", platforms=BOTH)
    (digest,) = images.resolve([base]).values()

    own = images.bring(base, digest)

    store = ContentStore(tmp_path / "state")
    assert listed(store, images.bring(base, digest, whole=True))[str(oci.host_platform())] == own
    foreign = next(one for one in BOTH if one != str(oci.host_platform()))
    with pytest.raises(EngineFault, match=rf"has no image for {oci.host_platform()}, only for {foreign}"):
        Images(tmp_path / "state").bring(Base(base.reference, platforms=(foreign,)), digest)


@pytest.mark.long
def test_of_debian_packages_nothing_is_run_for_another_processor(tmp_path: Path) -> None:
    images = Images(tmp_path / "state")
    base = Base(debian=("jq",), platforms=BOTH)
    assert str(base) == "debian:jq for linux/amd64 for linux/arm64"

    (digest,) = images.resolve([base]).values()

    store = ContentStore(tmp_path / "state")
    assert images.bring(base, digest, whole=True) == digest
    found = listed(store, digest)
    assert set(found) == set(BOTH)
    for platform, one in found.items():
        manifest = oci.image_manifest(store, parse_digest(one))[1]
        assert str(oci.Platform(architecture=oci.read_config(store, manifest).architecture)) == platform
