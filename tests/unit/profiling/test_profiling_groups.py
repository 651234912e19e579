"""A segment by groups: each service's stretch of rows answers what the batches would, however many services there are."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType
from trimtab.components.profiling.storage import groups
from trimtab.components.profiling.storage.contents import contents
from trimtab.components.profiling.storage.groups import GROUPS_MAX, runs
from trimtab.components.profiling.storage.segment import HOUR_S
from trimtab.components.profiling.storage.store import Profiles, Query

HOUR = 1_800_000_000 - 1_800_000_000 % HOUR_S
CPU = SampleType("cpu", "nanoseconds")
SERVICES = 9


def random_batch(chance: random.Random, start: int) -> Batch:
    """Services that share some frames and callers, and processes that are no service."""
    frames = [Frame("native", build_id="ab" * 10, address=chance.randrange(20), file="/lib/c.so") for _ in range(20)]
    frames += [Frame("python", f"f{i}", f"{i % 3}.py", i) for i in range(8)]
    names = [f"s{chance.randrange(SERVICES)}" for _ in range(6)]
    labels = [
        {"namespace": "n", "app": name, "pid": str(index)} if index % 3 else {"process": name, "pid": str(index)}
        for index, name in enumerate(names)
    ] + [{}]
    stacks = [chance.choices(range(len(frames)), k=chance.randrange(7)) for _ in range(15)]
    samples = [
        Sample(0, chance.randrange(len(labels)), chance.randrange(15), chance.randrange(1, 99), 1) for _ in range(40)
    ]
    return Batch(start=start, source="agent", types=[CPU], labels=labels, frames=frames, stacks=stacks, samples=samples)


def summed(batches: list[Batch], wanted: dict[str, str], start: int, end: int) -> Counter[tuple[Frame, ...]]:
    """What the batches say, without the store."""
    found: Counter[tuple[Frame, ...]] = Counter()
    for batch in batches:
        for sample in batch.samples:
            labels = batch.labels[sample.labels]
            if start <= batch.start < end and all(labels.get(name, "") == value for name, value in wanted.items()):
                found[tuple(batch.frames[index] for index in batch.stacks[sample.stack])] += sample.value
    return found


def selected(store: Profiles, wanted: dict[str, str], start: int, end: int) -> Counter[tuple[Frame, ...]]:
    selector = ",".join(f'{name}="{value}"' for name, value in wanted.items())
    one = store.select(Query(start=start, end=end, selector=selector))
    assert len(set(one.frames)) == len(one.frames), "each frame once"
    stacks = [tuple(one.frames[index] for index in stack) for stack in one.stacks]
    assert len(set(stacks)) == len(stacks), "each stack once"
    return Counter(dict(zip(stacks, one.values.tolist(), strict=True)))


@pytest.mark.parametrize("most", [1, 3, GROUPS_MAX])
def test_every_service_of_segments_is_what_its_batches_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(groups, "GROUPS_MAX", most)
    chance = random.Random(most)
    store = Profiles(tmp_path)
    batches = [random_batch(chance, HOUR + at) for at in range(0, 2 * HOUR_S, 120)]
    for number, batch in enumerate(batches):
        store.append(batch)
        if number % 7 == 6:
            store.roll_up(batch.start + 10)
    store.roll_up(HOUR + 2 * HOUR_S + 61)
    there = contents(tmp_path)
    assert [len(found) for found in there.segments.values()] == [1, 1], "two whole hours"
    assert all(len(one.about.groups) == min(most, 2 * SERVICES + 1) for (one,) in there.segments.values())
    asked: list[dict[str, str]] = [{}, {"app": ""}, {"app": "none"}, {"pid": "2"}]
    asked += [{name: f"s{number}"} for number in range(SERVICES) for name in ("app", "process")]
    for wanted in asked:
        for start, end in ((HOUR, HOUR + 2 * HOUR_S), (HOUR + 1230, HOUR + 4830)):
            assert selected(store, wanted, start, end) == summed(batches, wanted, start, end), (wanted, start)


def test_neighbours_are_read_together() -> None:
    assert runs([]) == []
    assert runs([4]) == [(4, 5)]
    assert runs([0, 1, 2, 5, 6, 9]) == [(0, 3), (5, 7), (9, 10)]
