"""Samples in columns, whatever they were read from: what a batch file becomes, and what of several parts becomes one.

A batch is read in two steps: first what is small (labels, types, samples), and its frames and stacks only when a query wants some of
its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from trimtab.components.profiling.batch import Frame, Sample, SampleType, content
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

    frames: list[msgspec.Raw]
    stacks: list[list[int]]


T = TypeVar("T")

_NONE = np.empty(0, np.int64)
NODES_MAX = 400_000
"""Of an answer; twenty times what is drawn of a tree."""

_HEAD = msgspec.msgpack.Decoder(Head)
_BODY = msgspec.msgpack.Decoder(Body)
_FRAME = msgspec.msgpack.Decoder(Frame)


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
        try:
            self._data = content(path)
        except ValueError as err:
            raise Damaged(str(err)) from err
        self.head = self._decoded(_HEAD)
        try:
            table = np.array([(s.type, s.labels, s.stack, s.value, s.count) for s in self.head.samples], np.int64)
        except OverflowError as err:
            raise self.damage("a number of more than 64 bits") from err
        self.samples = Samples(*np.ascontiguousarray(table.reshape(-1, 5).T))
        self._check("type", self.samples.type, len(self.head.types))
        self._check("labels", self.samples.labels, len(self.head.labels))

    def stacks(self, wanted: Ints) -> tuple[list[msgspec.Raw], Ints, Ints]:
        """Its frames; some of its stacks one after the other, as indexes into them; where each begins, and the last ends."""
        body = self._decoded(_BODY)
        self._check("stack", wanted, len(body.stacks))
        stacks = [body.stacks[index] for index in wanted.tolist()]
        flat = np.array(list(chain.from_iterable(stacks)), np.int64)
        self._check("frame", flat, len(body.frames))
        return body.frames, flat, np.cumsum([0, *map(len, stacks)], dtype=np.int64)

    def damage(self, why: object) -> Damaged:
        return Damaged(f"{self.path}: not a batch of samples ({why}): delete it")

    def _decoded(self, decoder: msgspec.msgpack.Decoder[T]) -> T:
        try:
            return decoder.decode(self._data)
        except (msgspec.MsgspecError, OverflowError) as err:
            raise self.damage(err) from err

    def _check(self, what: str, indexes: Ints, length: int) -> None:
        if len(indexes) and (indexes.min() < 0 or indexes.max() >= length):
            raise self.damage(f"a {what} that it does not have")


Row = tuple[Any, ...]
"""The fields of a `Frame`."""


class Frames(NamedTuple):
    """Frames in columns: most are addresses of few places. Of the frames that many hours share a `Frame` is made in the end."""

    places: Sequence[Row]
    """All fields but the address."""
    place: Ints
    address: NDArray[np.uint64]

    @classmethod
    def of(cls, frames: Iterable[Row]) -> Frames:
        places = Interned[Row]()
        split = [(places.number(frame[:-1]), frame[-1]) for frame in frames]
        return cls(
            places.items,
            np.array([place for place, _ in split], np.int64),
            np.array([address for _, address in split], np.uint64),
        )

    def some(self, numbers: Ints) -> Frames:
        return Frames(self.places, self.place[numbers], self.address[numbers])

    def frames(self) -> list[Frame]:
        places = self.places
        return [
            Frame(*(*places[place], address))
            for place, address in zip(self.place.tolist(), self.address.tolist(), strict=True)
        ]


def together(parts: Sequence[Frames]) -> tuple[Frames, list[Ints]]:
    """The frames of several, each once, and for each the numbers there of its own."""
    known = Interned[Row]()
    place = np.concatenate([known.map(part.places)[part.place] for part in parts if len(part.places)] or [_NONE])
    address = np.concatenate([part.address for part in parts])
    addresses, at = np.unique(address, return_inverse=True)
    keys, number = np.unique(place << 32 | at, return_inverse=True)
    ends = np.cumsum([len(part.place) for part in parts], dtype=np.int64)
    return Frames(known.items, keys >> 32, addresses[keys & 0xFFFFFFFF]), np.split(number, ends[:-1])


class Piece(Struct, frozen=True):
    """What a part of the store answers to a query: values by stack."""

    frames: Frames
    trie: Trie
    values: Ints
    """By node of `trie`; the last is of the empty stack."""
    counts: Ints
    merged: int
    """Values that stand at a caller of theirs, for want of room."""


def summed(node: Ints, amounts: Ints, nodes: int) -> Ints:
    """The sum of `amounts` by node, exact; the last is of node -1."""
    sums = np.zeros(nodes + 1, np.int64)
    np.add.at(sums, node, amounts)
    return sums


class Interned(Generic[T]):
    """Things numbered by what they are."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}

    @property
    def items(self) -> list[T]:
        """By their numbers."""
        return list(self._numbers)

    def map(self, things: Iterable[T]) -> Ints:
        """The number of each of these."""
        numbers, number = self._numbers, self._numbers.setdefault
        return np.array([number(thing, len(numbers)) for thing in things], np.int64)

    def number(self, thing: T) -> int:
        return self._numbers.setdefault(thing, len(self._numbers))


