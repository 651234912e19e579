"""Stacks as the tree that they share: each node is a frame called by its parent, and a stack is the node of its leaf.

Two stacks are the same when they end in the same node, so nothing is compared by hashes that might collide. Nodes stand level by level
from the roots, within a level ordered by parent: `parent` never falls, and a parent stands before its children. All passes are by level,
vectorized, linear in the nodes but for sorting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Trie(NamedTuple):
    parent: Ints
    """-1 at a root."""
    frame: Ints

    def levels(self) -> list[tuple[int, int]]:
        """The range of nodes of each level."""
        found: list[tuple[int, int]] = []
        start, end = 0, int(np.searchsorted(self.parent, 0))
        while end > start:
            found.append((start, end))
            start, end = end, int(np.searchsorted(self.parent, end))
        return found


EMPTY = Trie(np.empty(0, np.int64), np.empty(0, np.int64))


def build(flat: Ints, offsets: Ints) -> tuple[Trie, Ints]:
    """The tree of stacks that are given leaf first, one after the other, and the node of each. An empty stack is node -1."""
    lengths = np.diff(offsets)
    node = np.full(len(lengths), -1, np.int64)
    parents, frames, made = [EMPTY.parent], [EMPTY.frame], 0
    active = np.flatnonzero(lengths)
    depth = 0
    while len(active):
        keys = (node[active] + 1 << 32) | flat[offsets[active + 1] - 1 - depth]
        unique, inverse = np.unique(keys, return_inverse=True)
        parents.append((unique >> 32) - 1)
        frames.append(unique & 0xFFFFFFFF)
        node[active] = made + inverse
        made += len(unique)
        depth += 1
        active = active[lengths[active] > depth]
    return Trie(np.concatenate(parents), np.concatenate(frames)), node


def merge(tries: Sequence[Trie]) -> tuple[Trie, list[Ints]]:
    """One tree of several whose frames are numbered alike, and for each the node there of each of its nodes."""
    sizes = [len(trie.parent) for trie in tries]
    bases = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
    parent = np.concatenate([EMPTY.parent, *(trie.parent + base for trie, base in zip(tries, bases, strict=False))])
    frame = np.concatenate([EMPTY.frame, *(trie.frame for trie in tries)])
    depth = np.concatenate([np.empty(0, np.int16), *(_depths(trie) for trie in tries)])
    order = np.argsort(depth, kind="stable")
    parents, frames, made = [EMPTY.parent], [EMPTY.frame], 0
    number = np.empty(len(parent), np.int64)
    start = 0
    for level, size in enumerate(np.bincount(depth).tolist()):
        here = order[start : start + size]
        above = number[parent[here]] + 1 if level else np.zeros(size, np.int64)
        unique, inverse = np.unique(above << 32 | frame[here], return_inverse=True)
        number[here] = made + inverse
        parents.append((unique >> 32) - 1)
        frames.append(unique & 0xFFFFFFFF)
        made += len(unique)
        start += size
    return Trie(np.concatenate(parents), np.concatenate(frames)), np.split(number, bases[1:-1]) if tries else []


def together(tries: Sequence[Trie], values: Sequence[Ints], counts: Sequence[Ints]) -> tuple[Trie, Ints, Ints]:
    """Trees as one, with their values and counts by node (the last is of node -1) summed."""
    if len(tries) == 1:
        return tries[0], values[0], counts[0]
    tree, maps = merge(tries)
    sums = []
    for parts in (values, counts):
        total = np.zeros(len(tree.parent) + 1, np.int64)
        for nodes, amounts in zip(maps, parts, strict=True):
            total[np.append(nodes, -1)] += amounts
        sums.append(total)
    return tree, sums[0], sums[1]


def _depths(trie: Trie) -> NDArray[np.int16]:
    sizes = [end - start for start, end in trie.levels()]
    return np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)


def pruned(trie: Trie, leaves: Ints) -> tuple[Trie, Ints]:
    """The tree of some nodes and what is above them alone, and the new number of each old node, -1 of those that went."""
    keep = np.zeros(len(trie.parent), bool)
    keep[leaves[leaves >= 0]] = True
    for start, end in reversed(trie.levels()[1:]):
        keep[trie.parent[start:end][keep[start:end]]] = True
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    above = trie.parent[keep]
    return Trie(np.where(above >= 0, number[above], -1), trie.frame[keep]), number


def expand(trie: Trie, nodes: Ints) -> tuple[NDArray[np.int32], Ints]:
    """The frames of the stacks that end in these nodes, leaf first, one after the other; and where each begins, and the last ends."""
    depth = np.zeros(len(trie.parent) + 1, np.int64)  # the last is that of node -1
    for level, (start, end) in enumerate(trie.levels()):
        depth[start:end] = level + 1
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(depth[nodes])])
    flat = np.empty(int(offsets[-1]), np.int32)
    at, node = offsets[:-1].copy(), nodes.copy()
    active = np.flatnonzero(node >= 0)
    while len(active):
        here = node[active]
        flat[at[active]] = trie.frame[here]
        at[active] += 1
        node[active] = trie.parent[here]
        active = active[node[active] >= 0]
    return flat, offsets


def folded(trie: Trie, values: Ints, counts: Ints, limit: int) -> tuple[tuple[Trie, Ints, Ints], int]:
    """A tree of about `limit` nodes at most: the lightest, with all that is above them counted to each, are taken into the node above.
    With the values and counts by node (the last is of node -1), and how much of the values moved."""
    nodes = len(trie.parent)
    if nodes <= limit:
        return (trie, values, counts), 0
    levels = trie.levels()
    weight = np.abs(values)
    for start, end in reversed(levels[1:]):
        np.add.at(weight, trie.parent[start:end], weight[start:end])
    bound = np.partition(weight[:nodes], nodes - limit)[nodes - limit]
    keep = weight[:nodes] > bound
    home = np.where(keep, np.arange(nodes), trie.parent)
    for start, end in levels[1:]:
        home[start:end] = np.where(keep[start:end], home[start:end], home[trie.parent[start:end]])
    number = np.append(np.where(keep, np.cumsum(keep) - 1, -1), -1)
    at = number[np.append(home, -1)]
    made = int(keep.sum())
    sums = []
    for amounts in (values, counts):
        total = np.zeros(made + 1, np.int64)
        np.add.at(total, at, amounts)
        sums.append(total)
    moved = int(np.abs(values[:nodes][~keep]).sum())
    return (Trie(number[trie.parent[keep]], trie.frame[keep]), sums[0], sums[1]), moved
