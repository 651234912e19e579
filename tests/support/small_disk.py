"""A file system of a test's own: small, real, and full when the test says so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(point: Path, size_mib: int, inodes: int = 0) -> Iterator[Path]:
    """ext4 in an image file beside `point`, mounted there; the test is skipped where that cannot be."""
    image = point.with_suffix(".img")
    point.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    numbers = ["-N", str(inodes)] if inodes else []
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", *numbers, str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(point)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk image can be mounted here: {mounted.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)
        image.unlink(missing_ok=True)
