"""Samples in columns, whatever they were read from: what a batch file becomes, and what of several parts becomes one.

A batch is read in two steps: first what is small (labels, types, samples), and its frames and stacks only when a query wants some of
its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from trimtab.components.profiling.batch import BATCH_BYTES_MAX, Frame, Sample, SampleType
from trimtab.components.profiling.storage import trie
from trimtab.components.profiling.storage.trie import Ints, Trie


class Damaged(ValueError):
    """A file of the store that cannot be read; one line."""


class Head(Struct, frozen=True, kw_only=True):
    """A `Batch` without its frames and stacks."""

    start: int
    source: str
    types: list[SampleType]
    labels: list[dict[str, str]]
    samples: list[Sample]
    lost: dict[str, int] = {}


class Body(Struct, frozen=True, kw_only=True):
    """Frames and stacks of a `Batch`."""

    frames: list[Frame]
    stacks: list[list[int]]


T = TypeVar("T")

_HEAD = msgspec.msgpack.Decoder(Head)
_BODY = msgspec.msgpack.Decoder(Body)


class Samples(Struct, frozen=True):
    """Samples of one batch in columns, with the indexes of that batch."""

    type: Ints
    labels: Ints
    stack: Ints
    value: Ints
    count: Ints

    def where(self, wanted: NDArray[np.bool_]) -> Samples:
        return Samples(
            self.type[wanted], self.labels[wanted], self.stack[wanted], self.value[wanted], self.count[wanted]
        )


class Opened:
    """A batch file, of which no more is decoded than is asked. Raises `OSError`; `Damaged` when it is no batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if (size := path.stat().st_size) > BATCH_BYTES_MAX:
            raise Damaged(f"{path}: {size} bytes, more than the {BATCH_BYTES_MAX} of a batch")
        self._data = path.read_bytes()
        self.head = self._decoded(_HEAD)
        try:
            table = np.array([(s.type, s.labels, s.stack, s.value, s.count) for s in self.head.samples], np.int64)
        except OverflowError as err:
            raise Damaged(f"{path}: not a batch of samples (a number of more than 64 bits)") from err
        self.samples = Samples(*np.ascontiguousarray(table.reshape(-1, 5).T))
        self._check("type", self.samples.type, len(self.head.types))
        self._check("labels", self.samples.labels, len(self.head.labels))

    def stacks(self) -> tuple[list[Frame], Ints, Ints]:
        """Its frames; its stacks one after the other, as indexes into them; where each begins, and the last ends."""
        body = self._decoded(_BODY)
        lengths = np.fromiter(map(len, body.stacks), np.int64, len(body.stacks))
        flat = np.fromiter((frame for stack in body.stacks for frame in stack), np.int64, int(lengths.sum()))
        self._check("frame", flat, len(body.frames))
        self._check("stack", self.samples.stack, len(body.stacks))
        return body.frames, flat, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    def _decoded(self, decoder: msgspec.msgpack.Decoder[T]) -> T:
        try:
            return decoder.decode(self._data)
        except (msgspec.MsgspecError, OverflowError) as err:
            raise Damaged(f"{self.path}: not a batch of samples ({err})") from err

    def _check(self, what: str, indexes: Ints, length: int) -> None:
        if len(indexes) and (indexes.min() < 0 or indexes.max() >= length):
            raise Damaged(f"{self.path}: not a batch of samples (a {what} that it does not have)")


class Piece(Struct, frozen=True):
    """What a part of the store answers to a query: values by stack."""

    frames: Sequence[Frame]
    trie: Trie
    values: Ints
    """By node of `trie`; the last is of the empty stack."""
    counts: Ints


def summed(node: Ints, amounts: Ints, nodes: int) -> Ints:
    """The sum of `amounts` by node, exact; the last is of node -1."""
    sums = np.zeros(nodes + 1, np.int64)
    np.add.at(sums, node, amounts)
    return sums


class Interned(Generic[T]):
    """Things numbered by what they are."""

    def __init__(self) -> None:
        self.items: list[T] = []
        self._numbers: dict[T, int] = {}

    def map(self, things: Sequence[T]) -> Ints:
        """The number of each of these."""
        numbers = self._numbers
        for thing in things:
            if thing not in numbers:
                numbers[thing] = len(numbers)
                self.items.append(thing)
        return np.fromiter(map(numbers.__getitem__, things), np.int64, len(things))


class Gathered:
    """Stacks of many batches, built into one tree at the end."""

    def __init__(self) -> None:
        self.frames = Interned[Frame]()
        self._flats: list[Ints] = []
        self._lengths: list[Ints] = []
        self._made = 0

    def add(self, opened: Opened) -> Ints:
        """Takes the stacks of a batch; the number here of each of its stacks."""
        frames, flat, offsets = opened.stacks()
        self._flats.append(self.frames.map(frames)[flat] if len(frames) else flat)
        self._lengths.append(np.diff(offsets))
        first, self._made = self._made, self._made + len(offsets) - 1
        return np.arange(first, self._made, dtype=np.int64)

    def build(self) -> tuple[Trie, Ints]:
        """The tree, and the node of each stack that was taken."""
        empty = [np.empty(0, np.int64)]
        lengths = np.concatenate(empty + self._lengths)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return trie.build(np.concatenate(empty + self._flats), offsets)


def of_batches(
    batches: Sequence[Opened], wanted: Callable[[Opened], Samples], refused: Callable[[Damaged], None]
) -> Piece:
    """The samples that are wanted of some batches, summed by stack. A batch whose stacks cannot be read is refused, and left out."""
    gathered = Gathered()
    stacks, values, counts = ([np.empty(0, np.int64)] for _ in range(3))
    for opened in batches:
        samples = wanted(opened)
        if len(samples.stack):
            try:
                stacks.append(gathered.add(opened)[samples.stack])
            except Damaged as err:
                refused(err)
                continue
            values.append(samples.value)
            counts.append(samples.count)
    tree, nodes = gathered.build()
    node = nodes[np.concatenate(stacks)]
    kept, number = trie.pruned(tree, node)
    node = np.where(node >= 0, number[node], -1) if len(number) else node
    made = len(kept.parent)
    return Piece(
        gathered.frames.items,
        kept,
        summed(node, np.concatenate(values), made),
        summed(node, np.concatenate(counts), made),
    )


def joined(pieces: Sequence[Piece]) -> Piece:
    """The sum of pieces."""
    if len(pieces) == 1:
        return pieces[0]
    numbered = Interned[Frame]()
    tries = []
    for piece in pieces:
        numbers = numbered.map(piece.frames)
        # Levels stay in place, but siblings are no longer in the order of their frames, which `merge` does not need.
        tries.append(Trie(piece.trie.parent, numbers[piece.trie.frame] if len(numbers) else piece.trie.frame))
    tree, maps = trie.merge(tries)
    values, counts = (np.zeros(len(tree.parent) + 1, np.int64) for _ in range(2))
    for piece, nodes in zip(pieces, maps, strict=True):
        at = np.append(nodes, -1)
        values[at] += piece.values
        counts[at] += piece.counts
    return Piece(numbered.items, tree, values, counts)
