"""A day of a busy 2-core machine in the store, and how quickly it is asked, by HTTP as the page asks.

    python benchmarks/profiling_day.py [--hours 24] [--data DIR] [--recorded DIR]

many programs --agent, 199 Hz--> batches --varied, time-shifted--> 8,640 batches of 380 samples --append, roll up--> the day --> questions

What is recorded, and how it is varied: `profiling_recorded.py` (root and BPF; else give batches by --recorded). Each batch is appended
durably and the roll-up runs every five minutes of the day, as in the engine. The last five minutes are left as batches. At the end: a
clock that jumps, less room than the day takes, a disk that is full.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import numpy as np

from profiling_recorded import A_BATCH, SERVICE, Machine, Recorded, record
from trimtab.components.profiling.batch import Batch, Frame, read
from trimtab.components.profiling.formats import pprof
from trimtab.components.profiling.storage.contents import contents
from trimtab.components.profiling.storage.segment import hours
from trimtab.components.profiling.storage.store import Profiles, Query

DAY_S = 86_400
ROLL_UP_S = 300
UID = "00000000-0000-0000-0000-000000000000"
MANY = 40
RSS_MAX_MIB = 512
NAMES = shutil.ignore_patterns("symbols")

# The day


class Nameless:
    """Names nothing, as a profiler that leaves names to its server."""

    class Named(msgspec.Struct):
        lines: list[object] = []

    def names(self, frames: Sequence[Frame]) -> list[Nameless.Named]:
        return [self.Named()] * len(frames)


def as_pprof(batch: Batch) -> int:
    """Bytes of a gzipped pprof file of it, without labels and names."""
    with tempfile.TemporaryDirectory() as directory:
        alone = Profiles(Path(directory))
        alone.append(batch)
        return len(pprof.encode(alone.select(Query(start=batch.start, end=batch.start + 10)), Nameless()))


def fill(root: Path, recorded: Recorded, begin: int, duration_s: int) -> None:
    """The agent's part here and the roll-up's in a process of its own, which is one run behind at most."""
    machine, store = Machine(recorded), Profiles(root)
    context = get_context("spawn")
    orders, done = context.JoinableQueue(1), context.Queue()
    roller = context.Process(target=roll_ups, args=(root, orders, done), daemon=True)
    roller.start()
    entropy, spent = 0, 0.0
    peer: list[int] = []
    for start in range(begin, begin + duration_s, 10):
        batch = machine.batch(start)
        entropy += len(batch.stacks)
        before = time.process_time()
        store.append(batch)
        spent += time.process_time() - before
        if start % 1200 == 0:
            peer.append(as_pprof(batch))
        if (start + 10) % ROLL_UP_S == 0 and start + 10 < begin + duration_s:
            orders.put(start + 10)
            if start + 10 == begin + duration_s - ROLL_UP_S:
                orders.join()
    orders.put(0)
    print(
        f"the same as a gzipped pprof file each 10 s: {np.mean(peer) / A_BATCH:.0f} bytes a sample, without labels and names"
    )
    cpu, longest, runs, peak = done.get()
    roller.join()
    batches = duration_s // 10
    incoming_bytes = sum(path.stat().st_size for path in contents(root).batches)
    waiting = len(contents(root).batches)
    print(
        f"the day: {batches * A_BATCH:,} samples in {batches:,} batches; {entropy / batches / A_BATCH:.2f} of a batch's stacks differ"
    )
    print(
        f"append: {1000 * spent / batches:.1f} ms of CPU a batch; {incoming_bytes / max(1, waiting * A_BATCH):.0f} bytes a sample until rolled up"
    )
    print(
        f"roll-up: {runs} runs, {cpu:.0f} s of CPU ({100 * cpu / duration_s:.2f} % of a core without the start of each process), "
        f"longest {longest:.2f} s, peak RSS {peak} MiB"
    )


def roll_ups(root: Path, orders: Any, done: Any) -> None:
    """Rolls up at each time that is ordered, until 0."""
    os.environ["POLARS_MAX_THREADS"] = "1"
    store, cpu, longest, runs = Profiles(root), 0.0, 0.0, 0
    while now := orders.get():
        before = time.process_time()
        store.roll_up(now)
        orders.task_done()
        took = time.process_time() - before
        cpu, longest, runs = cpu + took, max(longest, took), runs + 1
    done.put((cpu, longest, runs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10))


def sizes(root: Path, duration_s: int) -> None:
    by_table: Counter[str] = Counter()
    samples = 0
    for segments in contents(root).segments.values():
        if len(segments) == 1:
            samples += segments[0].about.events
            for file in segments[0].path.iterdir():
                by_table[file.stem] += file.stat().st_size
    if not samples:
        return
    total = sum(by_table.values()) / samples
    parts = ", ".join(f"{name} {size / samples:.2f}" for name, size in by_table.most_common())
    whole = sum(file.stat().st_size for file in hours(root).rglob("*") if file.is_file())
    print(f"hours: {total:.1f} bytes a sample ({parts}); all of {duration_s / 3600:.0f} h {whole / 1e6:.0f} MB")


# Questions


class Server:
    """The query server as the engine starts it, but for its isolation."""

    def __init__(self, root: Path) -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        self.port = listening.getsockname()[1]
        code = (
            "import asyncio, socket, sys\nfrom pathlib import Path\nfrom trimtab.components.profiling import served\n"
            "asyncio.run(served.serve(Path(sys.argv[1]), [socket.socket(fileno=int(sys.argv[2]))], []))"
        )
        command = [sys.executable, "-c", code, str(root), str(listening.fileno())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()])
        listening.close()
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        self.together_mib = 0
        self.watching = threading.Thread(target=self.watch)
        self.watching.start()

    def ask(self, **parameters: object) -> bytes:
        self.connection.request("GET", f"/{UID}/query?{urlencode(parameters)}")
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{parameters}: {answer.status} {body.decode(errors='replace').strip()}")
        return body

    def pids(self) -> list[int]:
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with suppress(OSError):
                    todo += map(int, task.read_text().split())
        return found

    def cpu_s(self) -> float:
        """Of the server and its sandboxes, those that ended too."""
        ticks = 0
        for pid in self.pids():
            with suppress(OSError):
                parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(part) for part in parts[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def watch(self) -> None:
        """What the server and its sandboxes have resident, a hundred times a second, until it ends."""
        while self.process.poll() is None:
            kilobytes = 0
            for pid in self.pids():
                with suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    kilobytes += int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
            self.together_mib = max(self.together_mib, kilobytes >> 10)
            time.sleep(0.01)

    def rss_mib(self) -> int:
        """The server's peak."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10

    def end(self) -> None:
        self.connection.close()
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)
        self.watching.join()


