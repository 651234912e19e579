"""The files that stacks go through. The BPF program gives each a number at its first sample and says so; here it is opened (by the process's
own mapping, whatever namespace it is in, deleted or not), its table is made or found on disk, and put into the kernel. Files of the same
content share their rows. What no stack has gone through for longest makes room.

    event --opened at once--> queue --sandbox: identity, table--> rows and rules in the kernel, the file's value last
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.agent import layout, libbpf, python, tables
from trimtab.components.profiling.agent.python import Interpreters
from trimtab.components.profiling.agent.ranges import Ranges

log = logging.getLogger(__name__)

QUEUE_MAX = 512
"""Files opened and not yet looked at: that many descriptors."""
IDS_KEPT = 16384
"""Numbers of files that can still be named."""


class Program(Protocol):
    """What holds maps: `libbpf.Object`."""

    def map(self, name: str) -> libbpf.Map: ...


Run = Callable[..., Awaitable[Any]]
"""`run("module:function", *arguments, fds=...)`, in a process without privileges."""


class Module:
    """One content: what frames in it need, and its rows in the kernel."""

    def __init__(self, identity: str, table: tables.Table, path: str) -> None:
        self.identity, self.build_id, self.path, self.go = identity, table.build_id, path, table.go
        self.segments = table.segments
        self.count = table.rows
        self.first: int | None = None
        self.interpreter = 0
        """Its number in the kernel and 1, when it holds CPython."""
        self.keys: list[bytes] = []
        """The files that have this content."""
        self.used = 0.0

    def address(self, offset: int) -> int:
        """The virtual address in the ELF file of an offset in it."""
        for segment in self.segments:
            if segment.executable and segment.offset <= offset < segment.offset + segment.size:
                return offset - segment.offset + segment.address
        return offset


class Files:
    """All files that are known, and the kernel's maps of them."""

    def __init__(self, program: Program, cache: Path, run: Run, interpreters: Interpreters) -> None:
        self._map, self._cache, self._run = program.map("files"), cache, run
        self._interpreters = interpreters
        self._rows = program.map("rows").memory(layout.MAP_ROW)
        self._rules = program.map("rules").memory(layout.RULE)
        self._ranges = Ranges(len(self._rows))
        self._rule_numbers: dict[bytes, int] = {}
        self._number(np.array([(layout.CFA_UNSUPPORTED, 0, 0, 0, 0, 0, 0)], layout.RULE))
        self._modules: dict[str, Module] = {}
        self._by_id: dict[int, Module] = {}
        self._queue: deque[tuple[bytes, int, int, str]] = deque()
        self._queued: set[bytes] = set()
        self._wake, self._may = asyncio.Event(), asyncio.Event()
        self._may.set()
        self.counts = dict.fromkeys(("opened", "gone", "built", "from_disk", "refused", "evicted", "no_room"), 0)
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)

    def module(self, number: int) -> Module | None:
        """By the number in a frame; None: it was never seen while it was there."""
        return self._by_id.get(number)

    def path_of(self, key: bytes) -> str:
        """The path of a file by its key, empty when it was never opened."""
        return next((module.path for module in self._modules.values() if key in module.keys), "")

    def touch(self, modules: Iterable[Module]) -> None:
        """Stacks went through these."""
        now = asyncio.get_running_loop().time()
        for module in modules:
            module.used = now

    @property
    def rows_used(self) -> int:
        return len(self._rows) - self._ranges.free

    @property
    def waiting(self) -> int:
        """Files that were opened and not yet looked at."""
        return len(self._queue)

    def may_parse(self, may: bool) -> None:
        """False: files wait from now on; True: they no longer do."""
        if may:
            self._may.set()
        else:
            self._may.clear()

    def evict_half(self) -> None:
        """Frees the half of the rows that no stack went through for longest."""
        target = self.rows_used // 2
        while self.rows_used > target and self._evict():
            pass

    def wanted(self, event: Any) -> None:
        """Opens a file that the program asks for, and lines it up."""
        key = event["key"].tobytes()
        if key in self._queued or len(self._queue) >= QUEUE_MAX:
            return
        if int(event["key"]["inode"]) == layout.VDSO_INODE:
            self._line_up(key, int(event["id"]), vdso(), "[vdso]")
            return
        place = f"/proc/{event['tgid']}/map_files/{int(event['start']):x}-{int(event['end']):x}"
        try:
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self.counts["gone"] += 1
            return
        try:
            path = os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")
            right = os.fstat(fd).st_mtime_ns == int(event["key"]["changed_ns"])
        except OSError:
            right = False
        if not right:
            os.close(fd)
            self.counts["gone"] += 1
            return
        self._line_up(key, int(event["id"]), fd, path)

    def _line_up(self, key: bytes, number: int, fd: int, path: str) -> None:
        self._queue.append((key, number, fd, path))
        self._queued.add(key)
        self._wake.set()

    async def work(self) -> None:
        """Takes files from the queue, until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    await self._may.wait()
                    key, number, fd, path = self._queue.popleft()
                    try:
                        await self._look_at(key, number, fd, path)
                    finally:
                        self._queued.discard(key)
                        os.close(fd)
        finally:
            while self._queue:
                os.close(self._queue.popleft()[2])

    async def _look_at(self, key: bytes, number: int, fd: int, path: str) -> None:
        self.counts["opened"] += 1
        try:
            module = await self._module_of([fd], path)
        except (ValueError, OSError) as err:
            log.debug("%s: no unwind table: %s", path, err)
            self.counts["refused"] += 1
            self._settle(key, number, layout.FILE_FRAME_POINTERS, None)
            return
        module.keys.append(key)
        self._by_id[number] = module
        if len(self._by_id) > IDS_KEPT:
            del self._by_id[next(iter(self._by_id))]
        self._settle(key, number, layout.FILE_FRAME_POINTERS if module.go else 0, module)

    async def _module_of(self, fds: Sequence[int], path: str) -> Module:
        identity = await self._run("agent.tables:identity", fds=fds)
        module = self._modules.get(identity)
        if module is None:
            table = await self._table(identity, fds)
            module = Module(identity, table, path)
            module.interpreter = await self._interpreter(module, fds)
            self._modules[identity] = module
            self._load(module, table)
        module.used = asyncio.get_running_loop().time()
        return module

    async def _interpreter(self, module: Module, fds: Sequence[int]) -> int:
        if not python.may_hold_one(module.path):
            return 0
        try:
            return self._interpreters.learn(module.build_id, await self._run(python.FUNCTION, fds=fds))
        except (ValueError, OSError) as err:
            log.info("%s: its functions have no names: %s", module.path, err)
            return 0

    async def _table(self, identity: str, fds: Sequence[int]) -> tables.Table:
        kept = self._cache / f"{identity}.table"
        try:
            table = tables.read(kept.read_bytes())
            self.counts["from_disk"] += 1
            return table
        except (OSError, ValueError):
            built: bytes = await self._run("agent.tables:build", fds=fds)
        self.counts["built"] += 1
        fresh = kept.with_suffix(".part")
        with contextlib.suppress(OSError):  # a full disk: it is made again next time
            fresh.write_bytes(built)
            fresh.rename(kept)
        return tables.read(built)

    def _load(self, module: Module, table: tables.Table) -> None:
        """Puts the module's rows into the kernel; the oldest of other modules make room."""
        if not module.count:
            return
        while (first := self._ranges.take(module.count)) is None:
            if not self._evict():
                self.counts["no_room"] += 1
                return
        numbers = self._number(np.frombuffer(table.rules, layout.RULE))
        rows = self._rows[first : first + module.count]
        rows["offset"] = np.frombuffer(table.offsets, "<u4")
        rows["rule"] = numbers[np.frombuffer(table.which, "<u2")]
        module.first = first

    def _evict(self) -> bool:
        """Frees the rows of the module that was used longest ago. A walk that is under way may read what comes in their place: one
        wrong stack at most, and of another file only when it also still has the old value."""
        loaded = [module for module in self._modules.values() if module.first is not None]
        if not loaded:
            return False
        oldest = min(loaded, key=lambda module: module.used)
        del self._modules[oldest.identity]
        for key in oldest.keys:
            self._map.delete(key)
        assert oldest.first is not None
        self._ranges.give(oldest.first, oldest.count)
        oldest.first = None
        self.counts["evicted"] += 1
        return True

    def _settle(self, key: bytes, number: int, flags: int, module: Module | None) -> None:
        value = np.zeros(1, layout.FILE_VALUE)
        value["id"] = number
        if module and module.first is not None:
            value["first"], value["count"] = module.first, module.count
            flags |= layout.FILE_TABLE
        if module:
            value["extra"][0, 0] = module.interpreter
        value["flags"] = flags | layout.FILE_SETTLED
        with contextlib.suppress(libbpf.BpfError):  # full: the next sample asks again, when older files have gone
            self._map.update(key, value.tobytes())

    def _number(self, rules: NDArray[Any]) -> NDArray[Any]:
        """The kernel's numbers of rules; 0, which cannot be followed, when there are more than it has room for."""
        numbers = np.zeros(len(rules), "<u4")
        for index, rule in enumerate(rules):
            content = rule.tobytes()
            number = self._rule_numbers.get(content)
            if number is None and len(self._rule_numbers) < len(self._rules):
                number = self._rule_numbers[content] = len(self._rule_numbers)
                self._rules[number] = rule
            numbers[index] = number or 0
        return numbers


def vdso() -> int:
    """A descriptor of a copy of the code that the kernel gives every process. Raises `OSError`."""
    with open("/proc/self/maps") as maps:
        line = next((line for line in maps if line.rstrip().endswith("[vdso]")), None)
    if line is None:
        raise OSError("no vDSO in /proc/self/maps")
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        content = os.pread(memory.fileno(), end - start, start)
    fd = os.memfd_create("vdso", os.MFD_CLOEXEC)
    os.write(fd, content)
    return fd
