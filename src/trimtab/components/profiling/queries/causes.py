"""Of the functions that grew those to name: a function whose growth is that of a named one below it is only on the way there.

    main 100 % -> 115 %    serve 90 % -> 105 %    digest 10 % -> 25 %        named: digest

Callers that grew by nearly as much as the first, in proportion, are named as well: when a function calls another more often than before, both
grow alike, and the cause is the caller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.components.profiling.queries.shapes import Function
from trimtab.components.profiling.queries.top import outermost
from trimtab.components.profiling.queries.tree import Bools, Tree, identity, summed

NEAR = 0.7
LOOKED_AT_MAX = 40
"""Each further function is a pass over the trees."""

Found = tuple[int, float, float, float]
"""Number of a function; before, after, least growth."""


def causes(
    functions: Sequence[Function],
    before: Sequence[Tree],
    after: Sequence[Tree],
    found: Sequence[Found],
    scales: tuple[float, float],
    threshold: float,
) -> list[Found]:
    """The functions to name, in the order of `found`, which is by the factor of growth. scales: what a value is multiplied by to be a part, before and after."""
    kept: list[Found] = []
    # What is called costs no more than its callers, so it comes before them.
    for one in sorted(found[:LOOKED_AT_MAX], key=lambda one: one[2]):
        if _factor(one) >= NEAR * _factor(found[0]):
            kept.append(one)
            continue
        wanted, named = functions[one[0]], [functions[number] for number, *_ in kept]
        old, new = (
            scale * sum(_without(tree, wanted, named) for tree in trees)
            for scale, trees in zip(scales, (before, after), strict=True)
        )
        if new - old >= threshold:
            kept.append(one)
    return sorted(kept, key=found.index)


def _factor(found: Found) -> float:
    return found[2] / found[1] if found[1] else float("inf")


def _without(tree: Tree, wanted: Function, named: Sequence[Function]) -> int:
    """What a function costs in all, without what the named ones below (or above) it do."""
    gone = _below(tree, _are(tree, named))
    own = np.where(gone, 0, tree.own)
    total = summed(tree.parent, np.bincount(tree.depth).tolist(), own)
    return int(total[outermost(tree, _are(tree, [wanted]))].sum())


def _are(tree: Tree, functions: Sequence[Function]) -> Bools:
    """The nodes that are one of these functions."""
    wanted = {identity(function, tree.by) for function in functions}
    which = np.fromiter((identity(f, tree.by) in wanted for f in tree.functions), np.bool_, len(tree.functions))
    return np.asarray(which[tree.function], np.bool_)


def _below(tree: Tree, nodes: Bools) -> Bools:
    """These nodes and all below them."""
    inside = nodes.copy()
    for level in range(1, int(tree.depth[-1]) + 1):
        here = slice(*np.searchsorted(tree.depth, (level, level + 1)))
        inside[here] |= inside[tree.parent[here]]
    return inside
