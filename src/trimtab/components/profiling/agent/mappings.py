"""Processes and their mappings as the kernel's records and /proc tell: for the way without BPF, which has no other."""

from __future__ import annotations

import bisect
import contextlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from trimtab.components.profiling.agent import layout

MAPPINGS_MAX = 4096
ANCESTORS_MAX = 16


@dataclass(frozen=True)
class Mapping:
    """A stretch of memory with code; `page` is the offset in the file, bytes."""

    start: int
    end: int
    page: int
    device: int
    inode: int
    path: str

    def event(self, pid: int, number: int) -> bytes:
        """As the BPF program tells of a file."""
        event = np.zeros(1, layout.FILE_EVENT)
        event["event"], event["tgid"], event["id"] = layout.EVENT_FILE, pid, number
        event["key"]["inode"], event["key"]["device"] = self.inode, self.device & 0xFFFFFFFF
        event["start"], event["end"], event["page"] = self.start, self.end, self.page
        with contextlib.suppress(OSError):
            event["key"]["changed_ns"] = os.stat(f"/proc/{pid}/map_files/{self.start:x}-{self.end:x}").st_mtime_ns
        return event.tobytes()


@dataclass
class Process:
    """One run of one program."""

    pid: int
    number: int
    mappings: list[Mapping] = field(default_factory=list)
    """By address."""
    comms: dict[int, str] = field(default_factory=dict)
    """Names of threads by id."""
    told: bool = False

    @classmethod
    def found(cls, pid: int, number: int) -> Self:
        """One that runs already."""
        process = cls(pid, number)
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/maps", errors="replace") as maps:
            for line in maps:
                addresses, permissions, page, device, inode, *path = line.split(None, 5)
                if "x" in permissions:
                    start, end = (int(part, 16) for part in addresses.split("-"))
                    major, minor = (int(part, 16) for part in device.split(":"))
                    name = path[0].rstrip("\n") if path else ""
                    process.add(Mapping(start, end, int(page, 16), os.makedev(major, minor), int(inode), name))
        return process

    def forked(self, pid: int, number: int) -> Process:
        """The child, until it calls exec: the kernel tells of each mapping after that."""
        comms = {pid: self.comms[self.pid]} if self.pid in self.comms else {}
        return Process(pid, number, list(self.mappings), comms)

    def add(self, mapping: Mapping) -> None:
        """What was mapped there before is there no longer."""
        kept = [one for one in self.mappings if one.end <= mapping.start or one.start >= mapping.end]
        bisect.insort(kept, mapping, key=lambda one: one.start)
        self.mappings = kept[:MAPPINGS_MAX]

    def at(self, address: int) -> Mapping | None:
        index = bisect.bisect(self.mappings, address, key=lambda one: one.start) - 1
        if index >= 0 and address < self.mappings[index].end:
            return self.mappings[index]
        return None

    def comm(self, thread: int) -> str:
        """The name of a thread, empty when it has ended before it was asked for."""
        if thread not in self.comms:
            self.comms[thread] = ""
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{self.pid}/task/{thread}/comm").read_bytes()
                self.comms[thread] = text.decode("utf-8", "replace").rstrip("\n")
        return self.comms[thread]

    @cached_property
    def _ancestors(self) -> frozenset[int]:
        found, pid = {self.pid}, self.pid
        with contextlib.suppress(OSError, ValueError, IndexError):
            for _ in range(ANCESTORS_MAX):
                text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
                pid = int(text[text.rindex(")") + 2 :].split()[1])
                found.add(pid)
        return frozenset(found)

    def ancestors(self) -> frozenset[int]:
        """Its own pid, its parent's and so on, as they were when it was first asked."""
        return self._ancestors

    def event(self) -> bytes:
        """As the BPF program tells of a process."""
        event = np.zeros(1, layout.PROCESS_EVENT)
        event["event"], event["tgid"], event["process"] = layout.EVENT_PROCESS, self.pid, self.number
        event["comm"] = self.comm(self.pid).encode()
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{self.pid}/cgroup").read_text(errors="replace").splitlines()
            paths = [line.split(":", 2)[2] for line in lines]
            names = max(paths, key=len, default="").strip("/").split("/")[::-1][: layout.CGROUP_LEVELS]
            event["cgroups"][0, : len(names)] = [name.encode() for name in names]
        return event.tobytes()
