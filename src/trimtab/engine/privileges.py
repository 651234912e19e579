"""How a process stops being root, between fork and exec.

    root ── unreadable program? a private view of the file system ── capabilities ── user `trimtab` ── no way back

The program may stand where user `trimtab` cannot go: a checkout or a Python under /root (mode 0700), which is where
newcomers clone. Opening /root to everyone is not ours to do. So the child gets a mount namespace of its own in which the
first directory that bars the way is covered by an empty tmpfs, and only the directories that the process needs (program,
interpreter, data) are bound into it at the same paths; the rest of /root is not just unreadable but absent.

The calls themselves are `trimtab.confinement.calls`. Only the standard library; imported in the child alone, so that the
supervisor stays small.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterable, Sequence

from trimtab.confinement import calls

CAP_NET_BIND_SERVICE = 10


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
    calls.unshare(calls.NEWNS, "mounts")
    calls.mount("", "/", "", calls.SLAVE | calls.REC)
    calls.forget_mounts(hidden)
    cover = enclosing(bars.values())
    handles = {
        p: os.open(p, os.O_PATH | os.O_DIRECTORY) for p in enclosing(wanted) if any(calls.below(p, c) for c in cover)
    }
    for directory in cover:
        calls.mount("tmpfs", directory, "tmpfs", calls.NOSUID | calls.NODEV, "mode=0755,size=1m")
    for path, handle in handles.items():
        os.makedirs(path, mode=0o755, exist_ok=True)
        calls.mount(f"/proc/self/fd/{handle}", path, "", calls.BIND | calls.REC)
        if not any(path == w or calls.below(w, path) for w in writable):
            calls.mount("", path, "", calls.BIND | calls.REMOUNT | calls.RDONLY | calls.NOSUID | calls.NODEV)
        os.close(handle)


def conceal(directories: Sequence[str], kept: Sequence[str]) -> None:
    """Gives this process a file system view in which these directories are empty, but for the `kept` ones inside, and in
    which `/proc` shows its own process namespace alone."""
    calls.unshare(calls.NEWNS, "mounts")
    calls.mount("", "/", "", calls.SLAVE | calls.REC)
    calls.mount("proc", "/proc", "proc", calls.NOSUID | calls.NODEV)
    covered = enclosing(d for d in directories if os.path.isdir(d))
    calls.forget_mounts(covered)
    handles = {
        p: os.open(p, os.O_PATH | os.O_DIRECTORY) for p in enclosing(kept) if any(calls.below(p, c) for c in covered)
    }
    for directory in covered:
        calls.mount("tmpfs", directory, "tmpfs", calls.NOSUID | calls.NODEV, "mode=0755,size=1m")
    for path, handle in handles.items():
        os.makedirs(path, mode=0o755, exist_ok=True)
        calls.mount(f"/proc/self/fd/{handle}", path, "", calls.BIND | calls.REC)
        os.close(handle)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


# The user


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
    calls.bound_capabilities(ambient)
    if ambient:
        calls.prctl(calls.SET_KEEPCAPS, 1)
    os.setgroups([account.pw_gid])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    if ambient:
        calls.set_capabilities(ambient)
    calls.no_new_privileges()


def become_root_of_own_users(wait_for_map: Callable[[], None]) -> None:
    """Turns this root process into root of a user namespace, which is nobody of note outside of it.

    wait_for_map: called when the namespace is there; returns once the parent has mapped its users.
    """
    os.setgroups([])
    calls.unshare(calls.NEWUSER | calls.NEWNS, "users")
    wait_for_map()
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    calls.no_new_privileges()


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
