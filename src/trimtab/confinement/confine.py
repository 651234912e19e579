"""How a process gives up everything but thinking: what a parser of hostile bytes, or a stranger's function, runs under.

    namespaces (mounts, processes, network, users ...) -> a file system of Python, its libraries and this package, read-only
      -> user nobody, no capabilities, no way back -> limits -> system calls that thinking never needs are refused (filters.py)

As root, and as an ordinary user in a user namespace. Where the kernel or a container forbids namespaces the rest still holds: no
new privileges, limits, and no system call that opens a socket, starts a program or touches another process.
Only the standard library, as this runs before anything else.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import stat
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from trimtab.confinement import calls
from trimtab.confinement.filters import refuse_system_calls

NOBODY = 65534
FILE_BYTES_MAX = 2 << 30
DESCRIPTORS_MAX = 64
LIBRARIES = ("/usr/lib", "/usr/local/lib", "/lib", "/lib64", "/usr/lib64", "/etc/ld.so.cache")
"""Where programs are linked from."""


# Namespaces


def enter_namespaces(paths: Sequence[str] | None = None) -> bool:
    """Whether all of it was allowed: own namespaces, and a file system of what is needed to go on. What this forks next is process 1.

    paths: the directories and files of it, read-only; `needed()` unless given.
    """
    spaces = calls.NEWNS | calls.NEWPID | calls.NEWNET | calls.NEWIPC | calls.NEWUTS
    uid, gid = os.getuid(), os.getgid()
    try:
        if uid == 0:
            calls.unshare(spaces, "all")
        else:
            calls.unshare(spaces | calls.NEWUSER, "all")
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{NOBODY} {uid} 1"),
                ("gid_map", f"{NOBODY} {gid} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        _own_root(needed() if paths is None else outermost(paths))
    except OSError:
        return False
    return True


def needed() -> list[str]:
    """The directories and files that Python and this package are read from, none within another."""
    python = (
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        os.path.dirname(os.path.realpath(sys.executable)),
        *sys.path,
    )
    return outermost((*LIBRARIES, *python))


def outermost(paths: Sequence[str]) -> list[str]:
    """Those of them that exist, none within another."""
    found: list[str] = []
    for path in sorted({os.path.abspath(p) for p in paths if p and os.path.exists(p)}):
        if path not in ("/", "/usr/bin", "/bin") and not any(calls.below(path, k) for k in found):
            found.append(path)
    return found


def _own_root(paths: Sequence[str]) -> None:
    calls.mount("", "/", "", calls.REC | calls.PRIVATE)
    root = "/tmp"
    handles = {path: os.open(path, os.O_PATH) for path in paths if not os.path.islink(path)}  # some may be below /tmp
    links = {path: os.readlink(path) for path in paths if os.path.islink(path)}
    calls.mount("tmpfs", root, "tmpfs", calls.NOSUID | calls.NODEV, "size=1m,mode=0755")
    for path, handle in handles.items():
        at = f"{root}{path}"
        os.makedirs(os.path.dirname(at), mode=0o755, exist_ok=True)
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            os.mkdir(at, 0o755)
        else:
            os.close(os.open(at, os.O_CREAT | os.O_WRONLY, 0o644))
        calls.mount(f"/proc/self/fd/{handle}", at, "", calls.BIND | calls.REC)
        kept = os.statvfs(at).f_flag & ~calls.RDONLY & 0xF
        with contextlib.suppress(OSError):  # what is mounted with flags that we may not change stays as it is
            calls.mount("", at, "", calls.REMOUNT | calls.BIND | calls.RDONLY | calls.NOSUID | kept)
        os.close(handle)
    for path, target in links.items():
        os.makedirs(os.path.dirname(f"{root}{path}"), mode=0o755, exist_ok=True)
        os.symlink(target, f"{root}{path}")
    calls.pivot_root(root)
    calls.mount("", "/", "", calls.REMOUNT | calls.BIND | calls.RDONLY | calls.NOSUID | calls.NODEV)


# The one that waits


def keep(handle: int, work: Callable[[int], None]) -> NoReturn:
    """Runs `work` in a fork, which ends with this process and when nobody has the other end of the socket `handle` any more.

    `work` is given a descriptor of this process, for `give_up_everything`. Ends with the fork's status, 128 more than the signal when it
    was killed.
    """
    keeper = os.pidfd_open(os.getpid())
    worker = os.fork()
    if worker == 0:
        status = 1
        try:
            die_with(keeper)
            work(keeper)
            status = 0
        finally:
            os._exit(status)
    watched = select.poll()
    watched.register(handle, 0)  # no event but its end
    ended = os.pidfd_open(worker)
    watched.register(ended, select.POLLIN)
    if all(fd != ended for fd, _ in watched.poll()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, 9)
    _, how = os.waitpid(worker, 0)
    os._exit(os.waitstatus_to_exitcode(how) if os.WIFEXITED(how) else 128 + os.WTERMSIG(how))


# Privileges and limits


def die_with(parent: int) -> None:
    """Has this process killed when its parent ends, of which `parent` is a descriptor; at once when it has ended already."""
    calls.die_with_parent()
    if select.select([parent], [], [], 0)[0]:
        os._exit(1)


def give_up_everything(memory_bytes: int, cpu_s: int, parent: int | None = None) -> None:
    """Nothing of it can be taken back. memory_bytes: address space. cpu_s: CPU time of this process' life. parent: a descriptor of the
    process to end with."""
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, FILE_BYTES_MAX),
        (resource.RLIMIT_NOFILE, DESCRIPTORS_MAX),
    ):
        _, most = resource.getrlimit(what)
        least = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(what, (least, least))
    os.nice(5)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with contextlib.suppress(OSError):  # without it, it is nobody all the same
            calls.unshare(calls.NEWUSER, "users")
    if parent is not None:
        die_with(parent)  # a change of user takes it back
        os.close(parent)
    calls.no_new_privileges()
    calls.set_capabilities(())
    calls.prctl(calls.SET_DUMPABLE, 0)
    refuse_system_calls()
