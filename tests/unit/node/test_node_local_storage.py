"""What pods have on disk, counted."""

from __future__ import annotations

import os
from pathlib import Path

from trimtab.api import from_wire
from trimtab.api.core import Pod
from trimtab.components.node.eviction import LocalUsage
from trimtab.components.node.local_storage import Tree, local_usage, on_disk, own_files, tree

KIB = 1024


def fill(path: Path, kib: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(kib * KIB))


def test_files_count_by_what_they_take_not_by_how_long_they_are(tmp_path: Path) -> None:
    fill(tmp_path / "d" / "a", 64)
    with (tmp_path / "d" / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    os.link(tmp_path / "d" / "a", tmp_path / "d" / "again")
    (tmp_path / "d" / "out").symlink_to("/usr")

    found = tree(tmp_path / "d")

    assert 64 * KIB <= found.size_bytes < 100 * KIB
    assert found.inodes == 4, "the directory, a file under two names, a sparse one, a link that is not followed"
    assert tree(tmp_path / "nowhere") == Tree()


def test_a_pods_share(tmp_path: Path) -> None:
    spec = {
        "containers": [{"name": "main"}],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {"name": "config", "configMap": {"name": "c"}},
        ],
    }
    pod = from_wire(Pod, {"metadata": {"name": "web", "uid": "u1"}, "spec": spec})
    for name in ("scratch", "shm", "config"):
        fill(tmp_path / "volumes" / name / "x", 32)
    fill(tmp_path / "logs" / "main" / "0.log", 16)

    usage, whole = local_usage(*on_disk(pod, tmp_path), {"main": Tree(8 * KIB, 3)})

    assert isinstance(usage, LocalUsage)
    assert usage.volumes.keys() == {"scratch"}
    assert 32 * KIB <= usage.volumes["scratch"] <= 48 * KIB
    assert 24 * KIB <= usage.containers["main"] <= 36 * KIB
    assert whole.size_bytes == usage.volumes["scratch"] + usage.containers["main"]
    assert whole.inodes >= 3 + 4


def test_a_containers_own_files_are_where_its_overlay_writes() -> None:
    mountinfo = (
        "36 35 98:0 / / rw - ext4 /dev/vda rw\n"
        "1 2 0:5 / /run/c/io.containerd.runtime.v2.task/k8s.io/abc/rootfs rw,relatime - overlay overlay "
        "rw,lowerdir=/l/1:/l/2,upperdir=/data/snapshots/7/fs,workdir=/data/snapshots/7/work\n"
        "2 2 0:6 / /elsewhere rw - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c\n"
    )

    assert own_files(mountinfo) == {"abc": Path("/data/snapshots/7/fs")}
