"""Directories that something works in: who has one holds its lease, and what nobody holds any more is removed.

    lease(directory) -> locked; the lock passes on to the processes that work there
    sweep(directories) -> removes what was left by a runner that was killed, never what is held or kept

The lease is a lock on the file `lock` in the directory, which is the first to come and the last to go. It ends with the last
process that holds it, however that one ends, so no clock and no process id has to be trusted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

LOCK = "lock"
KEPT = "kept.json"
"""Marks a directory that outlives its lease: the state of a failed step."""


class Lease:
    """Holds a directory. descriptor: the lock, to be handed to processes that work there."""

    def __init__(self, directory: Path, descriptor: int) -> None:
        self.directory = directory
        self.descriptor = descriptor

    def release(self) -> None:
        """Lets go; the directory stays."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def remove(self) -> None:
        """Removes the directory, and lets go."""
        try:
            remove_tree(self.directory, last=LOCK)
        finally:
            self.release()


def lease(directory: Path, *, wait: bool = True) -> Lease | None:
    """Holds a directory, which is made if it is not there. Without `wait`: None while someone else holds it."""
    while True:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # swept between the two lines
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return Lease(directory, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)  # swept while we waited for it


def sweep(top: Path) -> list[Path]:
    """Removes every leased directory in `top` whose lease has ended and which is not kept; returns which."""
    removed: list[Path] = []
    for directory in _directories(top):
        if not (directory / LOCK).exists():
            with contextlib.suppress(OSError):
                directory.rmdir()  # of somebody who came no further; never of one with anything in it
            continue
        if (directory / KEPT).exists():
            continue
        found = lease(directory, wait=False)
        if found is None:
            continue
        if (directory / KEPT).exists():
            found.release()
            continue
        found.remove()
        removed.append(directory)
    return removed


def _directories(top: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def remove_tree(directory: Path, last: str = "") -> None:
    """Removes a directory whatever modes are in it; never follows a link. last: a file in it that goes when all else is gone."""
    try:
        descriptor = _open_directory(str(directory), None)
    except FileNotFoundError:
        return
    try:
        _empty(descriptor, last)
        if last:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(last, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(directory)


def _open_directory(name: str, parent: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, flags, dir_fd=parent)
    if os.fstat(descriptor).st_mode & 0o700 != 0o700:
        os.fchmod(descriptor, 0o700)
    return descriptor


def _empty(descriptor: int, spared: str = "") -> None:
    with os.scandir(descriptor) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if name == spared:
            continue
        try:
            if not is_directory:
                os.unlink(name, dir_fd=descriptor)
                continue
            below = _open_directory(name, descriptor)
            try:
                _empty(below)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=descriptor)
        except FileNotFoundError:
            continue


def used_bytes(directory: Path) -> int:
    """What a directory takes on the disk; whatever goes away meanwhile does not count."""
    total = 0
    pending = [str(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        total += found.st_blocks * 512
                        if stat.S_ISDIR(found.st_mode):
                            pending.append(entry.path)
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
                raise
    return total
