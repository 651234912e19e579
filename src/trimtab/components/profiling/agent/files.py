"""The files that stacks go through. The BPF program gives each a number at its first sample and says so; here it is opened (by the process's
own mapping, whatever namespace it is in, deleted or not), its table is made or found on disk, and put into the kernel. Files of the same
content share their rows. What no stack has gone through for longest makes room.

    event --opened at once--> queue --identity--> frames have names --table--> rows and rules in the kernel, the file's value last
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.agent import layout, libbpf, python, tables
from trimtab.components.profiling.agent.processes import text_of
from trimtab.components.profiling.agent.python import Interpreters
from trimtab.components.profiling.agent.ranges import Ranges

log = logging.getLogger(__name__)

QUEUE_MAX = 512
"""Files opened and not yet looked at: that many descriptors."""
IDS_KEPT = 16384
"""Numbers of files that can still be named."""
MODULES_MAX = 4096
KEYS_MAX = 256
"""Files of one content, of which so many are told apart at once."""


class Program(Protocol):
    """What holds maps: `libbpf.Object`."""

    def map(self, name: str) -> libbpf.Map: ...


Run = Callable[..., Awaitable[Any]]
"""`run("module:function", *arguments, fds=...)`, in a process without privileges."""


class Module:
    """One content: what frames in it need, and its rows in the kernel."""

    def __init__(self, facts: dict[str, Any], path: str) -> None:
        self.identity: str = facts["identity"]
        self.build_id: str = facts["build_id"]
        self.go: bool = facts["go"]
        self.size: int = facts["size"]
        self.path = path
        self._code = [tuple(segment[:3]) for segment in facts["segments"] if segment[3]]
        self.count = 0
        self.first: int | None = None
        """Its rows in the kernel."""
        self.settled = False
        """Whether its table was looked for."""
        self.interpreter = 0
        """Its number in the kernel and 1, when it holds CPython."""
        self.keys: dict[bytes, int] = {}
        """The files that have this content, and their numbers."""
        self.used = 0.0

    def address(self, offset: int) -> int:
        """The virtual address in the ELF file of an offset in it."""
        for first, address, size in self._code:
            if first <= offset < first + size:
                return int(offset - first + address)
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
        self._by_id: OrderedDict[int, Module] = OrderedDict()
        self._queue: deque[tuple[bytes, int, int, str]] = deque()
        self._queued: set[bytes] = set()
        self._unsettled: list[tuple[Module, int]] = []
        self._may, self._wake, self._identified = True, asyncio.Event(), asyncio.Event()
        self._identified.set()
        self.counts = dict.fromkeys(("opened", "gone", "built", "from_disk", "refused", "evicted", "no_room"), 0)
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)

    def module(self, number: int) -> Module | None:
        """By the number in a frame; None: it was never seen while it was there."""
        module = self._by_id.get(number)
        if module:
            self._by_id.move_to_end(number)
        return module

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
        """Files whose tables are still to be made."""
        return len(self._unsettled)

    def may_parse(self, may: bool) -> None:
        """False: no more tables are made from now on; True: they are again."""
        self._may = may
        self._wake.set()

    async def identified(self, timeout_s: float) -> None:
        """Returns when every file that was asked for has a name, or after so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._identified.wait(), timeout_s)

    def evict_half(self) -> None:
        """Frees the half of the rows that no stack went through for longest."""
        target = self.rows_used // 2
        while self.rows_used > target and self._evict():
            pass

    def close(self) -> None:
        """Lets go of the kernel's memory."""
        self._rows, self._rules = np.empty(0, layout.MAP_ROW), np.empty(0, layout.RULE)

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
            path = text_of(os.readlink(f"/proc/self/fd/{fd}"))
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
        self._identified.clear()
        self._wake.set()

    async def work(self) -> None:
        """Takes files from the queue, until cancelled: what they are first, as it is quick and names their frames; tables then."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue or (self._unsettled and self._may):
                    if self._queue:
                        await self._identify(*self._queue.popleft())
                        continue
                    self._identified.set()
                    await self._table_of(*self._next())
                self._identified.set()
        finally:
            for _, _, fd, _ in self._queue:
                os.close(fd)
            for _, fd in self._unsettled:
                os.close(fd)

    def _next(self) -> tuple[Module, int]:
        """What is on disk, then the smallest: a program of thirty functions does not wait for a compiler of hundred thousand."""

        def effort(waiting: tuple[Module, int]) -> int:
            return 0 if self._kept(waiting[0].identity).exists() else waiting[0].size

        chosen = min(self._unsettled, key=effort)
        self._unsettled.remove(chosen)
        return chosen

    def _kept(self, identity: str) -> Path:
        return self._cache / f"{identity}.table"

    async def _identify(self, key: bytes, number: int, fd: int, path: str) -> None:
        self.counts["opened"] += 1
        kept = False
        try:
            facts = await self._run("agent.tables:identity", fds=[fd])
            module = self._modules.get(facts["identity"])
            if module is None:
                module = Module(facts, path)
                self._add(module)
                self._unsettled.append((module, fd))
                kept = True
            self._by_id[number] = module
            if len(self._by_id) > IDS_KEPT:
                self._by_id.popitem(last=False)
            self._take_key(module, key, number)
        except (ValueError, OSError) as err:
            log.debug("%s: not looked into: %s", path, err)
            self.counts["refused"] += 1
            self._settle(key, number, None)
        finally:
            self._queued.discard(key)
            if not kept:
                os.close(fd)

    def _add(self, module: Module) -> None:
        self._modules[module.identity] = module
        self.touch([module])
        if len(self._modules) > MODULES_MAX:
            self._forget(min(self._modules.values(), key=lambda module: module.used))

    def _take_key(self, module: Module, key: bytes, number: int) -> None:
        module.keys[key] = number
        if len(module.keys) > KEYS_MAX:
            oldest = next(iter(module.keys))
            del module.keys[oldest]
            self._map.delete(oldest)
        if module.settled:
            self._settle(key, number, module)

    async def _table_of(self, module: Module, fd: int) -> None:
        try:
            table = await self._table(module.identity, fd)
            module.count = table.rows
            module.interpreter = await self._interpreter(module, [fd])
            self._load(module, table)
        except (ValueError, OSError) as err:
            log.debug("%s: no unwind table: %s", module.path, err)
            self.counts["refused"] += 1
        finally:
            os.close(fd)
        module.settled = True
        for key, number in module.keys.items():
            self._settle(key, number, module)

    async def _interpreter(self, module: Module, fds: Sequence[int]) -> int:
        if not python.may_hold_one(module.path):
            return 0
        try:
            return self._interpreters.learn(module.build_id, await self._run(python.FUNCTION, fds=fds))
        except (ValueError, OSError) as err:
            log.info("%s: its functions have no names: %s", module.path, err)
            return 0

    async def _table(self, identity: str, fd: int) -> tables.Table:
        kept = self._kept(identity)
        try:
            table = tables.read(kept.read_bytes())
            self.counts["from_disk"] += 1
            return table
        except (OSError, ValueError):
            built: bytes = await self._run("agent.tables:build", fds=[fd])
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
        """Frees the rows of the module that was used longest ago; False: none has any."""
        loaded = [module for module in self._modules.values() if module.first is not None]
        if not loaded:
            return False
        self._forget(min(loaded, key=lambda module: module.used))
        self.counts["evicted"] += 1
        return True

    def _forget(self, module: Module) -> None:
        """Takes a module out of the kernel: the next sample in it asks again. A walk that is under way may read what comes in the place
        of its rows: one wrong stack at most."""
        del self._modules[module.identity]
        for key in module.keys:
            self._map.delete(key)
        if module.first is not None:
            self._ranges.give(module.first, module.count)
            module.first = None

    def _settle(self, key: bytes, number: int, module: Module | None) -> None:
        """Tells the program what there is of a file: after this it no longer asks."""
        value = np.zeros(1, layout.FILE_VALUE)
        flags = layout.FILE_SETTLED
        if module is None or module.go:
            flags |= layout.FILE_FRAME_POINTERS
        if module and module.first is not None:
            value["first"], value["count"] = module.first, module.count
            flags |= layout.FILE_TABLE
        value["id"], value["flags"], value["extra"][0, 0] = number, flags, module.interpreter if module else 0
        with contextlib.suppress(
            libbpf.BpfError
        ):  # it left the kernel's list of files meanwhile: the next sample asks again
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
