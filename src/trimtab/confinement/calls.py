"""Calls of the kernel that Python 3.11 has no words for, each with its error checked: `OSError`, naming what was refused.

Used between fork and exec, and before anything else is loaded: only the standard library.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (1 << n for n in (17, 25, 26, 27, 28, 29, 30))
"""Namespaces, for `unshare`: clone(2)."""
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, MOVE, REC = (1 << n for n in (0, 1, 2, 3, 5, 12, 13, 14))
PRIVATE, SLAVE = 1 << 18, 1 << 19
"""Flags of `mount`: mount(2)."""
SET_PDEATHSIG, SET_DUMPABLE, SET_KEEPCAPS, SET_NAME, SET_SECCOMP, CAPBSET_DROP = 1, 4, 8, 15, 22, 24
SET_CHILD_SUBREAPER, SET_NO_NEW_PRIVS, CAP_AMBIENT = 36, 38, 47
"""Options of `prctl`: prctl(2)."""

_MNT_DETACH = 2
_SIGKILL = 9
_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
"""The C library has no function for it."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def prctl(option: int, *values: int) -> None:
    """Raises OSError when it is refused."""
    padded = [ctypes.c_ulong(v) for v in (*values, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *padded), f"prctl({option})")


# Namespaces and mounts


def unshare(spaces: int, what: str) -> None:
    """New namespaces for this process; `NEWPID` for what it forks next. what: named in the OSError."""
    _check(_libc.unshare(spaces), f"unshare({what})")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Raises OSError when it is refused."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(result, f"mount {source or kind} on {target}")


def detach(target: str) -> None:
    """Takes a mount away, and what is mounted below it; for who has a file open there it lives on. Raises OSError."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def forget_mounts(parents: Sequence[str]) -> None:
    """Detaches every mount below (not at) the given directories from this namespace, innermost first, as far as it is allowed."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    for point in reversed(points):
        if any(below(point, parent) for parent in parents):
            _libc.umount2(point.encode(), _MNT_DETACH)


def pivot_root(new: str) -> None:
    """Makes a mount the root of this namespace; the former root is gone, but for open files. Raises OSError."""
    os.chdir(new)
    _check(int(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b".")), "pivot_root")
    detach(".")
    os.chdir("/")


def below(path: str, parent: str) -> bool:
    """Whether a path lies in a directory; a directory does not lie in itself."""
    return path != parent and path.startswith(parent.rstrip("/") + "/")


# The process


def name_process(name: str) -> None:
    """Sets the short name that ps and top show (15 characters)."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _libc.prctl(SET_NAME, buffer, 0, 0, 0)


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned descendants, so that it can reap them where process 1 does not."""
    prctl(SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends. A change of user takes this back."""
    prctl(SET_PDEATHSIG, _SIGKILL)


def own_process_namespace() -> None:
    """What this process forks next is process 1 of a namespace: it sees no other processes, and all in it end with it."""
    unshare(NEWPID | NEWIPC, "processes")


# Capabilities


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityData(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def bound_capabilities(kept: Sequence[int]) -> None:
    """No program that this process ever starts gets a capability but these, whoever runs it."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        if capability not in kept:
            _libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)


def set_capabilities(kept: Sequence[int]) -> None:
    """This process has these capabilities and no other (all below 32), and hands them to the programs it starts. Raises OSError."""
    mask = sum(1 << c for c in kept)
    data = (_CapabilityData * 2)()
    data[0] = _CapabilityData(mask, mask, mask)
    _check(_libc.capset(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0)), ctypes.byref(data)), "capset")
    for capability in kept:
        prctl(CAP_AMBIENT, _CAP_AMBIENT_RAISE, capability)


def no_new_privileges() -> None:
    """No program that this process starts gains anything by its setuid bit or file capabilities."""
    prctl(SET_NO_NEW_PRIVS, 1)


def filter_system_calls(program: bytes, steps: int) -> None:
    """Installs a seccomp filter: `steps` instructions (struct sock_filter, 8 bytes each). For good. Raises OSError."""
    filters = ctypes.create_string_buffer(program)
    described = ctypes.create_string_buffer(struct.pack("@HP", steps, ctypes.addressof(filters)))
    _check(_libc.prctl(SET_SECCOMP, 2, ctypes.byref(described), 0, 0), "seccomp")
