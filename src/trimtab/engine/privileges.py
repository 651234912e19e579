"""How a process stops being root, between fork and exec.

    root ── unreadable program? a private view of the file system ── capabilities ── user `trimtab` ── no way back

The program may stand where user `trimtab` cannot go: a checkout or a Python under /root (mode 0700), which is where
newcomers clone. Opening /root to everyone is not ours to do. So the child gets a mount namespace of its own in which the
first directory that bars the way is covered by an empty tmpfs, and only the directories that the process needs (program,
interpreter, data) are bound into it at the same paths; the rest of /root is not just unreadable but absent.

Python 3.11 has no `os.unshare`, `mount` or capability calls, hence ctypes. Only the standard library; imported in the
child alone, so that the supervisor stays small.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterable, Sequence

CAP_NET_BIND_SERVICE = 10

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x08000000, 0x10000000, 0x20000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 2, 4, 32, 4096, 16384, 1 << 19
_MNT_DETACH = 2
_PR_SET_NAME, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 15, 8, 24, 38
_PR_SET_CHILD_SUBREAPER, _PR_SET_PDEATHSIG, _SIGKILL = 36, 1, 9
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(v) for v in (*values, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *padded), f"prctl({option})")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(result, f"mount {source or kind} on {target}")


def name_process(name: str) -> None:
    """Sets the short name that ps and top show (15 characters)."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _libc.prctl(_PR_SET_NAME, buffer, 0, 0, 0)


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned descendants, so that it can reap them where process 1 does not."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends. A change of user takes this back."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def own_process_namespace() -> None:
    """What this process forks next is process 1 of a namespace: it sees no other processes, and all in it end with it."""
    _check(_libc.unshare(_CLONE_NEWPID | _CLONE_NEWIPC), "unshare(processes)")


# Which directory bars the way


def barred_at(path: str, uid: int, gids: Iterable[int]) -> str | None:
    """The first directory on the way to `path` (itself included) that a user may not pass; None when the way is free."""
    groups = set(gids)
    current = "/"
    for part in ["", *os.path.abspath(path).strip("/").split("/")]:
        current = os.path.join(current, part) if part else current
        try:
            if not _may_enter(current, uid, groups):
                return current
        except (FileNotFoundError, NotADirectoryError):
            return None
    return None


def _may_enter(directory: str, uid: int, groups: set[int]) -> bool:
    status = os.stat(directory)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(directory)
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IXUSR)
    return bool(status.st_mode & (stat.S_IXGRP if status.st_gid in groups else stat.S_IXOTH))


def enclosing(paths: Iterable[str]) -> list[str]:
    """The given directories without those that lie in another of them, in order."""
    found: list[str] = []
    for path in sorted({os.path.abspath(p) for p in paths}):
        if not any(path == kept or path.startswith(kept.rstrip("/") + "/") for kept in found):
            found.append(path)
    return found


def _below(path: str, parent: str) -> bool:
    return path != parent and path.startswith(parent.rstrip("/") + "/")


# A private view of the file system


def clear_the_way(uid: int, gid: int, readable: Sequence[str], writable: Sequence[str], hidden: Sequence[str]) -> None:
    """Gives this process a file system view in which every needed directory can be reached by the user.

    readable and writable: directories (missing ones are skipped). hidden: directories whose mounts this process must not
    keep alive (pods' file systems). Does nothing, and makes no namespace, when no way is barred.

    Raises:
        PermissionError: when a needed directory itself is closed to the user, naming it and the command that opens it.
        OSError: when a mount is refused.
    """
    gids = {gid}
    wanted = [p for p in (*readable, *writable) if os.path.isdir(p)]
    bars = {p: bar for p in wanted if (bar := barred_at(p, uid, gids)) is not None}
    if not bars:
        return
    for path in wanted:
        if not _may_enter(path, uid, gids):
            raise PermissionError(f"{path} cannot be entered by user {_user_name(uid)}: chmod go+rx {path}")
    _check(_libc.unshare(_CLONE_NEWNS), "unshare(mounts)")
    _mount("", "/", "", _MS_SLAVE | _MS_REC)
    _forget_mounts(hidden)
    cover = enclosing(bars.values())
    handles = {p: os.open(p, os.O_PATH | os.O_DIRECTORY) for p in enclosing(wanted) if any(_below(p, c) for c in cover)}
    for directory in cover:
        _mount("tmpfs", directory, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    for path, handle in handles.items():
        os.makedirs(path, mode=0o755, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}", path, "", _MS_BIND | _MS_REC)
        if not any(path == w or _below(w, path) for w in writable):
            _mount("", path, "", _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
        os.close(handle)


def conceal(directories: Sequence[str], kept: Sequence[str]) -> None:
    """Gives this process a file system view in which these directories are empty, but for the `kept` ones inside, and in
    which `/proc` shows its own process namespace alone."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare(mounts)")
    _mount("", "/", "", _MS_SLAVE | _MS_REC)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV)
    covered = enclosing(d for d in directories if os.path.isdir(d))
    _forget_mounts(covered)
    handles = {p: os.open(p, os.O_PATH | os.O_DIRECTORY) for p in enclosing(kept) if any(_below(p, c) for c in covered)}
    for directory in covered:
        _mount("tmpfs", directory, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    for path, handle in handles.items():
        os.makedirs(path, mode=0o755, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}", path, "", _MS_BIND | _MS_REC)
        os.close(handle)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _forget_mounts(parents: Sequence[str]) -> None:
    """Detaches every mount below the given directories from this namespace, innermost first."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    for point in reversed(points):
        if any(_below(point, parent) for parent in parents):
            _libc.umount2(point.encode(), _MNT_DETACH)


# The user


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityData(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def become(user: str, ambient: Sequence[int] = ()) -> None:
    """Turns this root process into `user` for good: its group only, no capability but `ambient`, no setuid programs.

    Raises:
        LookupError: no such user, naming it.
        OSError: a step was refused.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise LookupError(
            f"there is no user {user} on this machine: run `trimtab start` as root, which makes it"
        ) from None
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        if capability not in ambient:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if ambient:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([account.pw_gid])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    if ambient:
        mask = sum(1 << c for c in ambient)
        header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
        data = (_CapabilityData * 2)()
        data[0] = _CapabilityData(mask, mask, mask)
        _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")
        for capability in ambient:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become_root_of_own_users(wait_for_map: Callable[[], None]) -> None:
    """Turns this root process into root of a user namespace, which is nobody of note outside of it.

    wait_for_map: called when the namespace is there; returns once the parent has mapped its users.
    """
    os.setgroups([])
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare(users)")
    wait_for_map()
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def ids_of(user: str) -> tuple[int, int]:
    """The user's numeric ids: user and primary group.

    Raises:
        LookupError: no such user.
    """
    try:
        account = pwd.getpwnam(user)
        grp.getgrgid(account.pw_gid)
    except KeyError:
        raise LookupError(f"there is no user {user} (or its group) on this machine") from None
    return account.pw_uid, account.pw_gid
