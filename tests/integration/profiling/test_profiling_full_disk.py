"""A disk that is full: the newest batch is kept, what gave way is counted, and a roll-up leaves nothing half done."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType, incoming
from trimtab.components.profiling.storage.segment import hours
from trimtab.components.profiling.storage.store import Profiles, Query

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

HOUR = 1_800_000_000 - 1_800_000_000 % 3600


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB."""
    point = tmp_path / "disk"
    point.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(point)], check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


def batch(start: int) -> Batch:
    """Of some 30 kB, which compress little."""
    return Batch(
        start=start,
        source="agent",
        types=[SampleType("cpu", "nanoseconds")],
        labels=[{}],
        frames=[Frame("named", os.urandom(12).hex()) for _ in range(1500)],
        stacks=[[index] for index in range(1500)],
        samples=[Sample(0, 0, index, 10) for index in range(1500)],
    )


def test_the_newest_is_kept_and_what_gave_way_is_counted(small: Path) -> None:
    store = Profiles(small)
    for start in range(HOUR, HOUR + 400, 10):
        store.append(batch(start))
    kept = sorted(int(path.name[:11]) for path in incoming(small).iterdir())
    assert 2 <= len(kept) < 40
    assert kept == list(range(HOUR + 400 - 10 * len(kept), HOUR + 400, 10))
    selection = store.select(Query(start=HOUR, end=HOUR + 400))
    assert int(selection.counts.sum()) == 1500 * len(kept)
    # Of those that gave way to one that gave way itself, the count went on.
    assert selection.lost == {"no-room": 1500 * (40 - len(kept))}


def test_a_roll_up_without_room_leaves_everything_as_it_was(small: Path) -> None:
    store = Profiles(small)
    for start in range(HOUR, HOUR + 400, 10):
        store.append(batch(start))
    before = store.select(Query(start=HOUR, end=HOUR + 400)).total
    with pytest.raises(OSError, match="No space left on device"):
        store.roll_up(HOUR + 7200)
    assert [path.name for path in hours(small).iterdir()] == [".lock"]
    assert store.select(Query(start=HOUR, end=HOUR + 400)).total == before
