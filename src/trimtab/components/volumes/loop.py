"""Loop devices whose backing file carries a lock for exactly as long as the device can reach it.

    open file -> flock(that open file) -> LOOP_CONFIGURE: the kernel keeps the open file, and so the lock -> mount -> close all
    last umount, or the end of whoever held the device -> the kernel clears the device (AUTOCLEAR) -> lock gone

The lock belongs to the open file, not to a process (flock(2)). So nobody can drop it while the device can still write, no death of an
agent leaves it behind, and whoever gets it knows that no device of the other one is left. Constants: linux/loop.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

_CONFIGURE, _SET_CAPACITY, _GET_STATUS64, _GET_FREE = 0x4C0A, 0x4C07, 0x4C05, 0x4C82
_READ_ONLY, _AUTOCLEAR = 1, 4
_INFO = struct.Struct("=QQQQQIIII64s64s32s2Q")
"""struct loop_info64"""
_TRIES = 20
"""Another program may take the free device between the question and the deed."""
MAJOR = 7


class Busy(RuntimeError):
    """Somebody else holds the image."""


def locked(path: Path, *, shared: bool = False) -> int:
    """Opens an image and takes its lock: exclusive and writable, or shared and read-only. Returns the open file.

    Raises:
        Busy: somebody has a lock that this one does not go with.
        FileNotFoundError: there is no such image.
    """
    handle = os.open(path, (os.O_RDONLY if shared else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as err:
        os.close(handle)
        if err.errno != errno.EWOULDBLOCK:
            raise
        raise Busy(f"{path.name} is in use") from None
    return handle


def is_locked(path: Path) -> bool:
    """Whether anybody holds a lock on the image, a loop device above all."""
    try:
        os.close(locked(path))
    except Busy:
        return True
    except FileNotFoundError:
        return False
    return False


def attach(image: int, name: str, *, read_only: bool) -> tuple[int, str]:
    """Makes a loop device of an open, locked file. Returns the open device, which goes when it and all mounts of it are
    closed, and its path."""
    flags = _AUTOCLEAR | (_READ_ONLY if read_only else 0)
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name.encode()[:63], b"", b"", 0, 0)
    config = struct.pack("=II", image, 0) + info + bytes(64)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(_TRIES):
            number = fcntl.ioctl(control, _GET_FREE)
            path = f"/dev/loop{number}"
            _ensure_node(path, number)
            device = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, config)
                return device, path
            except OSError as err:
                os.close(device)
                if err.errno != errno.EBUSY or attempt == _TRIES - 1:
                    raise
    finally:
        os.close(control)
    raise AssertionError("unreachable")


def _ensure_node(path: str, number: int) -> None:
    """Where /dev is not the kernel's own (in a container), new devices have no node."""
    if not os.path.exists(path):
        os.mknod(path, 0o600 | 0o060000, os.makedev(MAJOR, number))


def refresh_size(device: str) -> None:
    """Lets a loop device see that its file has grown."""
    handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, _SET_CAPACITY, 0)
    finally:
        os.close(handle)


def devices_of(image: Path) -> list[str]:
    """The loop devices over an image, by device and inode of their files as the kernel has them; also over one whose
    name is gone."""
    try:
        wanted = os.stat(image)
    except FileNotFoundError:
        return []
    found = []
    for entry in sorted(Path("/sys/block").glob("loop*/loop")):
        path = f"/dev/{entry.parent.name}"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            info = _INFO.unpack(fcntl.ioctl(handle, _GET_STATUS64, bytes(_INFO.size)))
        except OSError:
            continue
        finally:
            os.close(handle)
        if info[1] == wanted.st_ino and os.makedev(info[0] >> 8 & 0xFFF, info[0] & 0xFF) == wanted.st_dev:
            found.append(path)
    return found


def holders(image: Path) -> list[str]:
    """Who keeps an image in use: one process of each mount namespace in which it is mounted, as `name (pid)`."""
    numbers = {f"{MAJOR}:{os.minor(os.stat(device).st_rdev)}" for device in devices_of(image)}
    seen: set[str] = set()
    found = []
    for pid in sorted((int(e) for e in os.listdir("/proc") if e.isdigit()) if numbers else ()):
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
            if any(line.split(" ", 3)[2] in numbers for line in mounts):
                found.append(f"{Path(f'/proc/{pid}/comm').read_text().strip()} ({pid})")
        except OSError:
            continue
    return found
