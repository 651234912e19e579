"""Memory in use and its like: the last snapshot of each target counts, whether rolled up or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType
from trimtab.components.profiling.storage.segment import HOUR_S
from trimtab.components.profiling.storage.store import Profiles, Query

HOUR = 1_800_000_000 - 1_800_000_000 % HOUR_S


def snapshot(start: int, instance: str, **in_use: int) -> Batch:
    """In use by function, each under a label of its own."""
    return Batch(
        start=start,
        source="scrape",
        types=[SampleType("alloc_space", "bytes"), SampleType("inuse_space", "bytes")],
        labels=[{"instance": instance, "zone": name} for name in in_use],
        frames=[Frame("named", name) for name in in_use],
        stacks=[[index] for index in range(len(in_use))],
        samples=[Sample(kind, index, index, value) for index, value in enumerate(in_use.values()) for kind in (0, 1)],
    )


@pytest.mark.parametrize("rolled_up", [0, 1, 2])
def test_of_a_gauge_the_last_snapshot_of_each_target_counts(tmp_path: Path, rolled_up: int) -> None:
    store = Profiles(tmp_path)
    store.append(snapshot(HOUR, "a", parse=10, cache=5))
    store.append(snapshot(HOUR + 10, "b", parse=100))
    if rolled_up:
        store.roll_up(HOUR + 20)
    store.append(snapshot(HOUR + 60, "a", parse=20))  # its cache is gone
    if rolled_up == 2:
        store.roll_up(HOUR + 2 * HOUR_S)
    whole = Query(type="inuse_space", start=HOUR, end=HOUR + 120)
    selection = store.select(whole)
    assert {selection.frames[stack[0]].name for stack in selection.stacks} == {"parse"}
    assert selection.total == 120
    assert store.totals(whole, "instance") == {"a": 20, "b": 100}
    assert store.series(whole, 60).values.tolist() == [115, 20]
    assert store.select(Query(type="inuse_space", start=HOUR, end=HOUR + 50)).total == 115
    assert store.select(Query(type="inuse_space", start=HOUR, end=HOUR + 120, selector='instance="a"')).total == 20
    assert store.select(Query(type="alloc_space", start=HOUR, end=HOUR + 120)).total == 135
    assert store.select(Query(type="inuse_space", start=HOUR + 600, end=HOUR + 700)).total == 0
