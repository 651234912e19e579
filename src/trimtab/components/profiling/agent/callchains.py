"""The way without BPF: the kernel follows frame pointers and writes every sample, and every new mapping, name and end of a process, into
a ring of each CPU; here they become the same stacks as the BPF program's. Programs without frame pointers show their innermost frames
only, and as nothing says where a stack begins, each is marked (no-table).

    ring of a CPU --records--> mappings by process; samples --> counted stacks --take()--> drain
"""

from __future__ import annotations

import itertools
import mmap
import os
import select
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.agent import layout, perf, types
from trimtab.components.profiling.agent.mappings import Mapping, Process

RING_PAGES = 64
"""Of a CPU; the kernel wants a power of two. 256 KB: at 99 Hz, about ten seconds of deep stacks."""
CHAINS_MAX = 16384
PROCESSES_MAX = 8192

_TID, _TIME, _CALLCHAIN = 1 << 1, 1 << 2, 1 << 5
_MMAP, _COMM, _TASK, _WATERMARK, _SAMPLE_ID, _MMAP2, _COMM_EXEC = (1 << bit for bit in (8, 9, 13, 14, 18, 23, 24))
_LOST, _COMM_RECORD, _EXIT, _FORK, _SAMPLE, _MMAP2_RECORD = 2, 3, 4, 7, 9, 10
_EXEC = 1 << 13
_CONTEXT_KERNEL, _CONTEXT_USER, _CONTEXT_MAX = (2**64 - back for back in (128, 512, 4095))
_HEAD_AT = 1024
_HEADER = struct.Struct("<IHH")
_IDS = struct.Struct("<II")
_MMAP2_HEAD = struct.Struct("<IIQQQIIQQII")
_EXECUTABLE = 4
_TRAILER_BYTES = 16
"""Behind every record that is no sample: pid, tid, time."""


class Ring:
    """One CPU's: what the kernel has written since the last time."""

    def __init__(self, cpu: int, period_ns: int) -> None:
        flags = _MMAP | _COMM | _TASK | _WATERMARK | _SAMPLE_ID | _MMAP2 | _COMM_EXEC
        size = RING_PAGES * mmap.PAGESIZE
        attribute = perf.attribute(period_ns, sample_type=_TID | _TIME | _CALLCHAIN, flags=flags, wakeup=mmap.PAGESIZE)
        self.fd = perf.open_event(attribute, cpu)
        self._memory = mmap.mmap(self.fd, size + mmap.PAGESIZE)
        self._size = size

    def records(self) -> list[tuple[int, int, bytes]]:
        """Type, flags and content of each."""
        head, tail = struct.unpack_from("<QQ", self._memory, _HEAD_AT)
        found = []
        while tail < head:
            kind, flags, size = _HEADER.unpack(self._at(tail, 8))
            if size < 8:
                break
            found.append((kind, flags, self._at(tail + 8, size - 8)))
            tail += size
        struct.pack_into("<Q", self._memory, _HEAD_AT + 8, head)
        return found

    def _at(self, place: int, size: int) -> bytes:
        first = place % self._size
        ahead = min(size, self._size - first)
        begin = mmap.PAGESIZE
        return self._memory[begin + first : begin + first + ahead] + self._memory[begin : begin + size - ahead]

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