class Gathered:
    """Stacks of many batches, built into one tree at the end. A frame is decoded when its bytes are first seen."""

    def __init__(self) -> None:
        self.frames = Interned[Frame]()
        self._seen: dict[bytes, int] = {}
        self._flats: list[Ints] = []
        self._lengths: list[Ints] = []
        self._made = 0

    def add(self, opened: Opened, stacks: Ints) -> Ints:
        """Takes some stacks of a batch; the number here of each. Raises `Damaged`, having taken none."""
        unique, inverse = np.unique(stacks, return_inverse=True)
        frames, flat, offsets = opened.stacks(unique)
        used, at = np.unique(flat, return_inverse=True)
        try:
            numbers = np.array([self._number(frames[index]) for index in used.tolist()], np.int64)
        except msgspec.MsgspecError as err:
            raise opened.damage(err) from err
        self._flats.append(numbers[at])
        self._lengths.append(np.diff(offsets))
        first, self._made = self._made, self._made + len(unique)
        return first + inverse

    def build(self) -> tuple[Trie, Ints]:
        """The tree, and the node of each stack that was taken."""
        empty = [np.empty(0, np.int64)]
        lengths = np.concatenate(empty + self._lengths)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return trie.build(np.concatenate(empty + self._flats), offsets)

    def _number(self, raw: msgspec.Raw) -> int:
        encoded = bytes(raw)
        if (number := self._seen.get(encoded)) is None:
            number = self._seen[encoded] = self.frames.number(_FRAME.decode(encoded))
        return number


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
                stacks.append(gathered.add(opened, samples.stack))
            except Damaged as err:
                refused(err)
                continue
            values.append(samples.value)
            counts.append(samples.count)
    tree, nodes = gathered.build()
    node = nodes[np.concatenate(stacks)]
    made = len(tree.parent)
    return Piece(
        Frames.of(map(msgspec.structs.astuple, gathered.frames.items)),
        tree,
        summed(node, np.concatenate(values), made),
        summed(node, np.concatenate(counts), made),
        0,
    )


def joined(pieces: Sequence[Piece]) -> Piece:
    """The sum of pieces, of `NODES_MAX` nodes at most."""
    pieces = [piece for piece in pieces if piece.values.any() or piece.counts.any()] or pieces[:1]
    if len(pieces) == 1:
        return pieces[0]
    frames, numbers = together([piece.frames for piece in pieces])
    # Levels stay in place, but siblings are no longer in the order of their frames, which `merge` does not need.
    tries = [Trie(piece.trie.parent, of[piece.trie.frame]) for piece, of in zip(pieces, numbers, strict=True)]
    tree, values, counts = trie.together(tries, [piece.values for piece in pieces], [piece.counts for piece in pieces])
    (tree, values, counts), moved = trie.folded(tree, values, counts, NODES_MAX)
    used, frame = np.unique(tree.frame, return_inverse=True)
    return Piece(
        frames.some(used),
        Trie(tree.parent, frame),
        values,
        counts,
        moved + sum(piece.merged for piece in pieces),
    )
