"""containerd takes our images: pulled from the read-only registry, and imported from a tar; then it runs them."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from oci_container import wait_until
from registries import served
from trimtab.content import ContentStore, ImageSpec, build, layout, pause_image, registry_app

pytestmark = pytest.mark.engine

Ctr = Callable[..., Awaitable[str]]


@pytest.fixture
async def ctr(tmp_path: Path) -> AsyncIterator[Ctr]:
    """`ctr` against a containerd of the test's own."""
    config = tmp_path / "containerd.toml"
    address = tmp_path / "containerd.sock"
    config.write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs"]\n'
        f'[grpc]\naddress = "{address}"\n[ttrpc]\naddress = "{address}.ttrpc"\n'
    )
    process = _start(config, tmp_path / "log")

    async def run(*argv: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run, ["ctr", "-a", str(address), *argv], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        await asyncio.to_thread(wait_until, address.exists, 20, "containerd's socket")
        yield run
    finally:
        process.terminate()
        process.wait(60)


def _start(config: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(["containerd", "-c", str(config)], stdout=file, stderr=file)


async def test_containerd_pulls_imports_and_runs(
    ctr: Ctr, image_store: ContentStore, project: Path, tmp_path: Path
) -> None:
    spec = ImageSpec(
        name="ctr/shop", python=[], files={"/app": "shop"}, workdir="/app", cmd=["python3", "-c", "print('ran')"]
    )
    built = await build(spec, image_store, context=project)
    pause = pause_image(image_store)

    async with served(registry_app(image_store)) as host:
        await ctr("images", "pull", "--plain-http", f"{host}/ctr/shop:latest")
        await ctr("images", "pull", "--plain-http", f"{host}/pause:1")
        name = f"trimtab-test-{uuid.uuid4().hex[:8]}"
        assert await ctr("run", "--rm", f"{host}/ctr/shop:latest", name) == "ran\n"
        assert built.digest in await ctr("images", "list")
        assert pause.partition("@")[2] in await ctr("images", "list")

    tar = tmp_path / "image.tar"
    with tar.open("wb") as file:
        for chunk in layout.export_tar(image_store, built.digest, "trimtab.local/ctr/shop:v2"):
            file.write(chunk)
    await ctr("images", "import", str(tar))
    name = f"trimtab-test-{uuid.uuid4().hex[:8]}"
    assert await ctr("run", "--rm", "trimtab.local/ctr/shop:v2", name) == "ran\n"
