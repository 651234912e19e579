"""The pause program: what holds a pod's namespaces open, as an ELF file of under 250 bytes, written byte by byte here.

It ignores SIGCHLD, so that the kernel reaps orphans where containers share the pod's process namespace, and then waits
for signals for ever. Nothing is linked, nothing is read, nothing can be configured.

Sources: the ELF-64 object file format; Linux's system call tables (x86-64: rt_sigaction 13, pause 34; arm64, which has no
pause: rt_sigaction 134, ppoll 73).
"""

from __future__ import annotations

import struct

_BASE = 0x400000
_HEADER_BYTES = 64
_SEGMENT_BYTES = 56
_ENTRY = _BASE + _HEADER_BYTES + _SEGMENT_BYTES
_EXECUTABLE, _LOAD, _READ_EXECUTE = 2, 1, 5
_MACHINES = {"amd64": 62, "arm64": 183}
_SIGCHLD = 17
_SIGNAL_SET_BYTES = 8
_IGNORE_CHILDREN = struct.pack("<QQQQ", 1, 0, 0, 0)  # struct sigaction: handler SIG_IGN, no flags, restorer or mask


def pause_executable(architecture: str) -> bytes:
    """The program for `amd64` or `arm64`."""
    code = _amd64() if architecture == "amd64" else _arm64()
    size = _HEADER_BYTES + _SEGMENT_BYTES + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)  # 64 bits, little-endian, version 1, System V
    header = identity + struct.pack(
        "<HHIQQQIHHHHHH",
        _EXECUTABLE,
        _MACHINES[architecture],
        1,
        _ENTRY,
        _HEADER_BYTES,
        0,
        0,
        _HEADER_BYTES,
        _SEGMENT_BYTES,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", _LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, 0x10000)
    return header + segment + code


def _amd64() -> bytes:
    before = (
        b"\xb8" + struct.pack("<I", 13)  # mov eax, rt_sigaction
        + b"\xbf" + struct.pack("<I", _SIGCHLD)  # mov edi, SIGCHLD
    )  # fmt: skip
    after = (
        b"\x31\xd2"  # xor edx, edx
        + b"\x41\xba" + struct.pack("<I", _SIGNAL_SET_BYTES)  # mov r10d, 8
        + b"\x0f\x05"  # syscall
        + b"\xb8" + struct.pack("<I", 34)  # again: mov eax, pause
        + b"\x0f\x05"  # syscall
        + b"\xeb\xf7"  # jmp again
    )  # fmt: skip
    data = _ENTRY + len(before) + 5 + len(after)
    return before + b"\xbe" + struct.pack("<I", data) + after + _IGNORE_CHILDREN  # mov esi, data


def _arm64() -> bytes:
    def move(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    wait = [move(0, 0), move(1, 0), move(2, 0), move(3, 0), move(8, 73), 0xD4000001]  # ppoll(0, 0, 0, 0)
    back = 0x14000000 | (-len(wait) & 0x3FFFFFF)  # b wait
    words = [move(0, _SIGCHLD), 0, move(2, 0), move(3, _SIGNAL_SET_BYTES), move(8, 134), 0xD4000001, *wait, back]
    distance = 4 * len(words) - 4
    words[1] = 0x10000001 | (distance & 3) << 29 | distance >> 2 << 5  # adr x1, data
    words_bytes = struct.pack(f"<{len(words)}I", *words)
    return words_bytes + _IGNORE_CHILDREN
