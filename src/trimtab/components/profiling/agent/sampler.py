"""The BPF program at work: loaded, attached to a timer on every CPU, its counted stacks taken away."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.agent import layout, libbpf, perf, python, types
from trimtab.components.profiling.agent.python_code import CODE_BYTES

OBJECT = Path(__file__).parents[1] / "bpf" / "unwind.bpf.o"
STACKS = ("stacks_a", "stacks_b")
CPUS_MAX = 4096
MAPS = {"offcpu": "waits", "allocations": "growing"}
"""Of one type alone."""


class Sampler:
    """Samples from `start` on. Raises `libbpf.BpfError` or `OSError`: this kernel or these capabilities do not do."""

    mode: Literal["bpf"] = "bpf"
    tables = True

    def __init__(
        self,
        *,
        sizes: dict[str, int] | None = None,
        tgid: int = 0,
        cgroup: int = 0,
        measured: Sequence[str] = types.DEFAULT,
    ) -> None:
        """`tgid`, `cgroup`: only this process and its descendants, only this cgroup (its inode) and those in it. `sizes`: of maps.
        `measured`: of `types.NAMES`, what can be left out last; what of it this kernel cannot is in `missing`."""
        self.missing = {name: why for name in measured if (why := missing(name))}
        self.available = tuple(
            name for name in sorted(measured, key=lambda name: name != "cpu") if name not in self.missing
        )
        try:
            self.program = loaded(self.available, sizes or {})
        except libbpf.BpfError as err:
            if self.available == types.DEFAULT:
                raise
            self.program = loaded(types.DEFAULT, sizes or {})
            self.missing |= {name: str(err) for name in self.available if name not in types.DEFAULT}
            self.available = tuple(name for name in self.available if name in types.DEFAULT)
        self.period_ns = 0
        self._cpus: list[int] = []
        self._config = self.program.map("config").memory(layout.CONFIG)
        self._config["tgid"], self._config["cgroup"] = tgid, cgroup
        self._config["wait_ns"], self._config["pace_ns"] = types.WAIT_NS, types.PACE_NS
        self._config["every"] = types.EVERY_BYTES_CHOSEN if tgid or cgroup else types.EVERY_BYTES
        self._config["capacity"] = self.program.map(STACKS[0]).entries
        self._values = libbpf.possible_cpus()
        self._counted = np.zeros(layout.COUNTERS_MAX, np.uint64)
        self._ring: libbpf.Ring | None = None

    def map(self, name: str) -> libbpf.Map:
        return self.program.map(name)

    def memory_bytes(self) -> int:
        return self.program.memory_bytes()

    @property
    def fd(self) -> int:
        """Readable when the program has something to tell."""
        assert self._ring is not None
        return self._ring.fd

    def listen(self, handle: Callable[[bytes], None]) -> None:
        """Who is told."""
        self._ring = libbpf.Ring(self.program.map("events"), handle)

    def consume(self) -> None:
        """Hands over what the program has told."""
        if self._ring is not None:
            self._ring.consume()

    def number_from(self, last: int) -> None:
        """Files that are new from now on have numbers after `last`. Before `start`."""
        self.program.map("fill").update(layout.LAST_ID.to_bytes(4, "little"), last.to_bytes(8, "little"))

    def start(self, hz: float, wanted: Sequence[str] | None = None) -> None:
        """Takes so many samples a second from now on, of every CPU that is not idle; again with another number to change it.
        `wanted`: of `available`, all when not said."""
        self.program.detach()
        self.period_ns = round(1e9 / hz)
        self._cpus = perf.online()
        for name in self.available if wanted is None else wanted:
            for program, tracepoint in types.NEEDS[name].programs.items():
                if tracepoint:
                    self.program.attach_tracepoint(program)
                    continue
                attribute = perf.attribute(self.period_ns)
                if name == "pagefaults":
                    attribute = perf.attribute(types.FAULTS, event=perf.PAGE_FAULTS)
                for cpu in self._cpus:
                    self.program.attach(program, perf.open_event(attribute, cpu))

    @property
    def stale(self) -> bool:
        """Whether a CPU has come or gone since `start`: its timer came or went with it."""
        return self._cpus != perf.online()

    def stop(self) -> None:
        """No more samples are taken; what was is kept."""
        self.program.detach()

    def swap(self) -> str:
        """Stacks are counted in the other map from now on; the name of the one that is to be taken, as soon as walks that are under way
        have ended (a few hundred microseconds)."""
        active = int(self._config["active"][0])
        self.program.map("fill").update((1 - active).to_bytes(4, "little"), bytes(8))
        self._config["active"] = 1 - active
        return STACKS[active]

    def take(self, name: str) -> NDArray[Any]:
        """What `swap` set aside, which is empty afterwards."""
        return self.program.map(name).take(layout.STACK)

    def take_python(self, name: str) -> tuple[list[bytes], list[bytes]]:
        """Python's stacks and code objects that belong to the native stacks which `take` gave."""
        stacks, codes = python.MAPS[name]
        sizes = ((stacks, python.STACK_BYTES), (codes, CODE_BYTES))
        first, second = (self.program.map(one).take(np.dtype((np.void, size))).tolist() for one, size in sizes)
        return first, second

    def counters(self) -> dict[str, int]:
        """Since the last call."""
        counters = self.program.map("counters")
        now = np.zeros(layout.COUNTERS_MAX, np.uint64)
        for index in range(len(layout.COUNTERS)):
            raw = counters.get(index.to_bytes(4, "little"), self._values)
            if raw:
                now[index] = np.frombuffer(raw, "<u8").sum()
        difference = now - self._counted
        self._counted = now
        return {name: int(difference[index]) for index, name in enumerate(layout.COUNTERS)}

    def close(self) -> None:
        """Nothing of it is left in the kernel when the arrays of its maps are gone, too."""
        if self._ring is not None:
            self._ring.close()
        self._config = np.empty(0, layout.CONFIG)
        self.program.close()


def missing(name: str) -> str:
    """Why this kernel cannot measure a type, in one line; empty: it can."""
    needs = types.NEEDS[name]
    lacking = [point for point in needs.programs.values() if point and not libbpf.has_tracepoint(point)]
    if not lacking:
        return ""
    return f"{name}: this kernel has no tracepoint {' nor '.join(lacking)}: boot {needs.since} or later"


def loaded(measured: Sequence[str], sizes: dict[str, int]) -> libbpf.Object:
    """The programs of these types in the kernel. Raises `BpfError`."""
    without = [program for name, needs in types.NEEDS.items() if name not in measured for program in needs.programs]
    unused = {table: 1 for name, table in MAPS.items() if name not in measured}
    return libbpf.Object(OBJECT, {**unused, **sizes}, without)


def cgroup_id(path: Path) -> int:
    """What the kernel calls a cgroup: the inode of its directory. Raises `OSError`."""
    return os.stat(path).st_ino
