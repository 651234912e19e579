"""Stacks that were sampled, with their values, become one tree: `merge`, level by level on numpy's arrays.

    stacks of frames --names--> stacks of functions (inlined ones too) --focus, ignore, hide--> level 0, 1, 2 ... --> Tree

Each level is one sort of (node above, function) pairs, so the work is in numpy and follows the number of frames, not of nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.batch import MARKS, Frame
from trimtab.components.profiling.queries.shapes import ROOT, By, Function, Side, TreeAnswer
from trimtab.components.profiling.storage.selection import Stacks

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NODES_MAX = 20_000
"""Nodes in an answer: what a page draws smoothly. The smallest are left out."""


class Line(Protocol):
    """What a symbolizer says of an address: a function, and its place in the source if known."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...


class Named(Protocol):
    """The names of one frame, innermost first: more than one where functions were inlined."""

    @property
    def lines(self) -> Sequence[Line]: ...
    @property
    def reason(self) -> str: ...


class Samples(Protocol):
    """What the storage selects: values by stack, leaf first."""

    @property
    def frames(self) -> Sequence[Frame]: ...
    @property
    def stacks(self) -> Sequence[Sequence[int]]: ...
    @property
    def values(self) -> Ints: ...
    @property
    def counts(self) -> Ints: ...


@dataclass(frozen=True)
class Filter:
    """re2 patterns, looked for in a function's name, file and binary; empty ones filter nothing.

    focus: only stacks with a match. ignore: no stacks with a match. hide: the functions that match are left out of their stacks, and
    what they cost is their callers'. In pprof's words.
    """

    focus: str = ""
    ignore: str = ""
    hide: str = ""


@dataclass(frozen=True, eq=False)
class Tree:
    """Columns by node. Nodes are ordered by depth, so parents come first; node 0 is the root (function 0)."""

    functions: list[Function]
    function: Ints
    parent: Ints
    depth: Ints
    own: Ints
    """What the node itself cost."""
    total: Ints
    """With all below it."""
    by: By = "function"
    samples: float = 0.0
    """How many equal samples would tell as much (Kish's effective sample size), before filters."""
    pruned: int = field(default=0)

    def __len__(self) -> int:
        return len(self.parent)

    def answer(self, type_: str, unit: str, side: Side | None = None, nodes_max: int = NODES_MAX) -> TreeAnswer:
        """The JSON of the tree, of at most so many nodes."""
        tree = prune(self, nodes_max)
        side = side or Side(total=0)
        side.total, side.samples = int(tree.total[0]), tree.samples
        return TreeAnswer(
            type=type_, unit=unit, side=side, functions=tree.functions, function=tree.function.tolist(),
            parent=tree.parent.tolist(), self=tree.own.tolist(), total=tree.total.tolist(), pruned=tree.pruned,
        )  # fmt: skip


def merge(
    selection: Samples,
    names: Sequence[Named],
    *,
    by: By = "function",
    filter: Filter | None = None,
    anonymous: bool = False,
) -> Tree:
    """The tree of a selection. names: of each of its frames. anonymous: functions without a name are one per binary, so that two
    builds can be compared. Raises `ValueError` with one line for a pattern that re2 does not know."""
    functions, starts, counts, flat_functions = _functions(selection.frames, names, by, anonymous)
    walk = _walk(selection.stacks, starts, counts, flat_functions)
    values = np.asarray(selection.values, np.int64)
    walk, values = _filtered(walk, values, functions, filter or Filter())
    if by in ("file", "binary"):
        walk = _without(walk, _repeats(walk))
    tree = _grow(functions, walk, values, by)
    return _compact(tree, _effective(selection))


def _effective(selection: Samples) -> float:
    """Kish's effective sample size, (sum w)^2 / sum w^2, where a stack's samples weigh what they have on average."""
    values, counts = np.asarray(selection.values, float), np.maximum(np.asarray(selection.counts, float), 1.0)
    squares = float((values * values / counts).sum())
    return float(values.sum()) ** 2 / squares if squares else 0.0


# Frames to functions