def percentile(times: Sequence[float], part: float) -> str:
    return f"{1000 * float(np.percentile(times, part)):.0f}"


def timed(server: Server, title: str, many: int, goal_s: float, question: Callable[[], dict[str, object]]) -> None:
    wall, size, nodes = [], 0, 0
    spent = server.cpu_s()
    for _ in range(many):
        before = time.perf_counter()
        body = server.ask(**question())
        wall.append(time.perf_counter() - before)
        size, nodes = len(body), len(json.loads(body).get("parent", ()))
    each = (server.cpu_s() - spent) / many
    p95 = float(np.percentile(wall, 95))
    verdict = f" ({'within' if p95 < goal_s else 'NOT within'} {goal_s:.1f} s)" if goal_s else ""
    print(
        f"{title}: wall p50 {percentile(wall, 50)} ms, p95 {percentile(wall, 95)} ms{verdict}; CPU {1000 * each:.0f} ms; "
        f"{many} asked, {nodes:,} nodes, {size >> 10} KiB; server's RSS {server.rss_mib()} MiB at most"
    )
    sys.stdout.flush()


def said(server: Server, when: str) -> None:
    within = "within" if server.rss_mib() <= RSS_MAX_MIB else "NOT within"
    print(
        f"memory, {when}: the server {server.rss_mib()} MiB at most ({within} {RSS_MAX_MIB} MiB), "
        f"with the sandboxes that it runs {server.together_mib} MiB"
    )


