"""What a step may take, and how that is held: by the kernel where it can be, by looking once a second where it cannot.

Processes, the size of one file and the number of open ones are resource limits, which every user may set. Memory in sum and room
on the disk are the kernel's business only in a cgroup, which an ordinary user seldom has: so they are looked at, and a step
that takes too much is ended. Between two looks a step can take more than its limit; it is the first that the kernel ends when the
memory of the machine is used up (`oom_score_adj`).
"""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trimtab.ci.runs.ports import Reason
from trimtab.ci.sandbox.space import used_bytes

LOOK_S = 1.0
_OURS = 2
"""Of the processes counted against a limit, how many the step itself cannot have."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Limits:
    """Of every step, unless it says otherwise. 0: none.

    disk_bytes: of what a step writes. disk_free_bytes: what must stay free, for whoever else uses the disk.
    """

    memory_bytes: int = 0
    processes: int = 4096
    open_files: int = 65536
    disk_bytes: int = 0
    disk_free_bytes: int = 64 << 20

    def resources(self) -> dict[int, int]:
        """As resource limits, for each process."""
        found = {resource.RLIMIT_CORE: 0}
        if self.processes:
            found[resource.RLIMIT_NPROC] = self.processes
        if self.open_files:
            found[resource.RLIMIT_NOFILE] = self.open_files
        if self.disk_bytes:
            found[resource.RLIMIT_FSIZE] = self.disk_bytes
        return found


class Watch:
    """Looks at one step. peak_bytes: the most memory seen."""

    def __init__(self, pid: int, directory: Path, limits: Limits) -> None:
        self._pid = pid
        self._directory = directory
        self._limits = limits
        self._disk_next = 0.0
        self._crowded = 0
        self.peak_bytes = 0

    def look(self) -> tuple[Reason, str] | None:
        """What a step has too much of, and the line that says so."""
        limits = self._limits
        processes, memory = _below(self._pid)
        self.peak_bytes = max(self.peak_bytes, memory)
        if limits.memory_bytes and memory > limits.memory_bytes:
            return "memory", f"it took {_mib(memory)} of memory, its limit is {_mib(limits.memory_bytes)}"
        allowed = limits.processes or sys.maxsize
        self._crowded = self._crowded + 1 if processes >= allowed - _OURS else 0
        if (
            self._crowded >= 3 or processes > allowed + _OURS
        ):  # above it comes only root, whom the kernel does not hold to it
            return "processes", f"it has {processes} processes, its limit is {limits.processes}"
        return self.look_at_disk()

    def look_at_disk(self) -> tuple[Reason, str] | None:
        """The same of the disk alone; also the reason of a command that failed by itself because nothing was left."""
        limits = self._limits
        found = os.statvfs(self._directory)
        free = found.f_bavail * found.f_frsize
        if free < limits.disk_free_bytes:
            return (
                "disk",
                f"the disk of {self._directory} is full: {_mib(free)} are free; make room, or see `trimtab ci cache`",
            )
        now = time.monotonic()
        if limits.disk_bytes and now >= self._disk_next:
            used = used_bytes(self._directory)
            self._disk_next = now + 10 * (time.monotonic() - now)  # a tenth of the time at most
            if used > limits.disk_bytes:
                return "disk", f"it wrote {_mib(used)}, its limit is {_mib(limits.disk_bytes)}"
        return None


def _below(pid: int) -> tuple[int, int]:
    """How many processes there are below this one, and their memory: what is shared counts once."""
    count = own = shared_most = 0
    pending = _children(pid)
    while pending:
        one = pending.pop()
        try:
            with open(f"/proc/{one}/statm") as file:
                _, resident, shared = (int(number) for number in file.read().split()[:3])
        except (FileNotFoundError, ProcessLookupError):
            continue
        count += 1
        own += resident - shared
        shared_most = max(shared_most, shared)
        pending.extend(_children(one))
    return count, (own + shared_most) * _PAGE_BYTES


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.extend(int(one) for one in file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
