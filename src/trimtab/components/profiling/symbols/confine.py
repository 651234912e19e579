"""How a process gives up everything but thinking: what a parser of hostile bytes runs under.

    namespaces (mounts, processes, network, users ...) -> a file system of Python, its libraries and this package, read-only
      -> user nobody, no capabilities, no way back -> limits -> system calls that a parser never needs are refused

As root, and as an ordinary user in a user namespace. Where the kernel or a container forbids namespaces the rest still holds: no
new privileges, limits, and no system call that opens a socket, starts a program or touches another process.
Only the standard library, as this runs before anything else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import stat
import struct
import sys

NOBODY = 65534

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (1 << n for n in (17, 26, 27, 28, 29, 30))
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
_SIGKILL = 9
FILE_BYTES_MAX = 2 << 30
DESCRIPTORS_MAX = 64

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(v) for v in (*values, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *padded), f"prctl({option})")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(done, f"mount {source or kind} on {target}")


def die_with_parent() -> None:
    _prctl(_SET_PDEATHSIG, _SIGKILL)


# Namespaces


def enter_namespaces() -> bool:
    """Whether all of it was allowed: own namespaces, and a file system of what is needed to go on. What this forks next is process 1."""
    spaces = _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    uid, gid = os.getuid(), os.getgid()
    try:
        if uid == 0:
            _check(_libc.unshare(spaces), "unshare")
        else:
            _check(_libc.unshare(spaces | _NEWUSER), "unshare")
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{NOBODY} {uid} 1"),
                ("gid_map", f"{NOBODY} {gid} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        _own_root()
    except OSError:
        return False
    return True


def needed() -> list[str]:
    """The directories and files that Python and this package are read from, none within another."""
    libraries = ("/usr/lib", "/usr/local/lib", "/lib", "/lib64", "/usr/lib64", "/etc/ld.so.cache")
    python = (
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        os.path.dirname(os.path.realpath(sys.executable)),
        *sys.path,
    )
    found: list[str] = []
    for path in sorted({os.path.abspath(p) for p in (*libraries, *python) if p and os.path.exists(p)}):
        if path not in ("/", "/usr/bin", "/bin") and not any(path.startswith(f"{k}/") for k in found):
            found.append(path)
    return found


def _own_root() -> None:
    _mount("", "/", "", _REC | _PRIVATE)
    root = "/tmp"
    handles = {
        path: os.open(path, os.O_PATH) for path in needed() if not os.path.islink(path)
    }  # some may be below /tmp
    links = {path: os.readlink(path) for path in needed() if os.path.islink(path)}
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=0755")
    for path, handle in handles.items():
        at = f"{root}{path}"
        os.makedirs(os.path.dirname(at), mode=0o755, exist_ok=True)
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            os.mkdir(at, 0o755)
        else:
            os.close(os.open(at, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/proc/self/fd/{handle}", at, "", _BIND | _REC)
        kept = os.statvfs(at).f_flag & ~_RDONLY & 0xF
        with contextlib.suppress(OSError):  # what is mounted with flags that we may not change stays as it is
            _mount("", at, "", _REMOUNT | _BIND | _RDONLY | _NOSUID | kept)
        os.close(handle)
    for path, target in links.items():
        os.makedirs(os.path.dirname(f"{root}{path}"), mode=0o755, exist_ok=True)
        os.symlink(target, f"{root}{path}")
    os.chdir(root)
    _check(_pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _DETACH), "umount /")
    os.chdir("/")
    _mount("", "/", "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _pivot_root(new: bytes, put_old: bytes) -> int:
    return int(_libc.syscall(_NUMBERS[platform.machine()]["pivot_root"], new, put_old))


# Privileges and limits


def give_up_everything(memory_bytes: int, cpu_s: int) -> None:
    """Nothing of it can be taken back."""
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
        _libc.unshare(_NEWUSER)  # without it, it is nobody all the same
    die_with_parent()  # a change of user takes it back
    _prctl(_SET_NO_NEW_PRIVS, 1)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)), "capset")
    _prctl(_SET_DUMPABLE, 0)
    refuse_system_calls()


# System calls

_REFUSED = (
    "socket", "connect", "bind", "listen", "accept", "accept4", "socketpair", "execve", "execveat", "fork", "vfork",
    "ptrace", "process_vm_readv", "process_vm_writev", "kill", "pidfd_send_signal", "pidfd_open", "pidfd_getfd",
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "bpf", "perf_event_open", "io_uring_setup",
    "userfaultfd", "keyctl", "add_key", "request_key", "init_module", "finit_module", "delete_module", "kexec_load",
    "open_by_handle_at", "name_to_handle_at", "fsopen", "fsmount", "open_tree", "move_mount", "mount_setattr",
    "personality", "setuid", "setgid", "setresuid", "setresgid",
)  # fmt: skip
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x10000

# Numbers: Linux' include/uapi/asm-generic/unistd.h (arm64) and arch/x86/entry/syscalls/syscall_64.tbl.
_NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "clone": 56, "fork": 57,
        "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101, "setuid": 105, "setgid": 106, "setresuid": 117,
        "setresgid": 119, "personality": 135, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166,
        "init_module": 175, "delete_module": 176, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
        "unshare": 272, "accept4": 288, "perf_event_open": 298, "name_to_handle_at": 303, "open_by_handle_at": 304,
        "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313, "bpf": 321,
        "execveat": 322, "userfaultfd": 323,
    },
    "aarch64": {
        "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "personality": 92, "unshare": 97, "kexec_load": 104,
        "init_module": 105, "delete_module": 106, "ptrace": 117, "kill": 129, "setgid": 144, "setuid": 146,
        "setresuid": 147, "setresgid": 149, "socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202,
        "connect": 203, "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220, "execve": 221,
        "perf_event_open": 241, "accept4": 242, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "finit_module": 273, "bpf": 280, "execveat": 281,
        "userfaultfd": 282,
    },
}  # fmt: skip
_COMMON = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432,
    "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "mount_setattr": 442,
}  # fmt: skip
"""Since 5.1, numbers are the same everywhere."""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _HAS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def refuse_system_calls() -> None:
    """Threads stay possible: libraries start some. On processors that we have no numbers for, nothing is refused here."""
    machine = platform.machine()
    if machine not in _NUMBERS:
        return
    numbers = _NUMBERS[machine] | _COMMON
    code = [
        (_LOAD, 0, 0, 4),  # of seccomp_data: the architecture
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        (_EQUAL, 0, 1, numbers["clone3"]),  # its flags are out of reach of a filter: clone is used instead
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_EQUAL, 0, 4, numbers["clone"]),
        (_LOAD, 0, 0, 16),  # the first argument
        (_HAS, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
    ]
    for name in _REFUSED:
        if name in numbers:
            code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    code.append((_RETURN, 0, 0, _ALLOW))
    filters = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(filters)))
    _check(_libc.prctl(_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")
