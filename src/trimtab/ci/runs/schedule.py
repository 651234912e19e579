"""Which step runs when: the one with the longest way to the end first, as far as there are processors.

    Plan    what waits for what -> `next()`: pure, the same for a run and for a simulation
    Run     drives a plan: a thread a step, one loop that waits for what happens next

Priority is the "upward rank" of list scheduling (Hu 1961; Graham 1969 gives its bound): a step's own seconds and those of the
longest chain of steps behind it. Seconds are those of earlier runs. The loop sleeps until a step ends, one has run out of time,
has been silent for long, or the screen wants a new picture; nothing polls.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter

from trimtab.ci.runs.ports import EngineFault, Reason, Stop

OVERTAKEN_MAX = 16
"""How often narrower steps may start before a wide one that does not fit yet; then they wait for it."""
STALL_S = 120.0
"""A step that has printed nothing for this long is told of, once for each silence."""
GRACE_S = 30.0
"""What a step that was told to stop may still need; an executor that takes longer is at fault."""


class Plan:
    """The order of a run. needs: by step what it waits for (only steps of the plan); seconds: what each is thought to take.

    cpus: what each keeps busy of `slots`; a step that wants more than there are gets all.
    """

    def __init__(
        self,
        needs: Mapping[str, Iterable[str]],
        seconds: Mapping[str, float],
        slots: float,
        cpus: Mapping[str, float] | None = None,
    ) -> None:
        self._needs = {step: set(waits) for step, waits in needs.items()}
        self._after: dict[str, list[str]] = {step: [] for step in needs}
        for step, waits in self._needs.items():
            for one in waits:
                self._after[one].append(step)
        self.rank = ranks(needs, seconds)
        self._cpus = {step: min((cpus or {}).get(step, 1.0), slots) for step in needs}
        self._free = slots
        self._slots = slots
        self._overtaken = 0
        self.running: set[str] = set()
        self.waiting: set[str] = set(needs)
        self._ready = [(-self.rank[step], step) for step, waits in self._needs.items() if not waits]
        heapq.heapify(self._ready)

    def next(self) -> str | None:
        """The step to start now; it counts as running. None while nothing that is ready fits."""
        passed = []
        found = None
        while self._ready:
            entry = heapq.heappop(self._ready)
            if self._cpus[entry[1]] <= self._free + 1e-9:
                found = entry[1]
                break
            passed.append(entry)
            if self._overtaken >= OVERTAKEN_MAX:
                break
        for entry in passed:
            heapq.heappush(self._ready, entry)
        if found is None:
            return None
        self._overtaken = self._overtaken + 1 if passed else 0
        self._free -= self._cpus[found]
        self.waiting.remove(found)
        self.running.add(found)
        return found

    def done(self, step: str) -> None:
        """A step has succeeded: what waited for it alone is ready."""
        self._ended(step)
        for later in self._after[step]:
            self._needs[later].discard(step)
            if not self._needs[later] and later in self.waiting:
                heapq.heappush(self._ready, (-self.rank[later], later))

    def failed(self, step: str) -> list[str]:
        """A step has failed: all that need it, directly or not, will never run. Returns them."""
        self._ended(step)
        lost: dict[str, None] = {}
        behind = list(self._after[step])
        while behind:
            one = behind.pop()
            if one in self.waiting and one not in lost:
                lost[one] = None
                behind.extend(self._after[one])
        self.waiting.difference_update(lost)
        return list(lost)

    def give_up(self) -> list[str]:
        """Nothing more is started. Returns what will never run."""
        left = sorted(self.waiting, key=lambda step: (-self.rank[step], step))
        self.waiting.clear()
        self._ready.clear()
        return left

    def _ended(self, step: str) -> None:
        self.running.remove(step)
        self._free += self._cpus[step]


def ranks(needs: Mapping[str, Iterable[str]], seconds: Mapping[str, float]) -> dict[str, float]:
    """By step the seconds from its start to the end of the longest chain of steps that begins with it."""
    behind: dict[str, float] = dict.fromkeys(needs, 0.0)
    found: dict[str, float] = {}
    for step in reversed(list(TopologicalSorter(needs).static_order())):
        found[step] = seconds.get(step, 0.0) + behind[step]
        for one in needs[step]:
            behind[one] = max(behind[one], found[step])
    return found


def critical_path(needs: Mapping[str, Iterable[str]], seconds: Mapping[str, float]) -> list[str]:
    """The chain of steps that takes longest: nothing else could have made the run shorter."""
    rank = ranks(needs, seconds)
    after: dict[str, list[str]] = {step: [] for step in needs}
    for step, waits in needs.items():
        for one in waits:
            after[one].append(step)
    path: list[str] = []
    choices = list(needs)
    while choices:
        path.append(max(choices, key=lambda step: (rank[step], step)))
        choices = after[path[-1]]
    return path


# Running


@dataclass(frozen=True)
class Ended:
    """A step's thread has returned. succeeded: what waits for it may go on. fault: what it raised."""

    step: str
    succeeded: bool
    fault: BaseException | None = None


class Watch:
    """What the loop knows of a running step. `heard()` is called whenever it prints something."""

    def __init__(self, timeout_s: float, now_s: float) -> None:
        self.stop = Stop()
        self.since_s = now_s
        self.deadline_s = now_s + timeout_s
        self.heard_s = now_s
        self.told_stall = False

    def heard(self) -> None:
        """The step is alive: the next silence begins."""
        self.heard_s = time.monotonic()
        self.told_stall = False

    def end(self, reason: Reason, now_s: float) -> None:
        """Asks the step to end, by `GRACE_S` from now."""
        if self.stop.reason is None:
            self.deadline_s = now_s + GRACE_S
            self.stop.ask(reason)


