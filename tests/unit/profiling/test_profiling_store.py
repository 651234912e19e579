"""The store of profiles over incoming batches: what is asked comes back, summed by stack."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.components.profiling.batch import Batch, Frame, Sample, SampleType, incoming
from trimtab.components.profiling.storage import trie
from trimtab.components.profiling.storage.store import Profiles, Query

CPU = SampleType("cpu", "nanoseconds")
HOUR = 1_800_000_000 - 1_800_000_000 % 3600

MAIN, WORK, READ = (
    Frame(kind="native", build_id="aa", address=16, file="/usr/bin/app"),
    Frame(kind="python", name="work", file="app.py", line=3),
    Frame(kind="kernel", name="vfs_read"),
)


def batch(start: int, **changes: object) -> Batch:
    fields: dict[str, object] = {
        "start": start,
        "source": "agent",
        "types": [CPU],
        "labels": [{"app": "shipnotes", "process": "python3"}, {"app": "other"}],
        "frames": [MAIN, WORK, READ],
        "stacks": [[1, 0], [2, 1, 0]],
        "samples": [Sample(0, 0, 0, 100, 2), Sample(0, 0, 1, 50, 1), Sample(0, 1, 0, 7, 1)],
        "lost": {"lost": 3},
    }
    return Batch(**(fields | changes))  # type: ignore[arg-type]


def by_names(store: Profiles, query: Query) -> dict[tuple[str, ...], int]:
    selection = store.select(query)
    return {
        tuple(selection.frames[frame].name or selection.frames[frame].build_id for frame in stack): value
        for stack, value in zip(selection.stacks, selection.values.tolist(), strict=True)
    }


def test_samples_of_one_service_are_summed_by_stack(tmp_path: Path) -> None:
    store = Profiles(tmp_path)
    store.append(batch(HOUR))
    store.append(batch(HOUR + 10, frames=[READ, MAIN, WORK], stacks=[[2, 1], [0, 2, 1]]))
    query = Query(start=HOUR, end=HOUR + 20, selector='app="shipnotes"')
    assert by_names(store, query) == {("work", "aa"): 200, ("vfs_read", "work", "aa"): 100}
    selection = store.select(query)
    assert (selection.total, selection.unit, selection.lost) == (300, "nanoseconds", {"lost": 6})
    assert sorted(selection.counts.tolist()) == [2, 4]
    assert sorted(selection.frames, key=str) == sorted([MAIN, WORK, READ], key=str)


def test_only_the_time_that_is_asked_counts(tmp_path: Path) -> None:
    store = Profiles(tmp_path)
    for start in (HOUR - 10, HOUR, HOUR + 10, HOUR + 20):
        store.append(batch(start))
    assert store.select(Query(start=HOUR, end=HOUR + 20)).total == 2 * 157
    assert store.select(Query(start=HOUR + 3, end=HOUR + 4)).total == 157
    with pytest.raises(ValueError, match="end 5 is not after start 5: give a stretch of time"):
        store.select(Query(start=5, end=5))


def test_series_labels_and_types(tmp_path: Path) -> None:
    store = Profiles(tmp_path)
    for start in (HOUR, HOUR + 10, HOUR + 30):
        store.append(batch(start))
    series = store.series(Query(start=HOUR, end=HOUR + 60, selector='app!="other"'), 20)
    assert series.values.tolist() == [300, 150, 0]
    assert series.counts.tolist() == [6, 3, 0]
    assert store.labels(HOUR, HOUR + 60) == {"app": ["other", "shipnotes"], "process": ["python3"]}
    assert store.types(HOUR, HOUR + 60) == [CPU]
    with pytest.raises(ValueError, match="step of 15 s: give a multiple of 10 s"):
        store.series(Query(start=HOUR, end=HOUR + 60), 15)


def test_one_name_in_two_units_must_be_named_with_one(tmp_path: Path) -> None:
    store = Profiles(tmp_path)
    store.append(batch(HOUR))
    store.append(batch(HOUR, types=[SampleType("cpu", "count")]))
    with pytest.raises(ValueError, match="cpu is kept in count and nanoseconds: ask for cpu:count or cpu:nanoseconds"):
        store.select(Query(start=HOUR, end=HOUR + 10))
    assert store.select(Query(type="cpu:count", start=HOUR, end=HOUR + 10)).unit == "count"


def test_nothing_kept_is_an_empty_selection(tmp_path: Path) -> None:
    selection = Profiles(tmp_path).select(Query(start=HOUR, end=HOUR + 10))
    assert (selection.total, list(selection.stacks), selection.frames) == (0, [], [])


def test_a_stack_without_frames_is_kept(tmp_path: Path) -> None:
    store = Profiles(tmp_path)
    store.append(batch(HOUR, stacks=[[], [0]]))
    assert by_names(store, Query(start=HOUR, end=HOUR + 10)) == {(): 107, ("aa",): 50}


@pytest.mark.parametrize(
    "broken",
    [
        batch(HOUR, samples=[Sample(0, 2, 0, 1)]),
        batch(HOUR, samples=[Sample(1, 0, 0, 1)]),
        batch(HOUR, samples=[Sample(0, 0, 9, 1)]),
        batch(HOUR, stacks=[[3], [0]]),
    ],
)
def test_a_batch_that_points_outside_of_itself_is_left_out_and_counted(tmp_path: Path, broken: Batch) -> None:
    store = Profiles(tmp_path)
    store.append(broken)
    store.append(batch(HOUR, lost={}))
    selection = store.select(Query(start=HOUR, end=HOUR + 10))
    assert selection.total == 157
    assert selection.lost["unreadable"] == 1


def test_a_file_that_is_no_batch_is_left_out_and_counted(tmp_path: Path) -> None:
    store = Profiles(tmp_path)
    store.append(batch(HOUR, lost={}))
    for name, content in (("x", b"\x93"), ("y", b""), ("z", b"\xff" * 100)):
        (incoming(tmp_path) / f"{HOUR:011d}-agent-{name}.batch").write_bytes(content)
    selection = store.select(Query(start=HOUR, end=HOUR + 10))
    assert (selection.total, selection.lost) == (157, {"unreadable": 3})


STACKS = st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=20)


@given(st.lists(STACKS, min_size=1, max_size=4))
def test_trees_hold_the_stacks_that_they_were_built_from(parts: list[list[list[int]]]) -> None:
    tries, leaves = [], []
    for stacks in parts:
        lengths = np.array([0, *map(len, stacks)], np.int64)
        tree, node = trie.build(np.array([f for stack in stacks for f in stack], np.int64), np.cumsum(lengths))
        assert (np.diff(tree.parent) >= 0).all()
        assert (tree.parent < np.arange(len(tree.parent))).all()
        tries.append(tree)
        leaves.append(node)
    merged, maps = trie.merge(tries)
    assert len(set(zip(merged.parent.tolist(), merged.frame.tolist(), strict=True))) == len(merged.parent)
    for stacks, node, numbers in zip(parts, leaves, maps, strict=True):
        flat, offsets = trie.expand(merged, np.append(numbers, -1)[node])
        assert [flat[a:b].tolist() for a, b in pairwise(offsets)] == stacks
        kept, number = trie.pruned(merged, np.append(numbers, -1)[node])
        flat, offsets = trie.expand(kept, np.append(number, -1)[np.append(numbers, -1)[node]])
        assert [flat[a:b].tolist() for a, b in pairwise(offsets)] == stacks


@given(STACKS, st.integers(1, 12))
def test_a_tree_too_large_keeps_its_sum_and_its_heaviest(stacks: list[list[int]], limit: int) -> None:
    lengths = np.array([0, *map(len, stacks)], np.int64)
    tree, node = trie.build(np.array([f for stack in stacks for f in stack], np.int64), np.cumsum(lengths))
    values = np.zeros(len(tree.parent) + 1, np.int64)
    np.add.at(values, node, np.arange(1, len(node) + 1))
    (kept, sums, counts), moved = trie.folded(tree, values, values, limit)
    assert len(kept.parent) <= max(limit, 0) or moved == 0
    assert sums.sum() == counts.sum() == values.sum()
    assert (kept.parent < np.arange(len(kept.parent))).all()
    flat, offsets = trie.expand(kept, np.arange(len(kept.parent)))
    whole, starts = trie.expand(tree, np.arange(len(tree.parent)))
    there = {tuple(whole[a:b]) for a, b in pairwise(starts)}
    assert {tuple(flat[a:b]) for a, b in pairwise(offsets)} <= there
    assert (moved == 0) or moved <= values.sum()
