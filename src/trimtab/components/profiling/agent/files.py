"""The files that stacks go through. The BPF program gives each a number at its first sample and says so; here it is opened (by the process's
own mapping, whatever namespace it is in, deleted or not), its table is made or found on disk, and put into the kernel. Files of the same
content share their rows. What no stack has gone through for longest makes room.

    event --opened at once--> known from before, by stamp or content --table on disk--> rows and rules in the kernel, the file's value last
                                       '--no--> queue --identity--> frames have names --table--> the same

What was used last when the agent ended is in the kernel again before the first sample.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.agent import layout, libbpf, python, tables
from trimtab.components.profiling.agent.known import Known
from trimtab.components.profiling.agent.packing import pack
from trimtab.components.profiling.agent.processes import text_of
from trimtab.components.profiling.agent.python import Interpreters
from trimtab.components.profiling.agent.ranges import Ranges

log = logging.getLogger(__name__)

QUEUE_MAX = 512
"""Files opened and not yet looked at: that many descriptors."""
LARGE_BYTES = 16 << 20
"""A larger file's table does not keep others waiting: compilers, LLVM, Node."""
IDS_KEPT = 16384
"""Numbers of files that can still be named."""
MODULES_MAX = 4096
IN_USE_S = 30.0
"""What stacks went through so lately stays in the kernel: two big programs that run at once do not take turns."""
NO_ROOM_S = 120.0
"""After which a program that there was no room for asks again."""
RULE_GAP = 1
VDSO = "[vdso]"
COUNTS = ("opened", "known", "gone", "built", "from_disk", "refused", "evicted", "no_room")
"""Of files: looked into, known without, gone before that; tables made, found on disk, without sense, given up, without room."""
PRELOAD_S = 0.5
"""CPU time at the start for tables that were used last time."""
BYTES_PER_WORD = 6
"""Of a table on disk, for each word that it takes in the kernel."""
KEYS_MAX = 256
"""Files of one content, of which so many are told apart at once."""


