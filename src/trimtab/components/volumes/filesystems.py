"""The file systems in images: telling them apart, mounting, growing.

ext4 grows in use where root has CAP_SYS_RESOURCE, which the kernel asks for (fs/ext4/resize.c); where it has not, in many containers and
virtual machines, it grows before the next mount. xfs grows in use alone, and always may.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

CAP_SYS_RESOURCE = 24
CHECKED_WELL = (0, 1)
"""Exit codes of e2fsck: nothing was wrong, or it was put right."""


class StagingProblem(RuntimeError):
    """A volume cannot be mounted (now); the text says why."""


def _superblock(path: Path | str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(2048)


def type_of(image: Path) -> str | None:
    """The file system in an image."""
    head = _superblock(image)
    if head[:4] == b"XFSB":
        return "xfs"
    return "ext4" if head[1024 + 0x38 : 1024 + 0x3A] == b"\x53\xef" else None


def size_bytes(path: Path | str) -> int:
    """The size of an ext4 or xfs file system, from its superblock (ext4_super_block, xfs_dsb)."""
    head = _superblock(path)
    if head[:4] == b"XFSB":
        block, blocks = struct.unpack_from(">IQ", head, 4)
        return int(block * blocks)
    low, high = struct.unpack_from("<I", head, 1024 + 4)[0], struct.unpack_from("<I", head, 1024 + 0x150)[0]
    incompatible = struct.unpack_from("<I", head, 1024 + 0x60)[0]
    blocks = low | (high << 32 if incompatible & 0x80 else 0)
    return int(blocks * (1024 << struct.unpack_from("<I", head, 1024 + 24)[0]))


def options(fs_type: str, *, read_only: bool) -> str:
    """The options of a mount. A copy of an xfs image has the identity of the first, beside which it may be mounted."""
    return ",".join(["noatime", "nodev", *(["nouuid"] if fs_type == "xfs" else []), *(["ro"] if read_only else [])])


def grows_in_use(fs_type: str) -> bool:
    if fs_type == "xfs":
        return True
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return False


def fits(path: Path | str, room: int) -> bool:
    """Whether the file system fills its room, but for a rest that it cannot use."""
    return room - size_bytes(path) < 1 << 20


def grow_online(device: str, target: Path, fs_type: str) -> None:
    """Grows a mounted file system to its device's size."""
    with open(device, "rb") as file:
        room = file.seek(0, os.SEEK_END)
    if not fits(device, room):
        run(*(("xfs_growfs", "-d", str(target)) if fs_type == "xfs" else ("resize2fs", device)))


def grow_offline(image: Path, fs_type: str) -> None:
    """Grows an ext4 file system that is mounted nowhere to its image's size; its journal is replayed before."""
    if fs_type != "ext4" or fits(image, image.stat().st_size):
        return
    run("e2fsck", "-f", "-p", str(image), well=CHECKED_WELL)
    run("resize2fs", str(image))


def run(*argv: str, well: tuple[int, ...] = (0,)) -> None:
    """Runs a program of the system.

    Raises:
        StagingProblem: it is missing or ended with an error.
    """
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "PATH": search})
    except FileNotFoundError:
        raise StagingProblem(f"{argv[0]} is not installed") from None
    if done.returncode not in well:
        raise StagingProblem(f"{' '.join(argv[:3])}: {(done.stderr.strip().splitlines() or ['exit status'])[-1]}")
