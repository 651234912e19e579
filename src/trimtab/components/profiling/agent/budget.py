"""What the agent itself may cost, and what it gives up to stay below.

CPU time is credit: it grows with time by the budget's share of a core, up to `BURST_S`, and everything that the agent uses is taken from it:
its own process, the sandbox that makes tables, the BPF program. In this order:

    1. no credit: no more tables are made until there is; stacks through new files are followed by frame pointers meanwhile
    2. sampling alone takes more than the budget: types of samples are left out, the last of the list first, until one is left (the CPU's)
    3. that one is measured half as often, and again, down to `HZ_MIN`
    4. memory: tables that no stack went through for longest leave
    5. still more than the budget, of either: it ends

When sampling took less than a third of the budget for a while, the last step is taken back, up to what was asked for.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BURST_S = 20.0
"""Tables of a whole machine that was never measured: once; later they come from disk."""
HZ_MIN = 1.0
PATIENCE = 3
"""Periods over the budget before anything is given up, so that one busy second does not."""
EASE = 6
"""Periods well below it before more is done again."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

Advice = Literal["", "fewer", "more", "slower", "faster", "evict", "end"]


@dataclass(frozen=True)
class Spent:
    """Since the start: seconds of CPU time, of the parsing sandbox apart; and bytes now."""

    sampling_s: float = 0.0
    parsing_s: float = 0.0
    memory_bytes: int = 0


class Budget:
    """Follows what is spent, period by period."""

    def __init__(self, cpu_percent: float, memory_bytes: int) -> None:
        self.cpu_percent, self.memory_bytes = cpu_percent, memory_bytes
        self.credit_s = BURST_S
        self.used_percent = 0.0
        """Of a core, in the last period."""
        self._before = Spent()
        self._over = self._under = self._large = 0

    @property
    def may_parse(self) -> bool:
        return self.credit_s > 0

    def period(
        self, spent: Spent, seconds: float, hz: float, hz_wanted: float, types: int = 1, types_wanted: int = 1
    ) -> Advice:
        """Takes what was spent up to the end of a period of that length; what is to be done about it."""
        sampling = spent.sampling_s - self._before.sampling_s
        parsing = spent.parsing_s - self._before.parsing_s
        self._before = spent
        allowed = seconds * self.cpu_percent / 100
        self.credit_s = min(BURST_S, self.credit_s + allowed - sampling - parsing)
        self.used_percent = 100 * (sampling + parsing) / seconds
        self._large = self._large + 1 if spent.memory_bytes > self.memory_bytes else 0
        if self._large:
            return "end" if self._large > PATIENCE else "evict"
        self._over = self._over + 1 if sampling > allowed else 0
        self._under = self._under + 1 if sampling < allowed / 3 else 0
        if self._over >= PATIENCE and self.credit_s <= 0:
            self._over = 0
            return "fewer" if types > 1 else "slower" if hz > HZ_MIN else "end"
        if self._under >= EASE and (hz < hz_wanted or types < types_wanted):
            self._under = 0
            return "faster" if hz < hz_wanted else "more"
        return ""


def own_memory_bytes() -> int:
    """What this process alone has in memory: not the text of libraries, nor the kernel's maps that it sees."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))


def own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ended_children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def running_cpu_s(pid: int) -> float:
    """Of a process and its children, those that have ended too; 0 when it has ended itself."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    fields = text[text.rindex(")") + 2 :].split()
    return sum(map(int, fields[11:15])) / CLOCK_TICKS + sum(running_cpu_s(int(child)) for child in children)
