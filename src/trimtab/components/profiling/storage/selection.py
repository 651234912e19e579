"""What is asked of the store, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from trimtab.components.profiling.batch import Frame
from trimtab.components.profiling.storage.trie import Ints


class Query(Struct, frozen=True, kw_only=True):
    """Samples of one type, of a stretch of time, of some labels."""

    type: str = "cpu"
    """The name of a sample type, or `name:unit` where a name is kept in two units."""
    start: int
    """Unix seconds; known to `batch.TIME_S`, so rounded down to it."""
    end: int
    """The first second that is not asked."""
    selector: str = ""
    """See `selector.py`."""


class Stacks(Sequence[tuple[int, ...]]):
    """Stacks of indexes into `Selection.frames`, leaf first: a sequence of tuples that are made when looked at.
    For passes over all of them: stack `i` is `flat[offsets[i]:offsets[i + 1]]`."""

    def __init__(self, flat: NDArray[np.int32], offsets: Ints) -> None:
        self.flat = flat
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | list[tuple[int, ...]]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"stack {index} of {len(self)}")
        return tuple(self.flat[self.offsets[at] : self.offsets[at + 1]].tolist())

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return (self[at] for at in range(len(self)))


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The samples of a query, summed by stack."""

    type: str
    unit: str
    """In pprof's words: nanoseconds, bytes, count."""
    start: int
    end: int
    frames: list[Frame]
    stacks: Stacks
    values: Ints
    """The sum of each stack, in `unit`."""
    counts: Ints
    """How many events each is of."""
    total: int
    merged: int = 0
    """How much of `total` stands at a caller of where it was, because so large a query has more stacks than memory is given for: the
    lightest, each less than a 200,000th of an hour."""
    lost: dict[str, int]
    """Samples of that time that were not kept, by reason, of whatever labels they would have had."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of a query's samples, by steps of time."""

    type: str
    unit: str
    start: int
    step_s: int
    values: Ints
    """Of [start + i * step_s, start + (i + 1) * step_s)."""
    counts: Ints
