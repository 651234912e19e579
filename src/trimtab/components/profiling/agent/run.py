"""The agent: everything together, in one event loop.

timer on every CPU -> BPF program -> stacks counted in the kernel --every 10 s--> batch -> ROOT/incoming
                          '--events: a new file, a new process--> read at once, while it is there
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.components.profiling import batch
from trimtab.components.profiling.agent import layout
from trimtab.components.profiling.agent.drain import Drain
from trimtab.components.profiling.agent.files import Files
from trimtab.components.profiling.agent.kernel import KernelNames
from trimtab.components.profiling.agent.perf_maps import PerfMaps
from trimtab.components.profiling.agent.processes import Processes, Provider
from trimtab.components.profiling.agent.python import Interpreters
from trimtab.components.profiling.agent.sampler import Sampler
from trimtab.components.profiling.symbols.sandbox import Sandbox

SETTLE_S = 0.02
"""Between taking a map away from the program and reading it: a walk takes microseconds."""


def no_container(identity: str) -> dict[str, str] | None:
    """Nobody knows of containers."""
    return None


class Agent:
    """Measures this machine into `root`.

    hz: samples a second of every CPU that is not idle. pid, cgroup: only this process and its descendants, only this cgroup.
    """

    def __init__(
        self,
        root: Path,
        *,
        hz: float = 19,
        node: str = "",
        provider: Provider = no_container,
        pid: int = 0,
        cgroup: int = 0,
    ) -> None:
        self.root, self.hz = root, hz
        self.processes = Processes(provider, node or platform.node())
        self.totals: Counter[str] = Counter()
        self._sampler = Sampler(tgid=pid, cgroup=cgroup)
        self._sandbox = Sandbox()
        self._interpreters = Interpreters(self._sampler.program.map("python_interpreters"))
        self.files = Files(self._sampler.program, root / "unwind", self._parse, self._interpreters)
        self._drain = Drain(self.files, self.processes, KernelNames(), self._interpreters, PerfMaps())
        self._ring = self._sampler.events(self._event)
        self._full = asyncio.Event()

    async def _parse(self, function: str, *arguments: Any, fds: Any = ()) -> Any:
        return await asyncio.to_thread(self._sandbox.run, function, *arguments, fds=fds)

    def _event(self, data: bytes) -> None:
        kind = int.from_bytes(data[:4], "little")
        if kind == layout.EVENT_FILE:
            self.files.wanted(np.frombuffer(data, layout.FILE_EVENT)[0])
        elif kind == layout.EVENT_PROCESS:
            self.processes.seen(np.frombuffer(data, layout.PROCESS_EVENT)[0], self.files.path_of)
        elif kind == layout.EVENT_FULL:
            self._full.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; what was counted by then is written. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        looking = asyncio.create_task(self.files.work())
        loop.add_reader(self._ring.fd, self._ring.consume)
        try:
            self._sampler.start(self.hz)
            while not stop.is_set():
                start = int(time.time()) // batch.TIME_S * batch.TIME_S
                await self._until(start + batch.TIME_S, stop)
                await self._take(start)
            self._sampler.program.detach()
            await self._take(start)
        finally:
            loop.remove_reader(self._ring.fd)
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    async def _until(self, end: float, stop: asyncio.Event) -> None:
        """To the end of a batch, or until there is no more room, or until the end."""
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._full)]
        try:
            await asyncio.wait(waits, timeout=max(0.0, end - time.time()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._full.clear()

    async def _take(self, start: int) -> None:
        name = self._sampler.swap()
        await asyncio.sleep(SETTLE_S)
        self._ring.consume()
        stacks = self._sampler.take(name)
        self._interpreters.take(*self._sampler.take_python(name))
        counters = self._sampler.counters()
        self.totals.update(counters)
        lost = {"lost": counters["no_room"]} if counters["no_room"] else {}
        if len(stacks) or lost:
            made = self._drain.batch(stacks, start, self._sampler.period_ns, lost)
            write_as_owner(self.root, made)

    def close(self) -> None:
        """Everything is out of the kernel again."""
        self._ring.close()
        self._sampler.close()
        self._sandbox.close()


def write_as_owner(root: Path, made: batch.Batch) -> Path:
    """Writes a batch as the user whom `root` belongs to, who is to delete it. Raises `OSError`."""
    owner = root.stat()
    user, group = os.geteuid(), os.getegid()
    os.setegid(owner.st_gid)
    try:
        os.seteuid(owner.st_uid)
        return batch.write(root, made)
    finally:
        os.seteuid(user)
        os.setegid(group)
