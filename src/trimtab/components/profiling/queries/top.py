"""Tables of a tree: what each function costs itself and in all; one function between its callers and its callees; lines of source."""

from __future__ import annotations

import numpy as np

from trimtab.components.profiling.queries.shapes import Row, SandwichAnswer, Side, TopAnswer
from trimtab.components.profiling.queries.tree import Bools, Ints, Tree, grouped, matching, with_totals


def outermost(tree: Tree, among: Bools | None = None) -> Bools:
    """The nodes that have no other of their function above them: a sample's time counts once, however deep the recursion.
    among: only these are looked at, and count."""
    outer = np.ones(len(tree), np.bool_) if among is None else among.copy()
    nodes = np.flatnonzero(outer)
    above = tree.parent[nodes]
    while nodes.size:
        going = above >= 0
        nodes, above = nodes[going], above[going]
        same = tree.function[above] == tree.function[nodes]
        outer[nodes[same]] = False
        nodes, above = nodes[~same], tree.parent[above[~same]]
    return outer


def function_values(tree: Tree) -> tuple[Ints, Ints]:
    """What each function costs itself, and in all."""
    own, total = np.zeros(len(tree.functions), np.int64), np.zeros(len(tree.functions), np.int64)
    np.add.at(own, tree.function, tree.own)
    outer = outermost(tree)
    np.add.at(total, tree.function[outer], tree.total[outer])
    return own, total


def top(
    tree: Tree, type_: str, unit: str, side: Side | None = None, *, sort: str = "self", limit: int = 0
) -> TopAnswer:
    """The functions (or lines, files, binaries, as the tree was merged) by cost. sort: `self` or `total`; limit: 0 is all."""
    own, total = function_values(tree)
    first, second = (total, own) if sort == "total" else (own, total)
    order = np.lexsort((-second, -first))
    order = order[order != 0]
    side = side or Side(total=0)
    side.total, side.samples = int(tree.total[0]), tree.samples
    rows = [
        Row(function=tree.functions[i], self=int(own[i]), total=int(total[i])) for i in order[: limit or None].tolist()
    ]
    return TopAnswer(type=type_, unit=unit, by=tree.by, side=side, rows=rows, rows_total=len(order))


def sandwich(tree: Tree, pattern: str, type_: str, unit: str, side: Side | None = None) -> SandwichAnswer:
    """The callers and callees of one function, all its places taken together. pattern: its name, or a re2 pattern that is found in
    that of one function alone. Raises `ValueError` when no function, or more than one, has it."""
    wanted = find(tree, pattern)
    roots = np.flatnonzero(outermost(tree, tree.function == wanted))
    callers, callees = _callers(tree, wanted, roots), _callees(tree, wanted, roots)
    side = side or Side(total=0)
    answers = (t.answer(type_, unit, Side(total=0, lost=side.lost, selector=side.selector)) for t in (callers, callees))
    answer = SandwichAnswer(callers=next(answers), callees=next(answers))
    for half in (answer.callers, answer.callees):
        half.side.units = float(tree.total[0])
    return answer


FUNCTIONS_NAMED = 5


def find(tree: Tree, pattern: str) -> int:
    """The function of a name, or else the only one that a pattern is found in. Raises `ValueError`."""
    exact = [i for i, function in enumerate(tree.functions) if i and function.name == pattern]
    found = exact or np.flatnonzero(matching(tree.functions, pattern)).tolist()
    if not found:
        raise ValueError(f"no function has {pattern!r} in its name: `trimtab profile top` tells which there are")
    if len(found) > 1:
        names = ", ".join(tree.functions[i].name for i in found[:FUNCTIONS_NAMED])
        more = f" and {len(found) - FUNCTIONS_NAMED} more" if len(found) > FUNCTIONS_NAMED else ""
        raise ValueError(f"{pattern!r} is in {len(found)} functions ({names}{more}): name one")
    return int(found[0])


def _callees(tree: Tree, wanted: int, roots: Ints) -> Tree:
    """All that is below the roots, the roots laid on each other."""
    below = np.full(len(tree), -1, np.int64)
    below[roots] = 0
    for level in range(1, int(tree.depth[-1]) + 1):
        nodes = slice(*np.searchsorted(tree.depth, (level, level + 1)))
        above = below[tree.parent[nodes]]
        below[nodes] = np.where(above >= 0, above + 1, below[nodes])
    place = np.zeros(len(tree), np.int64)
    levels, size = [(np.array([-1]), np.array([wanted]))], 1
    for level in range(1, int(below.max()) + 1):
        found = np.flatnonzero(below == level)
        parents, functions, inverse = grouped(place[tree.parent[found]], tree.function[found], len(tree.functions))
        place[found] = size + inverse
        levels.append((parents, functions))
        size += len(parents)
    inside = np.flatnonzero(below >= 0)
    own = np.zeros(size, np.int64)
    np.add.at(own, place[inside], tree.own[inside])
    return with_totals(tree.functions, levels, own, tree.by)


def _callers(tree: Tree, wanted: int, roots: Ints) -> Tree:
    """All that is above the roots, turned over: what a node costs itself is of stacks that begin with it."""
    place, above = np.zeros(len(roots), np.int64), tree.parent[roots]
    levels, size = [(np.array([-1]), np.array([wanted]))], 1
    going = np.flatnonzero(above > 0)
    while going.size:
        parents, functions, inverse = grouped(place[going], tree.function[above[going]], len(tree.functions))
        place[going] = size + inverse
        levels.append((parents, functions))
        size += len(parents)
        above[going] = tree.parent[above[going]]
        going = going[above[going] > 0]
    own = np.zeros(size, np.int64)
    np.add.at(own, place, tree.total[roots])
    return with_totals(tree.functions, levels, own, tree.by)
