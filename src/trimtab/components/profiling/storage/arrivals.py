"""What comes in is kept even when there is no room: the oldest batches make place, and are counted unless they are rolled up already.

The count stands as `lost` of the batch that took their place, under `no-room`, so queries of that time show it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from trimtab.components.profiling.batch import Batch, incoming, read, write

INCOMING_BYTES_MAX = 256 << 20
"""Batches that wait: eleven hours of a busy 2-core machine, should nothing roll them up."""
NO_ROOM = "no-room"


def keep(root: Path, batch: Batch) -> Path:
    """Writes a batch, durable when this returns. When the disk is full or too much waits, the oldest that wait are dropped for it.
    Raises `OSError` when that does not help."""
    waiting = _waiting(root)
    excess = sum(size for _, size in waiting) - INCOMING_BYTES_MAX
    dropped = 0
    while waiting:
        if excess > 0:
            name, size = waiting.pop(0)
            dropped += _drop(incoming(root) / name)
            excess -= size
            continue
        try:
            return write(root, _with(batch, dropped))
        except OSError as err:
            if err.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            excess = 1
    return write(root, _with(batch, dropped))


def _waiting(root: Path) -> list[tuple[str, int]]:
    """The batches that wait, the oldest first, and their sizes, but for those that a roll-up takes away meanwhile."""
    found = []
    for entry in os.scandir(incoming(root)) if incoming(root).is_dir() else ():
        if entry.name.endswith(".batch"):
            with suppress(FileNotFoundError):
                found.append((entry.name, entry.stat().st_size))
    return sorted(found)


def _with(batch: Batch, dropped: int) -> Batch:
    if not dropped:
        return batch
    return msgspec.structs.replace(batch, lost=batch.lost | {NO_ROOM: batch.lost.get(NO_ROOM, 0) + dropped})


def _drop(path: Path) -> int:
    """Deletes a batch; how many events were in it."""
    try:
        batch = read(path)
        events = 0 if _rolled_up(path) else sum(sample.count for sample in batch.samples) + batch.lost.get(NO_ROOM, 0)
    except (OSError, ValueError):
        events = 1
    path.unlink(missing_ok=True)
    return events


def _rolled_up(path: Path) -> bool:
    """Whether a segment has it; the roll-up deletes it only the next time."""
    from trimtab.components.profiling.storage.contents import contents

    return path in contents(path.parent.parent).leftovers
