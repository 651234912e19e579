"""Who is asked for alone stands alone in a segment: the samples and stacks of one service are a stretch of rows, so that a question about
it reads no others.

    label sets --by app, or executable--> groups, the largest first; what is small shares the last
    samples, nodes and edges of each group one after the other; frames are the segment's
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from trimtab.components.profiling.storage.trie import Ints, Trie

if TYPE_CHECKING:
    from trimtab.components.profiling.storage.segment import Columns

GROUPS_MAX = 48
"""Beyond that a group is a few samples, and a question about everything has as many trees to join."""
_NODE = (1 << 32) - 1
_FRAME_BITS = 28
"""Of a frame's number, so that a group's and two frames' fit in 64 bits; a segment of `rollup.MERGED_BYTES_MAX` has a thousandth of so many."""


class Group(Struct, frozen=True, array_like=True):
    """How many rows of each table are its own; they follow those of the groups before it."""

    samples: int
    nodes: int
    edges: int
    sets: int


class Rows(Struct, frozen=True):
    """The rows of a group: from, until."""

    samples: tuple[int, int]
    nodes: tuple[int, int]
    edges: tuple[int, int]
    sets: tuple[int, int]


def rows(groups: Sequence[Group]) -> list[Rows]:
    """Where each group's rows are."""
    ranges = [
        list(pairwise(accumulate((getattr(group, name) for group in groups), initial=0)))
        for name in ("samples", "nodes", "edges", "sets")
    ]
    return [Rows(*ranges_of_one) for ranges_of_one in zip(*ranges, strict=True)]


def runs(wanted: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours together: the first, and the one after the last."""
    edges = [at for at, (a, b) in enumerate(pairwise(wanted), 1) if b != a + 1]
    bounds = [0, *edges, len(wanted)]
    return [(wanted[a], wanted[b - 1] + 1) for a, b in pairwise(bounds) if b > a]


class Grouped(NamedTuple):
    """What the tables of samples, nodes and edges say."""

    columns: Columns
    """Its label sets and nodes are numbered anew, these from 0 in each group; `tree` has the groups' trees one after the other."""
    call: Ints
    """Of each node the place of its frame among all that its parent's frame calls in its group."""
    caller: Ints
    callee: Ints
    groups: list[Group]


def grouped(columns: Columns) -> Grouped:
    """The same samples by group; a node that several groups have is in each."""
    samples = columns.samples
    group_of, number = _of_sets(columns.labels, samples["labels"])
    groups = int(group_of.max(initial=-1)) + 1
    group = group_of[samples["labels"]]
    keys = _keys(columns.tree, group, samples["node"])
    node, of = keys & _NODE, keys >> 32
    above = columns.tree.parent[node]
    parent = np.where(above >= 0, np.searchsorted(keys, of << 32 | np.maximum(above, 0)), -1)
    at = np.searchsorted(keys, group << 32 | np.maximum(samples["node"], 0))
    starts = np.searchsorted(keys, np.arange(groups) << 32)
    frame = columns.tree.frame[node]
    calls, edge = _edges(of, np.where(parent >= 0, frame[parent], -1), frame)
    made = msgspec.structs.replace(
        columns,
        labels=[columns.labels[index] for index in np.argsort(number).tolist()],
        tree=Trie(np.where(parent >= 0, parent - starts[of], -1), frame),
        samples=samples
        | {"labels": number[samples["labels"]], "node": np.where(samples["node"] >= 0, at - starts[group], -1)},
    )
    counts = [np.bincount(array, minlength=groups).tolist() for array in (group, of, calls.group, group_of)]
    first = np.searchsorted(calls.key, calls.key >> _FRAME_BITS << _FRAME_BITS)
    call = (np.arange(len(calls.key)) - first)[edge]
    return Grouped(made, call, calls.caller, calls.callee, [Group(*four) for four in zip(*counts, strict=True)])


class _Calls(NamedTuple):
    key: Ints
    group: Ints
    caller: Ints
    callee: Ints


def _edges(group: Ints, caller: Ints, callee: Ints) -> tuple[_Calls, Ints]:
    """Who calls whom in each group, once, in order; and which of them each of these is."""
    key, edge = np.unique(((group << _FRAME_BITS) + caller + 1) << _FRAME_BITS | callee, return_inverse=True)
    mask = (1 << _FRAME_BITS) - 1
    return _Calls(key, key >> 2 * _FRAME_BITS, (key >> _FRAME_BITS & mask) - 1, key & mask), edge


def _of_sets(labels: Sequence[dict[str, str]], used: Ints) -> tuple[Ints, Ints]:
    """The group of each label set, and its number when sets stand by group."""
    names: dict[tuple[str, str], int] = {}
    service = np.array([names.setdefault(_service(one), len(names)) for one in labels], np.int64)
    weight = np.bincount(service[used], minlength=len(names))
    place = np.empty(len(names), np.int64)
    place[np.argsort(-weight, kind="stable")] = np.arange(len(names))
    group = np.minimum(place[service], GROUPS_MAX - 1) if len(service) else service
    number = np.empty(len(group), np.int64)
    number[np.argsort(group, kind="stable")] = np.arange(len(group))
    return group, number


def _service(labels: dict[str, str]) -> tuple[str, str]:
    """By what somebody asks for a program."""
    app = labels.get("app")
    return (labels.get("namespace", ""), app) if app else ("", labels.get("process", ""))


def _keys(tree: Trie, group: Ints, node: Ints) -> Ints:
    """Each node of each group's stacks once, in order: the group, and the node in the lower 32 bits."""
    known = np.unique((group << 32 | np.maximum(node, 0))[node >= 0])
    found, levels = [], tree.levels()
    place = known & _NODE
    above = np.empty(0, np.int64)
    for start, end in reversed(levels):
        here = np.union1d(known[(place >= start) & (place < end)], above)
        found.append(here)
        above = np.unique((here >> 32) << 32 | np.maximum(tree.parent[here & _NODE], 0))
    return np.sort(np.concatenate([np.empty(0, np.int64), *found]))
