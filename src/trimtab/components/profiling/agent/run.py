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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trimtab.components.profiling import batch
from trimtab.components.profiling.agent import budget as costs
from trimtab.components.profiling.agent import layout, types
from trimtab.components.profiling.agent.callchains import Callchains
from trimtab.components.profiling.agent.drain import Drain
from trimtab.components.profiling.agent.files import Files
from trimtab.components.profiling.agent.keeping import Keeping
from trimtab.components.profiling.agent.kernel import KernelNames
from trimtab.components.profiling.agent.perf_maps import PerfMaps
from trimtab.components.profiling.agent.processes import Processes, Provider
from trimtab.components.profiling.agent.python import Interpreters
from trimtab.components.profiling.agent.sampler import Sampler
from trimtab.components.profiling.agent.talk import EVERY_S, State, same
from trimtab.components.profiling.symbols.sandbox import Sandbox

SETTLE_S = 0.02
"""Between taking a map away from the program and reading it: a walk takes microseconds."""
NAMED_S = 2.0
"""How long a batch waits for what the files of its last samples are."""
FIRST_S = 0.1
"""A batch shorter than this is part of the one before."""
SANDBOX_BYTES = 1 << 30
IDLE_S = 60.0
"""The sandbox of small files takes 0.1 s of CPU time to start, and little memory: where programs are built, the next one comes soon. Those
of large files and of names grow by what they read, and end sooner."""
CPU_PERCENT, MEMORY_BYTES = 1.0, 150 << 20
"""The budget when nothing else is said."""
STATUS = "status.json"


class NotSupported(OSError):
    """This kernel lets us measure neither with BPF nor without; one line."""


class BudgetExceeded(Exception):
    """Everything that may be left out is, and it is still too much; one line."""


def sampler_of(
    pid: int, cgroup: int, only_perf: bool, measured: Sequence[str] = types.DEFAULT
) -> tuple[Sampler | Callchains, str]:
    """The way that this kernel lets us measure, and why it is not the better one. Raises `NotSupported`."""
    refused = "BPF is not wanted"
    if not only_perf:
        try:
            return Sampler(tgid=pid, cgroup=cgroup, measured=measured), ""
        except OSError as err:
            refused = str(err)
    lacking = {name: f"{name}: only with BPF ({refused})" for name in measured if name not in types.DEFAULT}
    callchains = Callchains(tgid=pid, cgroup=cgroup, missing=lacking)
    try:
        callchains.start(1)
    except OSError as err:
        callchains.close()
        raise NotSupported(f"{refused}; {err}") from err
    return callchains, f"frame pointers only: {refused}"


def no_container(identity: str) -> dict[str, str] | None:
    """Nobody knows of containers."""
    return None