class _Events:
    """What has ended, from any thread, and a pipe that wakes the one who waits: signals write to it, too."""

    def __init__(self) -> None:
        self._ended: deque[Ended] = deque()
        self._lock = threading.Lock()
        self._reader = self.writer = -1

    def __enter__(self) -> None:
        self._reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            os.close(self._reader)
            os.close(self.writer)
            self._reader = self.writer = -1

    def put(self, ended: Ended) -> None:
        """Adds one; after the end nobody hears of it."""
        with self._lock:
            self._ended.append(ended)
            if self.writer >= 0:
                with suppress(BlockingIOError):  # so full that it wakes anyway
                    os.write(self.writer, b"e")

    def next(self, timeout_s: float) -> Ended | None:
        """The next one; None after the timeout, and when something else has woken us."""
        if not self._ended:
            poll = select.poll()
            poll.register(self._reader, select.POLLIN)
            if poll.poll(timeout_s * 1000):
                with suppress(BlockingIOError):
                    os.read(self._reader, 4096)
        return self._ended.popleft() if self._ended else None


class Interrupted(Exception):
    """The user asked for the end of the run, and all of it has ended in order."""


class Run:
    """Drives a plan to its end.

    work: does a step, in a thread of its own, and says whether it succeeded. skipped: hears of a step that will never run, and
    because of what. silent: hears of one that has printed nothing for so many seconds. tick: called every `tick_s` seconds;
    0 for never. All but `work` are called in the thread of `drive`.
    """

    def __init__(
        self,
        plan: Plan,
        work: Callable[[str, Watch], bool],
        timeouts_s: Mapping[str, float],
        *,
        skipped: Callable[[str, str], None] = lambda step, because: None,
        silent: Callable[[str, float], None] = lambda step, seconds: None,
        fail_fast: bool = False,
        tick: Callable[[], None] = lambda: None,
        tick_s: float = 0.0,
        stall_s: float = STALL_S,
    ) -> None:
        self._plan = plan
        self._work = work
        self._timeouts_s = timeouts_s
        self._skipped = skipped
        self._silent = silent
        self._fail_fast = fail_fast
        self._tick = tick
        self._tick_s = tick_s
        self._stall_s = stall_s
        self._events = _Events()
        self._watches: dict[str, Watch] = {}
        self._interrupts = 0
        self._interrupts_seen = 0

    def drive(self) -> None:
        """Returns when every step has ended or will never run.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, once all has ended. KeyboardInterrupt: at the second, at once.
            What a step's `work` raised, once all others have ended.
        """
        fault: BaseException | None = None
        with self._events, self._signals():
            while True:
                while (step := self._plan.next()) is not None:
                    self._start(step)
                if not self._watches:
                    break
                ended = self._wait()
                if ended is None or ended.step not in self._watches:
                    continue
                del self._watches[ended.step]
                if ended.succeeded:
                    self._plan.done(ended.step)
                    continue
                for lost in self._plan.failed(ended.step):
                    self._skipped(lost, ended.step)
                fault = fault or ended.fault
                if ended.fault is not None or self._fail_fast:
                    self._end_all(ended.step)
        assert not self._plan.waiting, f"nothing runs, and these wait: {sorted(self._plan.waiting)}"
        if fault is not None:
            raise fault
        if self._interrupts:
            raise Interrupted

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals are counted, and wake the loop whatever it is about to do: they cannot come between two lines of it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(number: int, frame: object) -> None:
            self._interrupts += 1

        wakes = signal.set_wakeup_fd(self._events.writer, warn_on_full_buffer=False)
        before = {one: signal.signal(one, interrupt) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
            signal.set_wakeup_fd(wakes)

    def _start(self, step: str) -> None:
        watch = self._watches[step] = Watch(self._timeouts_s[step], time.monotonic())

        def body() -> None:
            try:
                self._events.put(Ended(step, self._work(step, watch)))
            except BaseException as err:
                self._events.put(Ended(step, False, err))

        threading.Thread(target=body, name=step, daemon=True).start()

    def _end_all(self, because: str) -> None:
        for lost in self._plan.give_up():
            self._skipped(lost, because)
        now_s = time.monotonic()
        for watch in self._watches.values():
            watch.end("cancelled", now_s)

    def _wait(self) -> Ended | None:
        """What has ended next. None when it was only time for something."""
        wait_s = min(self._next_s(watch) for watch in self._watches.values()) - time.monotonic()
        if self._tick_s:
            wait_s = min(wait_s, self._tick_s)
        event = self._events.next(max(wait_s, 0.0))
        if self._interrupts > self._interrupts_seen:
            self._interrupts_seen = self._interrupts
            if self._interrupts > 1:
                raise KeyboardInterrupt
            self._end_all("the interrupt")
        if event is None:
            self._look(time.monotonic())
            self._tick()
        return event

    def _next_s(self, watch: Watch) -> float:
        if watch.told_stall or watch.stop.reason is not None:
            return watch.deadline_s
        return min(watch.deadline_s, watch.heard_s + self._stall_s)

    def _look(self, now_s: float) -> None:
        for step, watch in self._watches.items():
            if now_s >= watch.deadline_s:
                if watch.stop.reason is not None:
                    said = f"{step} was told to stop and has not ended in {GRACE_S:.0f} s; look for what is left of it"
                    self._events.put(Ended(step, False, EngineFault(said)))
                watch.end("timeout", now_s)
            elif watch.stop.reason is None and not watch.told_stall and now_s >= watch.heard_s + self._stall_s:
                watch.told_stall = True
                self._silent(step, now_s - watch.heard_s)
