"""Hostile images and impossible pods through containerd, on a small disk of its own: the machine is not touched, one line says what is
wrong, and a good pod runs beside and after."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from node_world import NodeWorld, message_of, node_world
from small_disk import small_disk
from trimtab.components.node import pressure
from trimtab.content import ContentStore, oci, parse_digest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.asyncio(loop_scope="module"),
]

OUTSIDE = Path("/tmp/trimtab-hostile-outside")
DISK_MIB = 250
TRAVERSAL = "../" * 12


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeWorld]:
    config = {
        "evictionHard": {"nodefs.available": "5Mi"},
        "evictionPressureTransitionPeriod": "1s",
        "imageMinimumGCAge": "0s",
    }
    directory = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch, small_disk(directory / "data" / "node", DISK_MIB):
        patch.setattr(pressure, "LOOK_EVERY_S", 0.5)
        async with node_world(directory, node_config=config) as made:
            yield made


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", data: bytes = b"", **more: int) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, target, len(data), 0o755
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def packed(*entries: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def hostile(world: NodeWorld, name: str, *layers: tuple[bytes, str], architecture: str = "") -> str:
    """An image of the busybox layer and these ones (compressed, and the digest of what is in them); its reference."""
    store = ContentStore(world.settings.data_path("content"))
    below = oci.read_any(store, parse_digest(world.image.partition("@")[2]))
    assert isinstance(below, oci.Manifest)
    config = oci.read_config(store, below)
    listed, diff_ids = list(below.layers), list(config.rootfs.diff_ids)
    for layer, diff_id in layers:
        digest = store.put(layer)
        listed.append(oci.Descriptor(media_type=oci.LAYER, digest=str(digest), size=len(layer)))
        diff_ids.append(diff_id)
    made = oci.Config(
        architecture=architecture or oci.host_platform().architecture,
        os="linux",
        config=oci.Runtime(env=["PATH=/bin"], cmd=["/bin/sh"]),
        rootfs=oci.RootFs(type="layers", diff_ids=diff_ids),
    )
    manifest = oci.Manifest(
        schema_version=2, media_type=oci.MANIFEST, config=oci.put_document(store, made), layers=listed
    )
    one = oci.put_document(store, manifest)
    store.tag(f"trimtab.local/{name}:1", parse_digest(one.digest))
    return f"trimtab.local/{name}@{one.digest}"


def layer(*entries: Any) -> tuple[bytes, str]:
    plain = packed(*entries)
    return gzip.compress(plain), f"sha256:{hashlib.sha256(plain).hexdigest()}"


async def says(world: NodeWorld, name: str, image: str, command: str) -> str:
    """What a pod of that image writes as its last words."""
    await world.run_pod(name, f"({command}) > /dev/termination-log 2>&1", main={"image": image}, restartPolicy="Never")
    pod = await world.until_pod(name, lambda p: p.status.phase in ("Succeeded", "Failed"), 20, "has ended")
    ended = pod.status.container_statuses[0].state.terminated
    assert ended is not None
    return ended.message


async def complains(world: NodeWorld, name: str, image: str, timeout_s: float = 30) -> str:
    """Why a pod of that image does not start."""
    await world.run_pod(name, "exec sleep 1000", main={"image": image})
    known = (
        "ErrImagePull",
        "ImagePullBackOff",
        "CreateContainerError",
        "RunContainerError",
        "CreateContainerConfigError",
    )
    pod = await world.until_pod(name, lambda p: message_of(p)[0] in known, timeout_s, "says why it does not start")
    message = message_of(pod)[1]
    await world.client.delete(pod)
    await world.until_gone(name, 30)
    assert "\n" not in message
    return message


async def test_paths_and_links_that_lead_out_stay_inside(world: NodeWorld) -> None:
    OUTSIDE.unlink(missing_ok=True)
    secret = Path("/tmp/trimtab-hostile-secret")
    secret.write_text("of the machine")
    try:
        image = hostile(
            world,
            "traversal",
            layer(
                entry(f"{TRAVERSAL}{OUTSIDE.name}", data=b"evil"),
                entry(f"{TRAVERSAL}tmp/{OUTSIDE.name}", data=b"evil"),
                entry("out", tarfile.SYMTYPE, "/tmp"),
                entry(f"out/{OUTSIDE.name}", data=b"evil"),
                entry("up", tarfile.SYMTYPE, f"{TRAVERSAL}tmp"),
                entry(f"up/{OUTSIDE.name}", data=b"evil"),
            ),
        )

        said = await says(world, "traversal", image, "ls /tmp /; cat /tmp/trimtab-hostile-secret")

        assert not OUTSIDE.exists()
        assert not Path("/", OUTSIDE.name).exists()
        assert OUTSIDE.name in said, "it is in the container's own file system"
        assert "of the machine" not in said
    finally:
        secret.unlink()
        OUTSIDE.unlink(missing_ok=True)


async def test_a_hard_link_to_a_file_of_the_machine(world: NodeWorld) -> None:
    image = hostile(world, "hardlink", layer(entry("stolen", tarfile.LNKTYPE, f"{TRAVERSAL}etc/hostname")))

    said = await complains(world, "hardlink", image)

    assert said.startswith(f"{image}: a layer of it cannot be unpacked: ")
    assert said.endswith("no such file or directory")
    assert str(world.settings.data) not in said


async def test_a_device_of_the_machine_cannot_be_read(world: NodeWorld) -> None:
    numbers = os.stat(_disk_device()).st_rdev
    devices = {"devmajor": os.major(numbers), "devminor": os.minor(numbers)}
    image = hostile(
        world,
        "device",
        layer(entry("disk", tarfile.BLKTYPE, **devices), entry("mem", tarfile.CHRTYPE, devmajor=1, devminor=1)),
    )

    said = await says(world, "device", image, "head -c 16 /disk; head -c 16 /mem")

    assert said.count("Operation not permitted") == 2


def _disk_device() -> str:
    """A block device of this machine."""
    found = subprocess.run(["findmnt", "-no", "SOURCE", "/"], capture_output=True, text=True, check=True).stdout.strip()
    return found if found.startswith("/dev/") else "/dev/loop0"


async def test_whiteouts_that_lead_out(world: NodeWorld) -> None:
    image = hostile(world, "whiteout", layer(entry("tmp/.wh...")))

    said = await complains(world, "whiteout", image)

    assert said == f"{image}: a layer of it cannot be unpacked: invalid whiteout name: .wh...: invalid archive"
    assert Path("/tmp").is_dir()


async def test_an_image_of_another_architecture(world: NodeWorld) -> None:
    other = "arm64" if oci.host_platform().architecture == "amd64" else "amd64"
    image = hostile(world, "elsewhere", architecture=other)

    said = await complains(world, "elsewhere", image)

    own = oci.host_platform().architecture
    assert said == f"{image}: the image is built for {other}, this machine is {own}"


async def test_a_layer_that_is_not_what_its_digest_says(world: NodeWorld) -> None:
    data, _ = layer(entry("x", data=b"x"))
    image = hostile(world, "forged", (data, f"sha256:{'0' * 64}"))

    said = await complains(world, "forged", image)

    assert said == f"{image}: a layer of it is not what the image's configuration says"


async def test_a_layer_that_unpacks_to_more_than_the_disk_holds(world: NodeWorld) -> None:
    size = (DISK_MIB * 4) << 20
    head = entry("zeros")[0]
    head.size = size
    pack, plain = zlib.compressobj(9, zlib.DEFLATED, wbits=31), hashlib.sha256()
    out = bytearray()
    for piece in (head.tobuf(tarfile.GNU_FORMAT), *([bytes(1 << 20)] * (size >> 20)), bytes(1024)):
        plain.update(piece)
        out += pack.compress(piece)
    image = hostile(world, "bomb", (bytes(out + pack.flush()), f"sha256:{plain.hexdigest()}"))
    await world.run_pod("beside", "exec sleep 1000", main={"resources": {"requests": {"cpu": "1m"}}})
    await world.until_ready("beside")

    said = await complains(world, "bomb", image, 60)

    assert said == f"{image}: the node's disk is full"
    beside = await world.pod("beside")
    assert beside is not None
    assert beside.status.phase == "Running"
    await world.until(lambda: _free(world) > 100 << 20, 20, "what was unpacked of it is gone again")
    await world.until(lambda: not world.agent.pressure, 20, "the pressure is over")
    await world.run_pod("afterwards", "exec sleep 1000")
    await world.until_ready("afterwards")
    beside = await world.pod("beside")
    assert beside is not None
    assert beside.status.phase == "Running", "no pod had to go for an image that does not fit"


def _free(world: NodeWorld) -> int:
    disk = os.statvfs(world.settings.data_path("node"))
    return disk.f_bavail * disk.f_frsize
