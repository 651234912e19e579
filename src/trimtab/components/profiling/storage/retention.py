"""What is kept, and what goes when there is too much: whole hours and whole batch files, nothing is rewritten.

By age, at most `AGED_MAX` segments a call: a clock that jumps ahead and back within minutes costs some of the oldest hours, not all there
is. By size, first what claims to be from more than a day ahead (a clock was wrong), then the oldest.
"""

from __future__ import annotations

from pathlib import Path

from trimtab.components.profiling.batch import incoming
from trimtab.components.profiling.storage.contents import Done, delete
from trimtab.components.profiling.storage.segment import HOUR_S, Name, hours

AGED_MAX = 12
DAY_S = 24 * HOUR_S


def retain(root: Path, now: float, seconds: int, max_bytes: int, done: Done | None = None) -> Done:
    """Deletes hours that ended more than `seconds` before `now`, then what is more than `max_bytes` of hours and batches together."""
    done = done or Done()
    there = sorted((name.start, path) for path in hours(root).glob("[0-9]*-*") if (name := Name.parse(path.name)))
    aged = [path for start, path in there if start + HOUR_S < now - seconds][:AGED_MAX]
    delete(aged)
    kept = [(start, path) for start, path in there if path not in aged]
    kept.sort(key=lambda one: (one[0] <= now + DAY_S, one[0]))
    sizes = [_size(path) for _, path in kept]
    over = sum(sizes) + sum(_size(path) for path in incoming(root).glob("*.batch")) - max_bytes
    excess = []
    for (_, path), size in zip(kept, sizes, strict=True):
        if over <= 0:
            break
        excess.append(path)
        over -= size
    delete(excess)
    done.deleted += len(aged) + len(excess)
    return done


def _size(path: Path) -> int:
    """Bytes of a file, or of the files of a directory; 0 when it went meanwhile."""
    try:
        return sum(map(_size, path.iterdir())) if path.is_dir() else path.stat().st_size
    except FileNotFoundError:
        return 0
