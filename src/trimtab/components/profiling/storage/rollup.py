"""Batches become segments: one an hour in the end, and until the hour is over a small one each time this runs.

Each step is one rename, and a segment says by name what is in it. What it replaces stays until this runs again, so that whoever reads
meanwhile, or makes a backup, finds all of it in one form or the other, and counts it once (`contents`); who is killed leaves no more
than that either:

    what the time before left over is deleted
    batches --read, sorted--> hours/.X.part/ --fsync, rename--> hours/X/
    segments of an hour that is over --merged--> hours/.Y.part/ --fsync, rename--> hours/Y/

A file that cannot be read is set aside with one line, and stops nothing.

`python -m trimtab.components.profiling.storage.rollup ROOT --retention-s N --max-bytes N` does it once, with limits on its own memory.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from trimtab.components.profiling.batch import incoming
from trimtab.components.profiling.storage import columns
from trimtab.components.profiling.storage.contents import Done, contents, delete, set_aside
from trimtab.components.profiling.storage.part import Damaged, Opened
from trimtab.components.profiling.storage.retention import retain
from trimtab.components.profiling.storage.segment import HOUR_S, Columns, Segment, hours

T = TypeVar("T")

log = logging.getLogger(__name__)

GRACE_S = 60
"""An hour is over when so much of the next has passed: the agent writes a batch up to 10 s after it began, a push may be a little late."""
CHUNK_BYTES_MAX = 6 << 20
"""Batch files that are in memory at once: 10 to 15 minutes of a busy 2-core machine, 200 MB while they become columns."""
MERGED_BYTES_MAX = 6 << 20
"""Segments are merged while they are together no more than this, so that an hour of whatever size fits in memory: a busy hour of 2 CPUs has 4 MB,
a hundred times that while it is merged."""
SEGMENTS_MAX = 4
"""Of an hour that is not over; then they are merged before it is. Each costs a question about the last hour as much as four batches."""
MEMORY_BYTES_MAX = 1 << 30
"""Of the process that rolls up (RLIMIT_DATA, which counts what is reserved, too): a busy hour of 2 CPUs has 420 MB resident at most."""


def roll_up(root: Path, now: float, done: Done | None = None) -> Done:
    """Rolls up what has come in. Raises `BlockingIOError` when another process does it already, `OSError` when the disk is full."""
    done = done or Done()
    with _alone(root):
        _sweep(root, now)
        found = contents(root)
        for path, error in found.damaged:
            set_aside(root, path, error, done)
        delete(found.leftovers)
        waiting: dict[int, list[Path]] = {}
        for path in found.batches:
            waiting.setdefault(_hour(path), []).append(path)
        there = {hour: list(segments) for hour, segments in found.segments.items()}
        for hour, batches in sorted(waiting.items()):
            for chunk in _chunks(batches, lambda path: path.stat().st_size, CHUNK_BYTES_MAX):
                there.setdefault(hour, []).extend(_batches_done(root, hour, chunk, done))
        # Last, for it takes the most memory: who fails here has kept what came in.
        for hour, segments in sorted(there.items()):
            _hour_done(root, hour, segments, now, done)
    return done


def _sweep(root: Path, now: float) -> None:
    """Deletes what was being written by who was killed."""
    for part in hours(root).glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)
    for part in incoming(root).glob(".*.part"):
        with suppress(FileNotFoundError):
            if part.stat().st_mtime < now - HOUR_S:
                part.unlink()


def _hour_done(root: Path, hour: int, there: Sequence[Segment], now: float, done: Done) -> None:
    """Makes the segments of an hour one, when it is over or they are many."""
    over = now >= hour + HOUR_S + GRACE_S
    if len(there) > 1 and (over or len(there) > SEGMENTS_MAX):
        for group in _chunks(sorted(there, key=Segment.size), Segment.size, MERGED_BYTES_MAX):
            try:
                _merge(root, hour, group, done)
            except MemoryError:  # they are as good as one, but for a little time and space
                log.warning("%s: %d segments of one hour are too large to become one", hours(root), len(group))


def _batches_done(root: Path, hour: int, paths: Sequence[Path], done: Done) -> list[Segment]:
    opened: list[Opened] = []
    for path in paths:
        try:
            opened.append(Opened(path))
        except FileNotFoundError:
            continue
        except Damaged as err:
            set_aside(root, path, err, done)
    names = {one.path.name for one in opened}

    def refused(one: Opened, err: Damaged) -> None:
        set_aside(root, one.path, err, done)
        names.discard(one.path.name)

    made = columns.of_batches(opened, refused)
    if not names:
        return []
    written = columns.write(root, hour, made, sorted(names), ())
    done.batches += len(names)
    done.segments += 1
    return [Segment(written)]


def _merge(root: Path, hour: int, group: Sequence[Segment], done: Done) -> None:
    inside: list[Segment] = []
    parts: list[Columns] = []
    for one in group:
        try:
            parts.append(one.columns())
            inside.append(one)
        except Damaged as err:
            set_aside(root, one.path, err, done)
    if len(inside) < 2:
        return
    whole = columns.merged(parts)
    parts.clear()
    # Batches that are in a part may still be there.
    batches = [name for one in inside for name in one.about.batches if (incoming(root) / name).exists()]
    columns.write(root, hour, whole, batches, [one.path.name for one in inside])
    done.segments += 1


def _hour(path: Path) -> int:
    digits = path.name.partition("-")[0]
    start = int(digits) if digits.isdecimal() else 0
    return start - start % HOUR_S


def _chunks(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Items in their order, in groups of at most `limit` bytes, or of one item that is larger."""
    group: list[T] = []
    total = 0
    for item in items:
        try:
            more = size(item)
        except FileNotFoundError:
            continue
        if group and total + more > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += more
    if group:
        yield group


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    hours(root).mkdir(mode=0o750, parents=True, exist_ok=True)
    with open(hours(root) / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def main() -> int:
    """Rolls up once, and prints what was done as one line of JSON."""
    parser = argparse.ArgumentParser(prog="trimtab-profiles-rollup", description=main.__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--retention-s", type=int, required=True)
    parser.add_argument("--max-bytes", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    os.environ["POLARS_MAX_THREADS"] = "1"
    os.nice(10)
    done, now = Done(), time.time()
    retain(arguments.root, now, arguments.retention_s, arguments.max_bytes, done)
    try:
        roll_up(arguments.root, now, done)
    except BlockingIOError:
        print(f"{arguments.root}: another process rolls up", file=sys.stderr)
        return 0
    except OSError as err:
        print(f"{arguments.root}: cannot roll up ({err}): make room, or keep less", file=sys.stderr)
    except MemoryError:
        print(f"{arguments.root}: cannot roll up in {MEMORY_BYTES_MAX >> 20} MiB of memory", file=sys.stderr)
    print(msgspec.json.encode(done).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
