"""What pods have on the node's disk: their emptyDir volumes, their logs, and what containers wrote into their own file systems.

    DATA/node/pods/UID/volumes/NAME, logs/CONTAINER
    a container's own files: the upper directory of its overlay

Counting walks through all files, in a thread, so only pods with a limit of their own are counted regularly, and the next count waits the longer
the longer this one took.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab.api.core import Pod
from trimtab.components.node.eviction import LocalUsage

BLOCK_BYTES = 512


@dataclass(frozen=True)
class Tree:
    """What a directory takes on disk with all that is below it."""

    size_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Tree) -> Tree:
        return Tree(self.size_bytes + other.size_bytes, self.inodes + other.inodes)


def tree(path: Path) -> Tree:
    """Counts a directory; other file systems mounted below it (memory) are not counted, nor is a file with several names
    counted twice."""
    try:
        top = os.lstat(path)
    except OSError:
        return Tree()
    size, inodes, again = top.st_blocks * BLOCK_BYTES, 1, set()
    waiting = [str(path)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # it went meanwhile
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if found.st_dev != top.st_dev or found.st_ino in again:
                continue
            if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                again.add(found.st_ino)
            size, inodes = size + found.st_blocks * BLOCK_BYTES, inodes + 1
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return Tree(size, inodes)


def on_disk(pod: Pod, directory: Path) -> tuple[dict[str, Tree], dict[str, Tree]]:
    """A pod's volumes in its own directory, and the logs of its containers. Slow: not for the event loop."""
    own = [v.name for v in pod.spec.volumes if v.empty_dir is not None and v.empty_dir.medium != "Memory"]
    names = [c.name for c in (*pod.spec.containers, *pod.spec.init_containers)]
    volumes = {name: tree(directory / "volumes" / name) for name in own}
    return volumes, {name: tree(directory / "logs" / name) for name in names}


def own_files(mountinfo: str) -> dict[str, Path]:
    """Where running containers' own files are, by container id: the upper directories of their overlays. containerd counts
    them too, but only every ten seconds, and then the wrong pod would be taken for the largest."""
    found = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split()[4])
        options = rest.split(" ", 2)[2] if rest.startswith("overlay ") else ""
        upper = next((o.removeprefix("upperdir=") for o in options.split(",") if o.startswith("upperdir=")), "")
        if point.name == "rootfs" and upper:
            found[point.parent.name] = Path(upper)
    return found


def local_usage(
    volumes: Mapping[str, Tree], logs: Mapping[str, Tree], layers: Mapping[str, Tree]
) -> tuple[LocalUsage, Tree]:
    """What is counted against a pod's limits, and all of it together. layers: containers' own files, by name."""
    containers = {name: log + layers.get(name, Tree()) for name, log in logs.items()}
    whole = sum((*containers.values(), *volumes.values()), Tree())
    sizes = {name: one.size_bytes for name, one in containers.items()}
    return LocalUsage(sizes, {name: one.size_bytes for name, one in volumes.items()}), whole