class Agent:
    """Measures this machine into `root`. Raises `OSError` (`libbpf.BpfError` among them) where the kernel does not let it.

    hz: samples a second of every CPU that is not idle. pid, cgroup: only this process and its descendants, only this cgroup (its inode).
    only_perf: without BPF.
    cpu_percent: of one core. memory_bytes: of this process and its maps in the kernel. told: gets the agent's state.
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
        measured: Sequence[str] = types.DEFAULT,
        cpu_percent: float = CPU_PERCENT,
        memory_bytes: int = MEMORY_BYTES,
        told: Callable[[State], None] = lambda state: None,
        only_perf: bool = False,
    ) -> None:
        self.root, self.hz = root, hz
        self.budget = costs.Budget(cpu_percent, memory_bytes)
        self.processes = Processes(provider, node or platform.node())
        self.totals: Counter[str] = Counter()
        self._unwritten = ""
        self._hz_wanted = hz
        self._told, self._last_told, self._last_time = told, State(mode="bpf", hz=0), -EVERY_S
        self._sandbox = Sandbox(memory_bytes=SANDBOX_BYTES, idle_s=IDLE_S)
        self._sandbox_large = Sandbox(memory_bytes=SANDBOX_BYTES)
        self._names_sandbox = Sandbox()
        self._keeping = Keeping(root, self._names_sandbox)
        self._sampler, self.message = sampler_of(pid, cgroup, only_perf, measured)
        self._types = len(self._sampler.available)
        self._interpreters = Interpreters(self._sampler.map("python_interpreters"))
        self.files = Files(
            self._sampler, root / "unwind", self._parse, self._parse_large, self._interpreters, self._keeping.add
        )
        if isinstance(self._sampler, Sampler):
            self._sampler.number_from(self.files.preload())
        self._drain = Drain(self.files, self.processes, KernelNames(), self._interpreters, PerfMaps())
        self._sampler.listen(self._event)
        self._cut = asyncio.Event()
        self._period_began = time.monotonic()

    async def _parse(self, function: str, *arguments: Any, fds: Any = ()) -> Any:
        return await asyncio.to_thread(self._sandbox.run, function, *arguments, fds=fds)

    async def _parse_large(self, function: str, *arguments: Any, fds: Any = ()) -> Any:
        return await asyncio.to_thread(self._sandbox_large.run, function, *arguments, fds=fds)

    def _event(self, data: bytes) -> None:
        kind = int.from_bytes(data[:4], "little")
        if kind == layout.EVENT_FILE:
            self.files.wanted(np.frombuffer(data, layout.FILE_EVENT)[0])
        elif kind == layout.EVENT_PROCESS:
            self.processes.seen(np.frombuffer(data, layout.PROCESS_EVENT)[0], self.files.path_of)
        elif kind == layout.EVENT_FULL:
            self.cut()

    def cut(self) -> None:
        """Ends the batch that is under way now."""
        self._cut.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; what was counted by then is written. Raises `OSError`, `BudgetExceeded`."""
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(self.files.work()), asyncio.create_task(self._keeping.work())]
        loop.add_reader(self._sampler.fd, self._sampler.consume)
        try:
            self._measure()
            self._tell()
            while not stop.is_set():
                start = int(time.time()) // batch.TIME_S * batch.TIME_S
                await self._until(start + batch.TIME_S, stop)
                if not stop.is_set():
                    await self._take(start)
                    self._account()
            self._sampler.stop()
            await self._take(int(time.time()) // batch.TIME_S * batch.TIME_S)
        finally:
            loop.remove_reader(self._sampler.fd)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tell(last=True)

    async def _until(self, end: float, stop: asyncio.Event) -> None:
        """To the end of a batch, or until there is no more room, or until the end."""
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._cut)]
        try:
            await asyncio.wait(waits, timeout=max(FIRST_S, end - time.time()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._cut.clear()

    async def _take(self, start: int) -> None:
        name = self._sampler.swap()
        await asyncio.sleep(SETTLE_S)
        self._sampler.consume()
        await self.files.identified(NAMED_S)
        stacks = self._sampler.take(name)
        self._interpreters.take(*self._sampler.take_python(name))
        counters = self._sampler.counters()
        self.totals.update(counters)
        lost = {"lost": counters["no_room"]} if counters["no_room"] else {}
        if len(stacks) or lost:
            made = self._drain.batch(stacks, start, self._sampler.period_ns, lost)
            self._write(made)

    def _write(self, made: batch.Batch) -> None:
        """A disk that is full costs these samples, and is said."""
        try:
            write_as_owner(self.root, made)
            self._unwritten = ""
        except OSError as err:
            self.totals["unwritten"] += sum(sample.count for sample in made.samples)
            self._unwritten = f"batches cannot be written: {err}"

    def _account(self) -> None:
        """Compares what it costs with what it may, and gives up what is to be given up. Raises `BudgetExceeded`."""
        now = time.monotonic()
        seconds, self._period_began = now - self._period_began, now
        offered = len(self._sampler.available)
        advice = self.budget.period(self._spent(), seconds, self.hz, self._hz_wanted, self._types, offered)
        if advice == "end":
            raise BudgetExceeded(
                f"the agent takes {self.budget.used_percent:.1f} % of a core and {self._memory() >> 20} MiB at {self.hz:g} Hz, "
                f"more than {self.budget.cpu_percent:g} % and {self.budget.memory_bytes >> 20} MiB (spec.budget)"
            )
        if advice == "evict":
            self.files.evict_half()
        elif advice in ("fewer", "more"):
            self._types += 1 if advice == "more" else -1
        elif advice:
            self.hz = max(costs.HZ_MIN, self.hz / 2) if advice == "slower" else min(self._hz_wanted, self.hz * 2)
        if advice not in ("", "evict") or self._sampler.stale:
            self._measure()
        self.files.may_parse(self.budget.may_parse)
        self._keeping.may_parse(self.budget.may_parse)
        self._tell()

    def _measure(self) -> None:
        """As often, and of as many types, as is to be measured now."""
        self._sampler.start(self.hz, self._sampler.available[: self._types])

    def _memory(self) -> int:
        return costs.own_memory_bytes() + self._sampler.memory_bytes()

    def _spent(self) -> costs.Spent:
        parsing = costs.ended_children_cpu_s()
        parsing += sum(
            costs.running_cpu_s(one.pid) for one in (self._sandbox, self._sandbox_large, self._names_sandbox) if one.pid
        )
        return costs.Spent(costs.own_cpu_s() + self.totals["run_ns"] / 1e9, parsing, self._memory())

    def _shed(self) -> str:
        shed = []
        if not self.budget.may_parse and self.files.waiting:
            shed.append(f"{self.files.waiting} new files wait for their unwind tables")
        if left_out := self._sampler.available[self._types :]:
            shed.append(f"no samples of {', '.join(left_out)}")
        if self.hz < self._hz_wanted:
            shed.append(f"{self.hz:g} samples a second in place of {self._hz_wanted:g}")
        return "; ".join(shed)

    def state(self) -> State:
        samples = self.totals["samples"]
        lost = {
            name: self.totals[name]
            for name in ("no_room", "events_lost", "unwritten", *layout.STATUSES[1:-1])
            if self.totals[name]
        }
        return State(
            mode=self._sampler.mode,
            message=self._unwritten or self.message,
            hz=self.hz,
            cpu_percent=round(self.budget.used_percent, 3),
            memory_bytes=self._memory(),
            samples=samples,
            processes=len(self.processes),
            lost=lost,
            shed=self._shed(),
            types=list(self._sampler.available[: self._types]),
            missing={
                **{name: f"{name}: left out to stay in the budget" for name in self._sampler.available[self._types :]},
                **self._sampler.missing,
            },
            files=self.files.counts,
            sample_us=round(self.totals["run_ns"] / 1e3 / samples, 2) if samples else 0.0,
        )

    def _tell(self, last: bool = False) -> None:
        state, now = self.state(), time.monotonic()
        with contextlib.suppress(OSError):  # a full disk is told of by who writes batches
            fresh = self.root / f".{STATUS}.part"
            fresh.write_bytes(msgspec.json.encode(state))
            fresh.rename(self.root / STATUS)
        if last or now - self._last_time >= EVERY_S or not same(self._last_told, state):
            self._last_told, self._last_time = state, now
            self._told(state)

    def close(self) -> None:
        """Everything is out of the kernel again."""
        self.files.close()
        self._sampler.close()
        self._sandbox.close()
        self._sandbox_large.close()
        self._keeping.close()


def write_as_owner(root: Path, made: batch.Batch) -> Path:
    """Writes a batch as the user whom `root` belongs to, who is to delete it. Raises `OSError`.

    From within `root`, since that user may not pass the directories above it.
    """
    owner = root.stat()
    user, group, before = os.geteuid(), os.getegid(), os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        os.chdir(root)
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
        return root / batch.write(Path(), made)
    finally:
        os.seteuid(user)
        os.setegid(group)
        os.fchdir(before)
        os.close(before)