class NoMap:
    """In the place of a map in the kernel: nothing is there to read it."""

    def memory(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.zeros(1, dtype)

    def update(self, key: bytes, value: bytes) -> None:
        return

    def delete(self, key: bytes) -> None:
        return


class Callchains:
    """What `sampler.Sampler` is with BPF. Raises `OSError`: this kernel or these capabilities do not do."""

    mode: Literal["perf"] = "perf"
    tables = False
    """Unwind tables are of no use here."""

    available = types.DEFAULT

    def __init__(self, *, tgid: int = 0, cgroup: int = 0, missing: dict[str, str] | None = None) -> None:
        """`missing`: types that were wanted and need BPF, each with why there is none."""
        self.missing = missing or {}
        if cgroup:
            raise OSError("one cgroup alone cannot be measured without BPF: measure a process, or the machine")
        self.period_ns = 0
        self._cpus: list[int] = []
        self._tgid = tgid
        self._rings: list[Ring] = []
        self._epoll = select.epoll()
        self._handle: Callable[[bytes], None] = lambda event: None
        self._processes: dict[int, Process] = {}
        self._ended: set[int] = set()
        self._numbers = itertools.count(1)
        self._files: dict[tuple[int, int, str], int] = {}
        self._chains: Counter[tuple[int, int, str, tuple[int, ...], tuple[int, ...]]] = Counter()
        self._counts: Counter[str] = Counter()

    def map(self, name: str) -> NoMap:
        return NoMap()

    def memory_bytes(self) -> int:
        return len(self._rings) * (RING_PAGES + 1) * mmap.PAGESIZE

    @property
    def fd(self) -> int:
        """Readable when a ring fills."""
        return self._epoll.fileno()

    def listen(self, handle: Callable[[bytes], None]) -> None:
        """Who is told of files and processes, as by the BPF program's events."""
        self._handle = handle

    def start(self, hz: float, wanted: Sequence[str] | None = None) -> None:
        """As `Sampler.start`."""
        self.stop()
        self.period_ns = round(1e9 / hz)
        self._cpus = perf.online()
        for cpu in self._cpus:
            ring = Ring(cpu, self.period_ns)
            self._rings.append(ring)
            self._epoll.register(ring.fd, select.EPOLLIN)
        self._processes.clear()  # nobody has told what they did meanwhile

    @property
    def stale(self) -> bool:
        """As `Sampler.stale`."""
        return self._cpus != perf.online()

    def stop(self) -> None:
        """No more samples are taken; what was is kept."""
        self.consume()
        while self._rings:
            ring = self._rings.pop()
            self._epoll.unregister(ring.fd)
            ring.close()

    def consume(self) -> None:
        """Takes what is in the rings, in the order of time: a process runs now here, now there."""
        records = [record for ring in self._rings for record in ring.records()]
        records.sort(key=_time_of)
        for kind, flags, content in records:
            if kind == _SAMPLE:
                self._sample(content)
            else:
                self._about(kind, flags, content)

    def swap(self) -> str:
        return ""

    def take(self, name: str) -> NDArray[Any]:
        """The stacks since the last time."""
        self.consume()
        stacks = np.zeros(len(self._chains), layout.STACK)
        for stack, ((number, pid, comm, kernel, user), count) in zip(stacks, self._chains.items(), strict=True):
            stack["count"], stack["process"], stack["tgid"], stack["comm"] = count, number, pid, comm.encode()
            stack["kernels"], stack["users"] = len(kernel), len(user)
            stack["kernel"][: len(kernel)], stack["user"][: len(user)] = kernel, user
            stack["status"] = layout.STATUSES.index("no-table" if user else "kernel-only")
        self._chains.clear()
        for pid in self._ended:
            self._processes.pop(pid, None)
        self._ended.clear()
        return stacks

    def take_python(self, name: str) -> tuple[list[bytes], list[bytes]]:
        """Python's own frames are not walked here."""
        return [], []

    def counters(self) -> dict[str, int]:
        """Since the last call."""
        counts, self._counts = self._counts, Counter()
        return {name: counts[name] for name in layout.COUNTERS}

    def close(self) -> None:
        self.stop()
        self._epoll.close()

    def _about(self, kind: int, flags: int, content: bytes) -> None:
        if kind == _LOST:
            self._counts["no_room"] += struct.unpack_from("<Q", content, 8)[0]
            return
        if kind not in (_COMM_RECORD, _EXIT, _FORK, _MMAP2_RECORD):
            return
        pid, other = _IDS.unpack_from(content)
        if kind == _FORK:
            if pid != other and other in self._processes:
                self._processes[pid] = self._processes[other].forked(pid, next(self._numbers))
        elif kind == _EXIT:
            if struct.unpack_from("<I", content, 8)[0] == pid:
                self._ended.add(pid)
        elif pid in self._processes or kind == _MMAP2_RECORD:
            process = self._process(pid)
            if kind == _COMM_RECORD and flags & _EXEC:
                process = self._processes[pid] = Process(pid, next(self._numbers))
            if kind == _COMM_RECORD:
                process.comms[other] = _text(content[8:-_TRAILER_BYTES])
            else:
                _, _, start, length, page, major, minor, inode, _, protection, _ = _MMAP2_HEAD.unpack_from(content)
                path = _text(content[_MMAP2_HEAD.size : -_TRAILER_BYTES])
                if protection & _EXECUTABLE:
                    process.add(Mapping(start, start + length, page, os.makedev(major, minor), inode, path))

    def _process(self, pid: int) -> Process:
        process = self._processes.get(pid)
        if process is None:
            if len(self._processes) >= PROCESSES_MAX:
                self._processes.pop(next(iter(self._processes)))
            process = self._processes[pid] = Process.found(pid, next(self._numbers))
        return process

    def _sample(self, content: bytes) -> None:
        pid, tid, _, count = struct.unpack_from("<IIQQ", content)
        if not pid or not self._chosen(pid):
            return
        self._counts["samples"] += 1
        process = self._process(pid)
        if not process.told:
            process.told = True
            self._handle(process.event())
        kernel: list[int] = []
        user: list[int] = []
        here: list[int] | None = None
        for address in struct.unpack_from(f"<{count}Q", content, 24):
            if address >= _CONTEXT_MAX:
                here = {_CONTEXT_KERNEL: kernel, _CONTEXT_USER: user}.get(address)
            elif here is not None:
                here.append(address)
        places = user[:1] + [max(0, caller - 1) for caller in user[1 : layout.USER_FRAMES]]
        words = tuple(self._word(process, place) for place in places)
        key = (process.number, pid, process.comm(tid), tuple(kernel[: layout.KERNEL_FRAMES]), words)
        self._counts["no-table" if user else "kernel-only"] += 1
        if key not in self._chains and len(self._chains) >= CHAINS_MAX:
            self._counts["no_room"] += 1
        else:
            self._chains[key] += 1

    def _chosen(self, pid: int) -> bool:
        return not self._tgid or self._tgid in self._process(pid).ancestors()

    def _word(self, process: Process, address: int) -> int:
        mapping = process.at(address)
        if mapping is None or not mapping.inode:
            return address
        key = mapping.device, mapping.inode, mapping.path
        number = self._files.get(key)
        if number is None:
            number = self._files[key] = len(self._files) + 1 & layout.FILE_ID_MAX
            self._handle(mapping.event(process.pid, number))
        offset = address - mapping.start + mapping.page
        return layout.FRAME_FILE << layout.FRAME_KIND_SHIFT | number << layout.FRAME_FILE_SHIFT | offset


def _time_of(record: tuple[int, int, bytes]) -> int:
    kind, _, content = record
    time: int = struct.unpack_from("<Q", content, 8 if kind == _SAMPLE else len(content) - 8)[0]
    return time


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")