def ask(root: Path, begin: int, duration_s: int) -> None:
    chance, end = random.Random(3), begin + duration_s
    one = {"view": "tree", "selector": f'app="{SERVICE}"'}
    before = time.perf_counter()
    server = Server(root)
    try:
        server.ask(**one, start=end - 3600, end=end)
        print(f"the first question, from the start of the server: {1000 * (time.perf_counter() - before):.0f} ms")
        while b"being looked for" in server.ask(view="tree", start=end - 1800, end=end):
            time.sleep(0.2)  # the names of programs that were never asked for

        def hour() -> dict[str, object]:
            start = begin + 10 * chance.randrange(max(1, (duration_s - 3600) // 10))
            return {**one, "start": start, "end": start + 3600}

        timed(server, "one service, any hour", MANY, 0.2, hour)
        timed(server, "one service, the last hour", MANY // 2, 0.2, lambda: {**one, "start": end - 3600, "end": end})
        timed(server, "one service, the day", 12, 2.0, lambda: {**one, "start": begin, "end": end})
        timed(server, "its table of functions, any hour", MANY // 2, 0, lambda: hour() | {"view": "top"})
        timed(server, "diff of two hours", MANY // 4, 0, lambda: hour() | {"view": "diff"})
        said(server, "until here")
        timed(server, "every process, any hour", 5, 0, lambda: hour() | {"selector": ""})
        timed(server, "every process, the day", 1, 0, lambda: {**one, "selector": "", "start": begin, "end": end})
        said(server, "in all")
    finally:
        server.end()


# What goes wrong


def housekeeping(root: Path, work: Path, begin: int, duration_s: int) -> None:
    """On a copy: a clock that jumps, less room than the day takes, a disk that is full."""
    copy, end, retention_s = work / "copy", begin + duration_s, 14 * DAY_S
    shutil.copytree(root, copy, ignore=NAMES)
    store = Profiles(copy)
    there = len(contents(copy).segments)
    store.retain(end + 400 * DAY_S, retention_s, 1 << 40)
    left = len(contents(copy).segments)
    store.retain(end, retention_s, 1 << 40)
    assert len(contents(copy).segments) == left
    print(f"a clock 400 days ahead for one roll-up, and back: {left} of {there} hours are left")
    shutil.rmtree(copy)
    shutil.copytree(root, copy, ignore=NAMES)
    half, before = whole_bytes(root) // 2, time.process_time()
    store.retain(end, retention_s, half)
    kept = contents(copy).segments
    assert whole_bytes(copy) <= half
    assert max(kept) == max(contents(root).segments), "the newest stay"
    took = 1000 * (time.process_time() - before)
    print(
        f"room for {half / 1e6:.0f} MB: {len(kept)} hours are left, {whole_bytes(copy) / 1e6:.0f} MB, {took:.0f} ms of CPU"
    )
    shutil.rmtree(copy)
    if os.geteuid() == 0:
        full(root, work / "disk", end)


def full(root: Path, disk: Path, end: int) -> None:
    """A disk of the day's size and a little more, while batches come in that nothing rolls up."""
    some = read(contents(root).batches[-1])
    events = sum(sample.count for sample in some.samples)
    disk.mkdir()
    size = whole_bytes(root) * 5 // 4 + (8 << 20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        shutil.copytree(root, disk / "day", ignore=NAMES)
        store = Profiles(disk / "day")
        many = 0
        while many < 200 or (many < 4000 and not lost(store, end, many)):
            store.append(msgspec.structs.replace(some, start=end + 10 * many))
            many += 1
        found = store.select(Query(start=end, end=end + 10 * many))
        counted, gone = int(found.counts.sum()), found.lost.get("no-room", 0)
        waited = sum(sample.count for path in contents(root).batches for sample in read(path).samples)
        assert many * events <= counted + gone <= many * events + waited
        print(
            f"a disk that is full: {many} batches of {many * events:,} samples came in with no error: {counted:,} are there, {gone:,} are "
            f"counted as lost, with those of the {waited:,} before them that gave way"
        )
        store.retain(end, 14 * DAY_S, size * 3 // 5)
        store.roll_up(end + 10 * many)
        after = store.select(Query(start=end, end=end + 10 * many))
        assert int(after.counts.sum()) == counted
        print("once there is room, the roll-up has them all")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def lost(store: Profiles, end: int, many: int) -> int:
    """Asked once in a hundred."""
    return 0 if many % 100 else store.select(Query(start=end, end=end + 10 * many + 10)).lost.get("no-room", 0)


def whole_bytes(root: Path) -> int:
    """Of profiles; names, which the server keeps beside them, have a limit of their own."""
    return sum(
        file.stat().st_size for place in ("hours", "incoming") for file in (root / place).rglob("*") if file.is_file()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--data", type=Path, help="keep the day here, or ask the one that is there")
    parser.add_argument("--recorded", type=Path, help="a directory with batches in incoming/, instead of recording")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    duration_s = 3600 * arguments.hours
    begin = (int(time.time()) - duration_s) // DAY_S * DAY_S
    with tempfile.TemporaryDirectory(prefix="profiling-day-") as directory:
        root = arguments.data or Path(directory, "day")
        if not (root / "hours").exists():
            recorded_at = arguments.recorded or Path(directory, "recorded")
            if not arguments.recorded:
                Path(directory, "work").mkdir()
                record(recorded_at, Path(directory, "work"))
            recorded = Recorded(recorded_at)
            print(
                f"recorded: {len(recorded.programs):,} samples of {len(set(recorded.programs))} programs, {len(recorded.frames):,} frames, "
                f"depth {recorded.depth:.0f}, {recorded.distinct:.2f} of the stacks differ"
            )
            fill(root, recorded, begin, duration_s)
        begin = min(contents(root).segments)
        sizes(root, duration_s)
        print(f"load {os.getloadavg()[0]:.1f}")
        ask(root, begin, duration_s)
        housekeeping(root, Path(directory), begin, duration_s)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
