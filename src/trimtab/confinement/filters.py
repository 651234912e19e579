"""System calls that a process never needs once it only thinks: refused with EPERM from the moment this is called, for good.

A seccomp filter of our own making (classic BPF over `struct seccomp_data`: seccomp(2)). Only the standard library.
"""

from __future__ import annotations

import os
import struct

from trimtab.confinement import calls

REFUSED = (
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
    machine = os.uname().machine
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
    for name in REFUSED:
        if name in numbers:
            code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    code.append((_RETURN, 0, 0, _ALLOW))
    calls.filter_system_calls(b"".join(struct.pack("<HBBI", *step) for step in code), len(code))