def _functions(
    frames: Sequence[Frame], names: Sequence[Named], by: By, anonymous: bool
) -> tuple[list[Function], Ints, Ints, Ints]:
    """The distinct functions; and for each frame where its own begin in the last array, and how many they are."""
    known: dict[Function, int] = {ROOT: 0}
    merged: dict[tuple[str, str, int], int] = {identity(ROOT, by): 0}
    functions, found, counts = [ROOT], [], []
    for frame, named in zip(frames, names, strict=True):
        lines = named.lines or (frame,)
        counts.append(len(lines))
        for line in lines:
            function = _function(frame, line, named.reason, by, anonymous)
            number = known.get(function)
            if number is None:
                number = known[function] = merged.setdefault(identity(function, by), len(functions))
                if number == len(functions):
                    functions.append(function)
            found.append(number)
    lengths = np.array(counts, np.int64)
    return functions, np.cumsum(lengths) - lengths, lengths, np.array(found, np.int64)


def _function(frame: Frame, line: Line, reason: str, by: By, anonymous: bool) -> Function:
    kind, binary = frame.kind, ""
    if kind == "native":
        binary = frame.file.rpartition("/")[2] or frame.build_id[:12]
    elif kind in ("kernel", "jit"):
        binary = f"[{kind}]"
    if kind == "mark":
        return Function(f"[{frame.name}]", kind=kind, reason=MARKS.get(frame.name, ""))
    if by == "binary":
        return Function(binary or f"[{kind}]", binary=binary, kind=kind)
    if by == "file":
        return Function(line.file or binary or f"[{kind}]", file=line.file, binary=binary, kind=kind)
    if reason and anonymous and kind == "native":
        return Function(f"[unnamed in {binary}]", binary=binary, kind=kind, reason=reason)
    # A native frame's own file is its binary; only what a symbolizer says is a place in the source.
    file = "" if line is frame and kind == "native" else line.file
    return Function(line.name or f"[unnamed in {binary}]", file, line.line, binary, kind, reason)


def identity(function: Function, by: By) -> tuple[str, str, int]:
    """What makes two functions the same in two builds: native code has its binary, the rest its source file."""
    if by == "line":
        return function.name, f"{function.binary}\0{function.file}", function.line
    return function.name, function.binary or function.file, 0


# Stacks


@dataclass(frozen=True, eq=False)
class _Walk:
    """Stacks on end: of stack i the functions `flat[ends[i] - lengths[i] : ends[i]]`, leaf first."""

    flat: Ints
    lengths: Ints

    @property
    def ends(self) -> Ints:
        return np.cumsum(self.lengths)

    @property
    def stack(self) -> Ints:
        """The number of the stack that each is of."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def _walk(stacks: Sequence[Sequence[int]], starts: Ints, counts: Ints, found: Ints) -> _Walk:
    if isinstance(stacks, Stacks):
        lengths, frames = np.diff(stacks.offsets), stacks.flat
    else:
        lengths = np.fromiter(map(len, stacks), np.int64, len(stacks))
        frames = np.fromiter(chain.from_iterable(stacks), np.int64, int(lengths.sum()))
    many = counts[frames]
    if (many == 1).all():
        return _Walk(found[starts[frames]], lengths)
    within = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
    flat = found[np.repeat(starts[frames], many) + within]
    stack = np.repeat(np.arange(len(lengths)), lengths)
    grown = np.zeros(len(lengths), np.int64)
    np.add.at(grown, stack, many)
    return _Walk(flat, grown)


def _without(walk: _Walk, gone: Bools) -> _Walk:
    """The same stacks without some of their functions."""
    lengths = walk.lengths - np.bincount(walk.stack[gone], minlength=len(walk.lengths))
    return _Walk(walk.flat[~gone], lengths)


def _repeats(walk: _Walk) -> Bools:
    """Which are the same as their caller's."""
    stack, flat = walk.stack, walk.flat
    same = np.zeros(len(flat), np.bool_)
    same[:-1] = (flat[:-1] == flat[1:]) & (stack[:-1] == stack[1:])
    return same


def _filtered(walk: _Walk, values: Ints, functions: list[Function], wanted: Filter) -> tuple[_Walk, Ints]:
    kept = np.ones(len(walk.lengths), np.bool_)
    if wanted.focus:
        kept &= _having(walk, matching(functions, wanted.focus))
    if wanted.ignore:
        kept &= ~_having(walk, matching(functions, wanted.ignore))
    if not kept.all():
        walk, values = _Walk(walk.flat[kept[walk.stack]], walk.lengths[kept]), values[kept]
    if wanted.hide:
        walk = _without(walk, matching(functions, wanted.hide)[walk.flat])
    return walk, values


