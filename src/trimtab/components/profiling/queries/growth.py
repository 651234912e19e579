"""Which functions cost more than before, told from the noise of sampling.

A function is named when all of this holds:
1. the lower end of the interval of its growth is above zero. The interval is built of the score intervals of both sides by the method of
   variance estimates recovery: Newcombe, "Interval estimation for the difference between independent proportions" (Statistics in Medicine
   17, 1998, method 10) for shares; for costs per request the same of Poisson score limits (Zou and Donner, Statistics in Medicine 27, 2008);
2. at the level `ALPHA`, divided by the number of functions that were compared (Bonferroni): so of a hundred deploys that change nothing, fewer
   than one is said to have made anything slower;
3. it grew by the threshold or more;
4. in each third of the time after it cost more than on the whole before, and in each third before less than on the whole after: what comes
   and goes by itself is not the deploy's.

It is asked once for each deploy, when there are samples enough: who looks again and again finds something in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.queries.shapes import Function, Grown
from trimtab.components.profiling.queries.top import function_values
from trimtab.components.profiling.queries.tree import Tree, identity

ALPHA = 0.01
GROWN_MAX = 10
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """What was seen on one side, in parts of its time. costs: value by function and part; whole: value by part; samples: how many
    equal samples all of it is worth; requests: served in each part, or None."""

    costs: Floats
    whole: Floats
    samples: float
    requests: Floats | None = None

    @property
    def counts(self) -> Floats:
        """Samples by function."""
        total = float(self.whole.sum())
        counts: Floats = self.costs.sum(axis=1) * (self.samples / total if total else 0.0)
        return counts


def sides(
    before: Sequence[Tree], after: Sequence[Tree], requests: tuple[Sequence[float], Sequence[float]] | None = None
) -> tuple[list[Function], Side, Side]:
    """The functions of trees of parts of both sides, and what each cost in all (its callees too)."""
    known: dict[tuple[str, str, int], int] = {}
    functions: list[Function] = []
    for tree in (*before, *after):
        for function in tree.functions[1:]:
            if known.setdefault(identity(function, tree.by), len(functions)) == len(functions):
                functions.append(function)

    def side(trees: Sequence[Tree], served: Sequence[float] | None) -> Side:
        costs = np.zeros((len(functions), len(trees)))
        for part, tree in enumerate(trees):
            _, total = function_values(tree)
            places = [known[identity(function, tree.by)] for function in tree.functions[1:]]
            np.add.at(costs[:, part], places, total[1:])
        whole = np.array([float(tree.total[0]) for tree in trees])
        return Side(costs, whole, sum(t.samples for t in trees), None if served is None else np.array(served, float))

    return functions, side(before, requests and requests[0]), side(after, requests and requests[1])


def growth(before: Side, after: Side, threshold: float) -> list[tuple[int, float, float, float]]:
    """The functions that grew: number, before, after, least growth; the clearest first. threshold: a part of 1, as all figures are of
    what all cost before (by share: on either side)."""
    if not len(before.costs):
        return []
    z = NormalDist().inv_cdf(1 - ALPHA / len(before.costs))
    per_request = before.requests is not None and after.requests is not None
    old, new = (_rates if per_request else _shares)(before, after)
    lower, upper = (_poisson if per_request else _wilson)(before, after, z)
    least = new - old - np.sqrt((new - lower) ** 2 + (upper - old) ** 2)
    steady = _steady(before, after, old, new)
    found = np.flatnonzero((least > 0) & (new - old >= threshold) & steady)
    # What has grown by the greatest factor is nearest to the cause; its callers have grown by as much, and had more before.
    factor = new[found] / np.maximum(old[found], 1e-9)
    order = found[np.lexsort((-(new - old)[found], -factor))]
    return [(int(i), float(old[i]), float(new[i]), float(least[i])) for i in order]


def named(functions: Sequence[Function], found: Sequence[tuple[int, float, float, float]]) -> list[Grown]:
    """In the shape of an answer."""
    return [
        Grown(function=functions[i], before=old, after=new, least=least, change="" if old else "new")
        for i, old, new, least in found[:GROWN_MAX]
    ]


# Figures: parts of the whole, and their limits


def _shares(before: Side, after: Side) -> tuple[Floats, Floats]:
    return _ratio(before.costs.sum(1), before.whole.sum()), _ratio(after.costs.sum(1), after.whole.sum())


def _rates(before: Side, after: Side) -> tuple[Floats, Floats]:
    """What a function costs for a request, as part of what a request cost before."""
    assert before.requests is not None
    assert after.requests is not None
    one = before.whole.sum() / before.requests.sum()
    return before.costs.sum(1) / before.requests.sum() / one, after.costs.sum(1) / after.requests.sum() / one


def _ratio(values: Floats, whole: float) -> Floats:
    return values / whole if whole else np.zeros_like(values)


def _wilson(before: Side, after: Side, z: float) -> tuple[Floats, Floats]:
    """The lower limit of the share after and the upper one of the share before (Wilson's score interval)."""

    def limit(side: Side, sign: int) -> Floats:
        n, p = side.samples, np.clip(side.counts / side.samples if side.samples else side.counts, 0, 1)
        limits: Floats = (p + z * z / (2 * n) + sign * z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (
            1 + z * z / n
        )
        return limits

    return limit(after, -1), limit(before, 1)


def _poisson(before: Side, after: Side, z: float) -> tuple[Floats, Floats]:
    """The same of costs per request: score limits of a Poisson count."""
    old, new = _rates(before, after)

    def limit(rates: Floats, counts: Floats, sign: int, none: float) -> Floats:
        limits = counts + z * z / 2 + sign * z * np.sqrt(counts + z * z / 4)
        scale: Floats = np.where(counts > 0, rates / np.maximum(counts, 1e-12), none)
        return limits * scale

    # Of what was never seen, what one sample would have been.
    assert before.requests is not None
    one = 1 / before.samples if before.samples else 1.0
    return limit(new, after.counts, -1, 0.0), limit(old, before.counts, 1, one)


def _steady(before: Side, after: Side, old: Floats, new: Floats) -> NDArray[np.bool_]:
    """Whether every part of each side is on its own side of the other's whole."""

    def parts(side: Side) -> Floats:
        if side.requests is None or before.requests is None:
            each: Floats = side.costs / np.maximum(side.whole, 1e-12)
        else:
            one = before.whole.sum() / before.requests.sum()
            each = side.costs / np.maximum(side.requests, 1e-12) / one
        return each

    return np.asarray((parts(after) > old[:, None]).all(1) & (parts(before) < new[:, None]).all(1), np.bool_)
