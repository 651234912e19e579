"""Directories whose whole content changes at once: what a ConfigMap, Secret or projected volume is on disk.

    config.yaml -> ..data/config.yaml      what a container reads
    ..data      -> ..<hash of content>     replaced by one rename
    ..<hash>/config.yaml                   the bytes

A reader sees all of the old content or all of the new, as the Kubernetes documentation promises. The directory's name is
the content's hash, so looking at one link tells whether anything has to be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

DATA = "..data"


@dataclass(frozen=True)
class ProjectedFile:
    data: bytes
    mode: int
    uid: int | None = None
    """Who owns it, if not root."""


def safe_path(path: str) -> bool:
    """True for a relative path that stays below its directory and is no name of ours."""
    parts = PurePosixPath(path).parts
    return (
        bool(parts)
        and not path.startswith("/")
        and all(p not in ("..", ".") for p in parts)
        and not path.startswith("..")
    )


def project(directory: Path, files: Mapping[str, ProjectedFile], gid: int | None = None) -> bool:
    """Makes `directory` show exactly `files` (relative path to content); returns whether anything changed.

    gid: the group that may read every file, besides what the modes say.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    directory.chmod(0o755)
    version = f"..{_hash(files, gid)}"
    link = directory / DATA
    before = os.readlink(link) if link.is_symlink() else None
    if before == version:
        return False
    target = directory / version
    if target.exists():
        shutil.rmtree(target)
    for path, file in files.items():
        _write(target / path, file, gid)
    target.mkdir(exist_ok=True)
    scratch = directory / "..data_tmp"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(version)
    scratch.replace(link)
    tops = {PurePosixPath(path).parts[0] for path in files}
    for top in tops:
        if not (directory / top).is_symlink():
            (directory / top).symlink_to(f"{DATA}/{top}")
    for entry in os.scandir(directory):
        if entry.is_symlink() and entry.name not in tops and entry.name != DATA:
            os.unlink(entry.path)
        elif entry.name.startswith("..") and entry.name not in (DATA, version):
            shutil.rmtree(entry.path, ignore_errors=True)
    return True


def _hash(files: Mapping[str, ProjectedFile], gid: int | None) -> str:
    digest = hashlib.sha256(str(gid).encode())
    for path, file in sorted(files.items()):
        digest.update(f"\0{path}\0{file.mode:o}\0{file.uid}\0{len(file.data)}\0".encode())
        digest.update(file.data)
    return digest.hexdigest()[:24]


def _write(path: Path, file: ProjectedFile, gid: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.write_bytes(file.data)
    mode = file.mode
    if gid is not None or file.uid is not None:
        with contextlib.suppress(PermissionError):
            os.chown(path, -1 if file.uid is None else file.uid, -1 if gid is None else gid)
    if gid is not None:
        mode |= 0o440
    path.chmod(mode)
