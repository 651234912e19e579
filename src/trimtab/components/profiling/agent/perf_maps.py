"""Names of code that was made at run time, which runtimes write into perf maps: Node (--perf-basic-prof), CPython (-X perf), the Erlang VM
(+JPperf true), Java's agents and others.

    an address in no file --> /proc/PID/root/tmp/perf-NUMBER.map, what was added since it was last read --> Frame("jit", name, file, line)

The file's number is the process' in its own pid namespace, and the file is its own: it is opened within its root, without following links
out of it, must be a plain file of the process' user or root, and what is read of it is bounded. A later line holds for an address, not an
earlier one: runtimes move code.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import stat
import struct
from bisect import bisect_right
from pathlib import Path

from trimtab.components.profiling.batch import Frame

READ_BYTES_MAX = 8 << 20
"""Of one map at a time; the rest follows at the next reading."""
ENTRIES_MAX = 200_000
"""Of one process: what comes later is left out."""
NAME_CHARACTERS_MAX = 512
PROCESSES_MAX = 512

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_PYTHON = re.compile(r"^py::(?P<name>.*):(?P<file>/.*|<.*>)$")
_NODE = re.compile(r"^(?:\w+:)?[~*^+]?(?P<name>.*?) ?(?P<file>(?:node:|file:/|/)[^ ]*?):(?P<line>\d+):\d+$")


def named(text: str) -> Frame:
    """A frame out of a map's name: V8's and CPython's have a file, and V8's a line."""
    if match := _PYTHON.match(text):
        return Frame("python", match["name"], file=match["file"])
    if match := _NODE.match(text):
        return Frame(
            "jit", match["name"] or "(anonymous)", file=match["file"].removeprefix("file://"), line=int(match["line"])
        )
    return Frame("jit", text)


class _Map:
    """What one process wrote."""

    def __init__(self) -> None:
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._ends: dict[int, tuple[int, str]] = {}
        self._starts: list[int] = []

    def refresh(self, pid: int) -> None:
        """Reads what was added. Raises `OSError`: no map, or none that is taken."""
        fd = _open(pid)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, Path(f"/proc/{pid}").stat().st_uid):
                raise PermissionError(f"perf map of process {pid}: not a plain file of its user")
            if (status.st_dev, status.st_ino) != self._file or status.st_size < self._offset:
                self._file, self._offset = (status.st_dev, status.st_ino), 0
                self._ends.clear()
            data = os.pread(fd, READ_BYTES_MAX, self._offset)
        finally:
            os.close(fd)
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        if whole:
            self._add(data[:whole])
            self._starts = sorted(self._ends)

    def _add(self, lines: bytes) -> None:
        for line in lines.splitlines():
            parts = line.split(maxsplit=2)
            if len(parts) < 3 or len(self._ends) >= ENTRIES_MAX:
                continue
            try:
                start, size = int(parts[0], 16), int(parts[1], 16)
            except ValueError:
                continue
            self._ends[start] = start + size, parts[2][:NAME_CHARACTERS_MAX].decode("utf-8", "replace")

    def find(self, address: int) -> str | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        end, name = self._ends[self._starts[index]]
        return name if address < end else None


class PerfMaps:
    """The maps of all processes that were asked for. Each is read again at most once between two calls of `begin`."""

    def __init__(self) -> None:
        self._maps: dict[int, _Map] = {}
        self._read: set[int] = set()

    def begin(self) -> None:
        """A new round of samples: maps may have grown."""
        self._read.clear()

    def name(self, pid: int, process: int, address: int) -> Frame | None:
        """The function at an address of a process (`process`: this run of it, as BPF names it), None when its map, should there be one,
        has none. Of a process that has ended: what was read before."""
        known = self._maps.pop(process, None) or _Map()
        self._maps[process] = known
        if len(self._maps) > PROCESSES_MAX:
            del self._maps[next(iter(self._maps))]
        if process not in self._read:
            self._read.add(process)
            with contextlib.suppress(OSError):  # No map, or the process has ended.
                known.refresh(pid)
        found = known.find(address)
        return None if found is None else named(found)


def _own_number(pid: int) -> str:
    """The process' number as it sees it itself."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[-1]
    return str(pid)


def _open(pid: int) -> int:
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        how = struct.pack("<3Q", flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        path = f"/tmp/perf-{_own_number(pid)}.map"
        fd = int(_libc().syscall(_OPENAT2, root, path.encode(), how, len(how)))
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
        return fd
    finally:
        os.close(root)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
