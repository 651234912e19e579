"""Power loss at every step of the store's writing: what was acknowledged is there, nothing is half there.

The store's writes and syncs are recorded (`recording_vfs`). Then, for every prefix of them, the files are made as a power loss
could have left them, and the store is opened again. A disk keeps what was synced; of what was not, it may have kept
everything, nothing, any part, and of the last write only some sectors.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from recording_vfs import Step, recording
from trimtab.store import Put, Store

SECTOR = 512
Expected = dict[int, dict[str, bytes]]
"""Revision -> the live values after it."""


async def _write_a_history(path: Path, seed: int, writes: int, steps: list[Step]) -> Expected:
    """Concurrent creations, updates, deletions, several keys a write, compaction; notes what was acknowledged."""
    rng = random.Random(seed)
    store = await Store.open(path, window=40)
    state: dict[str, bytes] = {}
    expected: Expected = {0: {}}

    async def write(puts: list[Put]) -> None:
        records = await store.write(puts)
        steps.append(Step("ack", "", records[-1].revision))

    watch = store.watch("/", 0)
    for number in range(writes):
        batch = []
        names = rng.sample(range(12), rng.randint(1, 5))
        for name in names:
            key = f"/k/{name}"
            delete = key in state and rng.random() < 0.25
            value = None if delete else bytes([97 + number % 26]) * rng.choice((20, 700, 5000))
            batch.append(Put(key, value))
        split = rng.randint(0, len(batch))
        groups = [group for group in (batch[:split], batch[split:]) if group]
        await asyncio.gather(*(write(group) for group in groups))
        for change in watch.take():
            if change.record.deleted:
                del state[change.record.key]
            else:
                state[change.record.key] = change.record.value
            expected[change.record.revision] = dict(state)
        if number % 20 == 19:
            await store.compact(store.revision - 10)
    await store.close()
    return expected


class Disk:
    """Files as a disk has them: what is surely there, and what was written since the last sync."""

    def __init__(self) -> None:
        self._synced: dict[str, bytearray] = {}
        self._loose: dict[str, list[Step]] = {}

    def apply(self, step: Step) -> None:
        if step.kind in ("write", "truncate"):
            self._loose.setdefault(step.file, []).append(step)
        elif step.kind == "sync":
            self._synced[step.file] = self._content(step.file, self._loose.pop(step.file, []))
        elif step.kind == "delete":
            self._synced.pop(step.file, None)
            self._loose.pop(step.file, None)

    def _content(self, name: str, steps: list[Step]) -> bytearray:
        content = bytearray(self._synced.get(name, b""))
        for step in steps:
            if step.kind == "truncate":
                del content[step.offset :]
                continue
            if len(content) < step.offset:
                content.extend(bytes(step.offset - len(content)))
            content[step.offset : step.offset + len(step.data)] = step.data
        return content

    def left_by(self, loss: str, rng: random.Random) -> dict[str, bytes]:
        """The files after a power loss of a kind: `kept`, `dropped`, `torn` (any subset, the last one in sectors)."""
        files = {}
        for name in {*self._synced, *self._loose}:
            loose = self._loose.get(name, [])
            if loss == "dropped":
                loose = []
            elif loss == "torn":
                loose = [step for step in loose if rng.random() < 0.7]
                if loose and loose[-1].kind == "write":
                    loose[-1] = _torn(loose[-1], rng)
            if name in self._synced or loose:
                files[name] = bytes(self._content(name, loose))
        return files


def _torn(step: Step, rng: random.Random) -> Step:
    sectors = max(1, -(-len(step.data) // SECTOR))
    return Step("write", step.file, step.offset, step.data[: rng.randrange(sectors) * SECTOR])


def _moments(steps: list[Step]) -> Iterator[tuple[Disk, int]]:
    """The disk after each step, and the last revision acknowledged by then."""
    disk = Disk()
    acknowledged = 0
    for step in steps:
        if step.kind == "ack":
            acknowledged = max(acknowledged, step.offset)
        else:
            disk.apply(step)
        yield disk, acknowledged


def _shared_memory(name: str) -> bool:
    return name.endswith("-shm")


async def _check(path: Path, disk: Disk, loss: str, acknowledged: int, expected: Expected, rng: random.Random) -> None:
    for name in path.parent.iterdir():
        name.unlink()
    for name, content in disk.left_by(loss, rng).items():
        if not _shared_memory(name):
            Path(name).write_bytes(content)
    store = await Store.open(path)
    try:
        revision = store.revision
        assert revision >= acknowledged, f"{loss}: revision {acknowledged} was acknowledged, {revision} is there"
        found = {record.key: record.value for record in store.list("/")}
        assert found == expected[revision], f"{loss}: revision {revision} is not as it was written"
        steps = store.history("/", store.compacted)
        assert [s.record.revision for s in steps] == list(range(store.compacted + 1, revision + 1))
    finally:
        await store.close()


async def _recorded(path: Path, seed: int, writes: int) -> tuple[list[Step], Expected]:
    path.parent.mkdir()
    with recording() as vfs:
        expected = await _write_a_history(path, seed, writes, vfs.steps)
    return vfs.steps, expected


async def _lose_power_everywhere(tmp_path: Path, seed: int, writes: int) -> int:
    path = tmp_path / "disk" / "store.sqlite"
    steps, expected = await _recorded(path, seed, writes)
    rng = random.Random(seed)
    moments = 0
    for disk, acknowledged in _moments(steps):
        for loss in ("kept", "dropped", "torn"):
            await _check(path, disk, loss, acknowledged, expected, rng)
            moments += 1
    return moments


async def test_power_loss_at_every_step_loses_nothing_acknowledged(tmp_path: Path) -> None:
    assert await _lose_power_everywhere(tmp_path, seed=1, writes=45) > 600


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(20))
async def test_power_loss_in_many_histories(tmp_path: Path, seed: int) -> None:
    assert await _lose_power_everywhere(tmp_path, seed=100 + seed, writes=150) > 1000


async def test_the_recorder_sees_every_commit_synced(tmp_path: Path) -> None:
    steps, _ = await _recorded(tmp_path / "disk" / "store.sqlite", seed=2, writes=30)

    loose: set[str] = set()
    acknowledged = 0
    for step in steps:
        if step.kind == "write":
            loose.add(step.file)
        elif step.kind == "sync":
            loose.discard(step.file)
        elif step.kind == "ack":
            acknowledged += 1
            assert not any(name.endswith("-wal") for name in loose), "acknowledged before the log was synced"
    assert acknowledged >= 30