def matching(functions: Sequence[Function], pattern: str) -> Bools:
    """Which functions a re2 pattern is found in: in the name, file or binary. Never the root."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        search = re2.compile(pattern, options=options).search
    except re2.error as err:
        raise ValueError(f"the pattern {pattern!r} is not one that re2 knows: {_said(err)}") from err
    found = (bool(search(f.name) or search(f.file) or search(f.binary)) for f in functions)
    matches = np.fromiter(found, np.bool_, len(functions))
    matches[0] = False
    return matches


def _said(err: Exception) -> str:
    said = err.args[0] if err.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _having(walk: _Walk, functions: Bools) -> Bools:
    have = np.zeros(len(walk.lengths), np.bool_)
    have[walk.stack[functions[walk.flat]]] = True
    return have


# The tree


def _grow(functions: list[Function], walk: _Walk, values: Ints, by: By) -> Tree:
    ends, lengths, flat = walk.ends, walk.lengths, walk.flat
    node = np.zeros(len(lengths), np.int64)
    columns: list[tuple[Any, Any]] = [(np.array([-1]), np.array([0]))]
    size, depth = 1, 0
    active = np.flatnonzero(lengths)
    while active.size:
        parents, found, inverse = grouped(node[active], flat[ends[active] - 1 - depth], len(functions))
        node[active] = size + inverse
        columns.append((parents, found))
        size, depth = size + len(parents), depth + 1
        active = active[lengths[active] > depth]
    own = np.zeros(size, np.int64)
    np.add.at(own, node, values)
    return with_totals(functions, columns, own, by)


def grouped(above: Ints, functions: Ints, count: int) -> tuple[Ints, Ints, Ints]:
    """The distinct pairs of a node above and a function, and which of them each is."""
    pairs, inverse = np.unique(above * count + functions, return_inverse=True)
    return pairs // count, pairs % count, inverse


def with_totals(functions: list[Function], levels: Sequence[tuple[Ints, Ints]], own: Ints, by: By) -> Tree:
    """The tree of (parent, function) columns level by level."""
    parent, function = (np.concatenate(column).astype(np.int64) for column in zip(*levels, strict=True))
    sizes = [len(parents) for parents, _ in levels]
    depth = np.repeat(np.arange(len(sizes)), sizes)
    return Tree(functions, function, parent, depth, own, summed(parent, sizes, own), by)


def summed(parent: Ints, sizes: Sequence[int], own: Ints) -> Ints:
    """Totals: what is below is added, the deepest level first."""
    total, end = own.copy(), len(own)
    for size in reversed(sizes[1:]):
        np.add.at(total, parent[end - size : end], total[end - size : end])
        end -= size
    return total


T = TypeVar("T", bound=Tree)


def _compact(tree: Tree, samples: float) -> Tree:
    """Without the functions that no node has."""
    used, renumbered = np.unique(tree.function, return_inverse=True)
    functions = [tree.functions[i] for i in used.tolist()]
    return Tree(functions, renumbered, tree.parent, tree.depth, tree.own, tree.total, tree.by, samples)


def kept_nodes(parent: Ints, weight: NDArray[Any], nodes_max: int) -> Ints:
    """The nodes to keep, in their order: those of the greatest weight (which no child exceeds its parent in), and the root."""
    if len(parent) <= nodes_max:
        return np.arange(len(parent))
    order = np.argsort(-weight, kind="stable")[:nodes_max]
    return np.sort(order)


def prune(tree: Tree, nodes_max: int) -> Tree:
    """The tree of at most so many nodes: the smallest are gone, and still in the totals above them."""
    kept = kept_nodes(tree.parent, tree.total, nodes_max)
    if len(kept) == len(tree):
        return tree
    place = np.full(len(tree) + 1, -1, np.int64)
    place[kept] = np.arange(len(kept))
    used, renumbered = np.unique(tree.function[kept], return_inverse=True)
    functions = [tree.functions[i] for i in used.tolist()]
    return Tree(
        functions, renumbered, place[tree.parent[kept]], tree.depth[kept], tree.own[kept], tree.total[kept], tree.by,
        tree.samples, len(tree) - len(kept),
    )  # fmt: skip
