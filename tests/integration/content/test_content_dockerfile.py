"""Dockerfiles through buildah, where it is installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from trimtab.content import BuildFailed, ContentStore, ImageSpec, build, oci

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("buildah") is None or os.geteuid() != 0, reason="buildah is not installed"),
]


async def test_a_dockerfile_makes_the_same_image_twice(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "Dockerfile").write_text(
        'FROM scratch\nARG WHO=nobody\nCOPY data /data\nLABEL who=$WHO\nCMD ["/data"]\n'
    )
    (project / "data").write_text("data")
    spec = ImageSpec(name="df", dockerfile="Dockerfile", build_args={"WHO": "ada"}, labels={"extra": "1"})
    store = ContentStore(tmp_path / "content")
    first = await build(spec, store, context=project)
    second = await build(spec, ContentStore(tmp_path / "other"), context=project)
    assert first.digest == second.digest == store.resolve("trimtab.local/df:latest")
    assert first.sbom is None
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    _, manifest = oci.image_manifest(store, first.digest)
    runtime = oci.read_config(store, manifest).config
    assert runtime.cmd == ["/data"]
    assert runtime.labels["who"] == "ada"
    assert runtime.labels["extra"] == "1"


async def test_a_step_that_fails_is_named_in_one_line(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "Dockerfile").write_text("FROM scratch\nCOPY missing /\n")
    with pytest.raises(BuildFailed, match=r"^image df: Dockerfile: .*missing.*no such file or directory$") as failed:
        await build(ImageSpec(name="df", dockerfile="Dockerfile"), ContentStore(tmp_path / "content"), context=project)
    assert "\n" not in str(failed.value)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