class Map(Protocol):
    """A map in the kernel: `libbpf.Map`."""

    def memory(self, dtype: np.dtype[Any]) -> NDArray[Any]: ...
    def update(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...


class Maps(Protocol):
    """What has maps: `sampler.Sampler`."""

    tables: bool
    """Whether unwind tables are of use."""

    def map(self, name: str) -> Map: ...


Run = Callable[..., Awaitable[Any]]
"""`run("module:function", *arguments, fds=...)`, in a process without privileges."""


Keep = Callable[[int, str, str], None]
"""Is told of every new content: a descriptor, the build id, the path."""


class Module:
    """One content: what frames in it need, and its rows in the kernel."""

    def __init__(self, facts: dict[str, Any], path: str) -> None:
        self.identity: str = facts["identity"]
        self.build_id: str = facts["build_id"]
        self.go: bool = facts["go"]
        self.size: int = facts["size"]
        self.path = path
        self._code = [tuple(segment[:3]) for segment in facts["segments"] if segment[3]]
        self.words = self.blocks = 0
        self.first: int | None = None
        """Where its rows are in the kernel, how many words they take, and for how many blocks of the file."""
        self.settled = False
        """Whether its table was looked for."""
        self.interpreter = 0
        """Its number in the kernel and 1, when it holds CPython."""
        self.keys: dict[bytes, int] = {}
        """The files that have this content, and their numbers."""
        self.used = 0.0
        self.facts = facts

    def address(self, offset: int) -> int:
        """The virtual address in the ELF file of an offset in it."""
        for first, address, size in self._code:
            if first <= offset < first + size:
                return int(offset - first + address)
        return offset


Waiting = tuple[Module, int, bytes]
"""For its table: a module, its file's descriptor and key."""


class Files:
    """All files that are known, and the kernel's maps of them."""

    def __init__(
        self, maps: Maps, cache: Path, run: Run, run_large: Run, interpreters: Interpreters, keep: Keep
    ) -> None:
        """`run_large`: as `run`, in another process, for what takes seconds."""
        self._run_large = run_large
        self._map, self._cache, self._run = maps.map("files"), cache, run
        self._interpreters, self._keep, self._tables = interpreters, keep, maps.tables
        self._rows = maps.map("rows").memory(np.dtype("<u8")).view("<u4")
        self._rules = maps.map("rules").memory(layout.RULE)
        self._ranges = Ranges(len(self._rows))
        self._rule_numbers: dict[bytes, int] = {}
        self._number(
            np.array([(kind, 0, 0, 0, 0, 0, 0) for kind in (layout.CFA_UNSUPPORTED, layout.CFA_GAP)], layout.RULE)
        )
        self._modules: dict[str, Module] = {}
        self._by_id: OrderedDict[int, Module] = OrderedDict()
        self._queue: deque[tuple[bytes, int, int, str]] = deque()
        self._queued: set[bytes] = set()
        self._small: list[Waiting] = []
        self._large: list[Waiting] = []
        self._wake_large = asyncio.Event()
        self._may, self._wake, self._identified = True, asyncio.Event(), asyncio.Event()
        self._identified.set()
        self.counts = dict.fromkeys(COUNTS, 0)
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known = Known(cache / "known")

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
        return len(self._small) + len(self._large)

    def may_parse(self, may: bool) -> None:
        """False: no more tables are made from now on; True: they are again."""
        self._may = may
        self._wake.set()
        self._wake_large.set()

    async def identified(self, timeout_s: float) -> None:
        """Returns when every file that was asked for has a name, or after so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._identified.wait(), timeout_s)

    def evict_half(self) -> None:
        """Frees the half of the rows that no stack went through for longest."""
        target = self.rows_used // 2
        while self.rows_used > target and self._evict(math.inf):
            pass

    def close(self) -> None:
        """Lets go of the kernel's memory."""
        self._rows, self._rules = np.empty(0, np.uint32), np.empty(0, layout.RULE)

    def wanted(self, event: Any) -> None:
        """Opens a file that the program asks for, and lines it up."""
        key = event["key"].tobytes()
        if key in self._queued or len(self._queue) + self.waiting >= QUEUE_MAX:
            return
        if int(event["key"]["inode"]) == layout.VDSO_INODE:
            self._opened(key, int(event["id"]), vdso(), VDSO)
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
        self._opened(key, int(event["id"]), fd, path)

    def _opened(self, key: bytes, number: int, fd: int, path: str) -> None:
        entry = self._known.find(fd, own=path == VDSO)
        if entry is None:
            self._line_up(key, number, fd, path)
            return
        self.counts["known"] += 1
        self._take(entry.facts, key, number, fd, path)

    def preload(self) -> int:
        """Puts into the kernel, before the first sample, what stacks went through last time, up to half of the room and `PRELOAD_S`.
        Returns the last number that a file has got."""
        began, number = time.thread_time(), 0
        for entry in self._known.newest() if self._tables else ():
            if time.thread_time() - began > PRELOAD_S:
                break
            if entry.facts["identity"] in self._modules or not self._may_preload(entry.facts["identity"]):
                continue
            module = Module(entry.facts, entry.path)
            if self._load_kept(module):
                self._modules[module.identity] = module
                module.used = time.monotonic()  # the event loop's clock
                number += 1
                self._by_id[number] = module
                self._take_key(module, entry.key, number)
        return number

    def _may_preload(self, identity: str) -> bool:
        """Large programs are left out: their tables would take the room of a hundred others."""
        try:
            words = self._kept(identity).stat().st_size // BYTES_PER_WORD
        except OSError:
            return False
        return words < len(self._rows) // 8 and self.rows_used + words < len(self._rows) // 2

    def _line_up(self, key: bytes, number: int, fd: int, path: str) -> None:
        self._queue.append((key, number, fd, path))
        self._queued.add(key)
        self._identified.clear()
        self._wake.set()

    async def work(self) -> None:
        """Looks at files, until cancelled. In one lane what they are, which is quick and names their frames, and in turn the tables of
        small ones; in another, the tables of large ones, which take seconds each."""
        large = asyncio.create_task(self._work_large())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue or (self._small and self._may):
                    if self._queue:
                        await self._identify(*self._queue.popleft())
                    if not self._queue:
                        self._identified.set()
                    if self._small and self._may:
                        await self._table_of(self._run, *self._next(self._small))
                self._identified.set()
        finally:
            large.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await large
            for fd in [entry[2] for entry in self._queue] + [fd for _, fd, _ in (*self._small, *self._large)]:
                os.close(fd)

    async def _work_large(self) -> None:
        while True:
            await self._wake_large.wait()
            self._wake_large.clear()
            while self._large and self._may:
                await self._table_of(self._run_large, *self._next(self._large))

    def _line_up_table(self, module: Module, fd: int, key: bytes) -> None:
        large = module.size > LARGE_BYTES and not self._kept(module.identity).exists()
        (self._large if large else self._small).append((module, fd, key))
        (self._wake_large if large else self._wake).set()

    def _next(self, waiting: list[Waiting]) -> Waiting:
        """What is on disk, then the smallest."""

        def effort(entry: Waiting) -> int:
            return 0 if self._kept(entry[0].identity).exists() else entry[0].size

        chosen = min(waiting, key=effort)
        waiting.remove(chosen)
        return chosen

    def _kept(self, identity: str) -> Path:
        return self._cache / f"{identity}.table"

    async def _identify(self, key: bytes, number: int, fd: int, path: str) -> None:
        self.counts["opened"] += 1
        try:
            facts = await self._run("agent.tables:identity", fds=[fd])
        except (ValueError, OSError) as err:
            log.debug("%s: not looked into: %s", path, err)
            self.counts["refused"] += 1
            self._settle(key, number, None)
            os.close(fd)
        except BaseException:
            os.close(fd)
            raise
        else:
            if self._tables:
                self._known.keep(fd, key, path, facts, own=path == VDSO)
            self._take(facts, key, number, fd, path)
        finally:
            self._queued.discard(key)

    def _take(self, facts: dict[str, Any], key: bytes, number: int, fd: int, path: str) -> None:
        """A file of which is known what it is: its frames have names from now on, and its table is loaded when it is on disk, else lined
        up. The descriptor is taken over."""
        waits = False
        try:
            module = self._modules.get(facts["identity"])
            if module is None:
                module = Module(facts, path)
                self._add(module)
                self._keep(fd, module.build_id, path)
                if self._tables and not self._load_kept(module):
                    self._line_up_table(module, fd, key)
                    waits = True
            self._by_id[number] = module
            if len(self._by_id) > IDS_KEPT:
                self._by_id.popitem(last=False)
            self._take_key(module, key, number)
        finally:
            if not waits:
                os.close(fd)

    def _load_kept(self, module: Module) -> bool:
        """Whether all that is needed was on disk, and is in the kernel now."""
        if python.may_hold_one(module.path) and "interpreter" not in module.facts:
            return False
        try:
            table = tables.read(self._kept(module.identity).read_bytes())
            module.interpreter = self._interpreters.learn(module.build_id, module.facts.get("interpreter"))
        except (OSError, ValueError):
            return False
        self.counts["from_disk"] += 1
        self._load(module, table)
        module.settled = True
        return True

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

    async def _table_of(self, run: Run, module: Module, fd: int, key: bytes) -> None:
        try:
            table = await self._table(run, module.identity, fd)
            module.interpreter = await self._interpreter(run, module, fd, key)
            self._load(module, table)
        except (ValueError, OSError) as err:
            log.debug("%s: no unwind table: %s", module.path, err)
            self.counts["refused"] += 1
        finally:
            os.close(fd)
        module.settled = True
        for key, number in module.keys.items():
            self._settle(key, number, module)

    async def _interpreter(self, run: Run, module: Module, fd: int, key: bytes) -> int:
        if not python.may_hold_one(module.path):
            return 0
        try:
            found = await run(python.FUNCTION, fds=[fd])
            number = self._interpreters.learn(module.build_id, found)
        except (ValueError, OSError) as err:
            log.info("%s: its functions have no names: %s", module.path, err)
            return 0
        module.facts = {**module.facts, "interpreter": found}
        self._known.keep(fd, key, module.path, module.facts)
        return number

    async def _table(self, run: Run, identity: str, fd: int) -> tables.Table:
        kept = self._kept(identity)
        try:
            table = tables.read(kept.read_bytes())
            self.counts["from_disk"] += 1
            return table
        except (OSError, ValueError):
            built: bytes = await run("agent.tables:build", fds=[fd])
        self.counts["built"] += 1
        fresh = kept.with_suffix(".part")
        with contextlib.suppress(OSError):  # a full disk: it is made again next time
            fresh.write_bytes(built)
            fresh.rename(kept)
        return tables.read(built)

    def _load(self, module: Module, table: tables.Table) -> None:
        """Puts the module's rows into the kernel; the oldest of other modules make room."""
        numbers = self._number(np.frombuffer(table.rules, layout.RULE))[np.frombuffer(table.which, "<u2")]
        words, module.blocks = pack(np.frombuffer(table.offsets, "<u4"), numbers, RULE_GAP)
        module.words = len(words)
        if not module.words:
            return
        while (first := self._ranges.take(module.words)) is None:
            if not self._evict(asyncio.get_running_loop().time() - IN_USE_S):
                self.counts["no_room"] += 1
                asyncio.get_running_loop().call_later(NO_ROOM_S, self._forget, module)
                return
        self._rows[first : first + module.words] = words
        module.first = first

    def _evict(self, before: float) -> bool:
        """Frees the rows of the module that was used longest ago; False: none has any that was not used since then."""
        loaded = [module for module in self._modules.values() if module.first is not None and module.used < before]
        if not loaded:
            return False
        self._forget(min(loaded, key=lambda module: module.used))
        self.counts["evicted"] += 1
        return True

    def _forget(self, module: Module) -> None:
        """Takes a module out of the kernel: the next sample in it asks again. A walk that is under way may read what comes in the place
        of its rows: one wrong stack at most."""
        if self._modules.get(module.identity) is not module:
            return
        del self._modules[module.identity]
        for key in module.keys:
            self._map.delete(key)
        if module.first is not None:
            self._ranges.give(module.first, module.words)
            module.first = None

    def _settle(self, key: bytes, number: int, module: Module | None) -> None:
        """Tells the program what there is of a file: after this it no longer asks."""
        value = np.zeros(1, layout.FILE_VALUE)
        flags = layout.FILE_SETTLED
        if module is None or module.go:
            flags |= layout.FILE_FRAME_POINTERS
        if module and module.first is not None:
            value["first"], value["count"] = module.first, module.blocks
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
