"""Two trees on one: `diff`. What is in one alone is new or vanished, never a growth without end.

A value of one side can be compared with the other's once each is divided by its side's units: its total (shares), the requests that
were served meanwhile, or the seconds it covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.components.profiling.queries.shapes import By, DiffAnswer, DiffRow, Function, Per, Side, TopDiffAnswer
from trimtab.components.profiling.queries.top import function_values
from trimtab.components.profiling.queries.tree import (
    NODES_MAX,
    Bools,
    Ints,
    Tree,
    grouped,
    identity,
    kept_nodes,
    summed,
)


@dataclass(frozen=True, eq=False)
class DiffTree:
    """Columns by node, as in `Tree`, for both sides."""

    functions: list[Function]
    function: Ints
    parent: Ints
    depth: Ints
    before: Tree
    """On the nodes of this tree."""
    after: Tree
    per: Per
    before_units: float
    after_units: float

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def new(self) -> Bools:
        return np.equal(self.before.total, 0)

    @property
    def vanished(self) -> Bools:
        return np.equal(self.after.total, 0)

    def answer(self, type_: str, unit: str, before: Side, after: Side, nodes_max: int = NODES_MAX) -> DiffAnswer:
        """The JSON of the diff, of at most so many nodes: those that cost most on either side."""
        weight = np.maximum(self.before.total / self.before_units, self.after.total / self.after_units)
        kept = kept_nodes(self.parent, weight, nodes_max)
        place = np.full(len(self) + 1, -1, np.int64)
        place[kept] = np.arange(len(kept))
        used, renumbered = np.unique(self.function[kept], return_inverse=True)
        fill_sides(self, before, after)
        return DiffAnswer(
            type=type_, unit=unit, per=self.per, before=before, after=after,
            functions=[self.functions[i] for i in used.tolist()], function=renumbered.tolist(),
            parent=place[self.parent[kept]].tolist(),
            before_self=self.before.own[kept].tolist(), before_total=self.before.total[kept].tolist(),
            after_self=self.after.own[kept].tolist(), after_total=self.after.total[kept].tolist(),
            pruned=len(self) - len(kept),
        )  # fmt: skip


def diff(
    before: Tree, after: Tree, *, per: Per = "total", before_units: float = 0.0, after_units: float = 0.0
) -> DiffTree:
    """The two on one tree. units: the requests served or the seconds covered; of `total`, nothing has to be said.
    Raises `ValueError` when they are of different things, or units are missing."""
    if before.by != after.by:
        raise ValueError(f"a tree by {before.by} and one by {after.by} cannot be compared")
    if per == "total":
        before_units, after_units = float(before.total[0]), float(after.total[0])
    elif before_units <= 0 or after_units <= 0:
        raise ValueError(f"a diff per {per} needs how many {per}s each side covers")
    functions, ours, theirs = _together(before, after)
    parent, function, sizes, nodes_before, nodes_after = _weave(before, ours, after, theirs, len(functions))
    depth = np.repeat(np.arange(len(sizes)), sizes)

    def side(tree: Tree, nodes: Ints) -> Tree:
        own = np.zeros(len(parent), np.int64)
        own[nodes] = tree.own
        total = summed(parent, sizes, own)
        return Tree(functions, function, parent, depth, own, total, tree.by, tree.samples, tree.pruned)

    sides = side(before, nodes_before), side(after, nodes_after)
    return DiffTree(functions, function, parent, depth, *sides, per, before_units or 1.0, after_units or 1.0)


def _together(before: Tree, after: Tree) -> tuple[list[Function], Ints, Ints]:
    """One list of functions, and where each tree's own are in it. What is said of a function is what the later says."""
    known: dict[tuple[str, str, int], int] = {}
    functions: list[Function] = []
    places: list[Any] = []
    for tree in (before, after):
        place = []
        for function in tree.functions:
            number = known.setdefault(identity(function, tree.by), len(functions))
            if number == len(functions):
                functions.append(function)
            functions[number] = function
            place.append(number)
        places.append(np.array(place, np.int64))
    return functions, places[0], places[1]


def _weave(before: Tree, ours: Ints, after: Tree, theirs: Ints, count: int) -> tuple[Ints, Ints, list[int], Ints, Ints]:
    """Parent and function of each node of both, the size of each level, and where each tree's nodes are."""
    place_before, place_after = np.zeros(len(before), np.int64), np.zeros(len(after), np.int64)
    parents, functions, sizes, size = [np.array([-1])], [np.array([0])], [1], 1
    for level in range(1, int(max(before.depth[-1], after.depth[-1])) + 1):
        mine = slice(*np.searchsorted(before.depth, (level, level + 1)))
        other = slice(*np.searchsorted(after.depth, (level, level + 1)))
        above = np.concatenate((place_before[before.parent[mine]], place_after[after.parent[other]]))
        found = np.concatenate((ours[before.function[mine]], theirs[after.function[other]]))
        parent, function, inverse = grouped(above, found, count)
        split = mine.stop - mine.start
        place_before[mine], place_after[other] = size + inverse[:split], size + inverse[split:]
        parents.append(parent)
        functions.append(function)
        sizes.append(len(parent))
        size += len(parent)
    return np.concatenate(parents), np.concatenate(functions), sizes, place_before, place_after


def fill_sides(tree: DiffTree, before: Side, after: Side) -> None:
    """Writes what the trees know into the sides of an answer."""
    for side, of, units in ((before, tree.before, tree.before_units), (after, tree.after, tree.after_units)):
        side.total, side.samples, side.units = int(of.total[0]), of.samples, units


def top_diff(
    tree: DiffTree, type_: str, unit: str, before: Side, after: Side, *, sort: str = "total", limit: int = 0
) -> TopDiffAnswer:
    """The functions by how much they changed, what grew most first. sort: `self` or `total`; limit: 0 is all."""
    fill_sides(tree, before, after)
    own_before, total_before = function_values(tree.before)
    own_after, total_after = function_values(tree.after)
    a, b = (own_after, own_before) if sort == "self" else (total_after, total_before)
    change = a / tree.after_units - b / tree.before_units
    order = np.argsort(-np.abs(change), kind="stable")
    order = order[order != 0]
    rows = [
        DiffRow(
            function=tree.functions[i], before_self=int(own_before[i]), before_total=int(total_before[i]),
            after_self=int(own_after[i]), after_total=int(total_after[i]),
            change="new" if not total_before[i] else "" if total_after[i] else "vanished",
        )
        for i in order[: limit or None].tolist()
    ]  # fmt: skip
    return TopDiffAnswer(
        type=type_, unit=unit, by=tree.before.by, per=tree.per, before=before, after=after, rows=rows,
        rows_total=len(order),
    )  # fmt: skip


__all__ = ["By", "DiffTree", "diff", "top_diff"]
