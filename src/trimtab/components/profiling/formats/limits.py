"""What a decoder takes at most of what strangers send, and how it makes a batch within that."""

from __future__ import annotations

import zlib
from typing import TypeVar

import numpy as np

from trimtab.components.profiling.batch import TIME_S, Batch, Frame, Sample, SampleType
from trimtab.components.profiling.storage.trie import Ints

DECODED_BYTES_MAX = 64 << 20
"""After gunzip: a profile of a very large program has some MB."""
ROWS_MAX = 300_000
"""Rows of any table: samples, locations, functions, stacks."""
TEXTS_MAX = 500_000
PACKED_BYTES_MAX = 8 << 20
"""Numbers of all stacks together: 10,000 stacks of 25 are half a MB. Each byte is some 40 while they are decoded."""
REFERENCES_MAX = 4_000_000
"""Frames of all stacks together, functions that were inlined counted."""
DEPTH_MAX = 1024
"""Frames of a stack; what is further from the leaf is cut, and marked so."""
TEXT_MAX = 1024
"""Characters of a name or a path; C++ has names longer than is of use."""
LABELS_MAX = 64
LABEL_MAX = 256
"""Characters of a label's value."""
FUTURE_S = 60
"""A profile from further ahead than this has a wrong clock, and counts as of now."""

TRUNCATED = Frame(kind="mark", name="truncated")


T = TypeVar("T")


def append(rows: list[T], row: T, limit: int, what: str) -> None:
    """Adds a row to a table. Raises `ValueError` when it is full."""
    if len(rows) >= limit:
        raise ValueError(f"more than {limit} {what}: send a shorter profile")
    rows.append(row)


def unpacked(body: bytes) -> bytes:
    """What is in a gzip, or the bytes as they are. Raises `ValueError` when that is too much, or damaged."""
    if not body.startswith(b"\x1f\x8b"):
        data = body
    else:
        inflate = zlib.decompressobj(wbits=31)
        try:
            data = inflate.decompress(body, DECODED_BYTES_MAX + 1)
        except zlib.error as err:
            raise ValueError(f"gzip: {err}") from err
        if len(data) <= DECODED_BYTES_MAX and not inflate.eof:
            raise ValueError("gzip: ends too early")
    if len(data) > DECODED_BYTES_MAX:
        raise ValueError(f"more than {DECODED_BYTES_MAX >> 20} MiB when unpacked: send a shorter profile")
    return data


def start_of(nanoseconds: int, now: int) -> int:
    """The start of a batch. What has no time, or one ahead of ours, is of now."""
    seconds = nanoseconds // 1_000_000_000
    if not 0 < seconds <= now + FUTURE_S:
        seconds = now
    return seconds - seconds % TIME_S


class Stacks:
    """Stacks of places, each of which is one frame or, where functions were inlined, several."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._numbers: dict[Frame, int] = {}
        self._places: list[list[int]] = []

    def place(self, frames: list[Frame]) -> None:
        """The next place; its frames, innermost first."""
        self._places.append([self._number(frame) for frame in frames[:DEPTH_MAX]])

    def __len__(self) -> int:
        return len(self._places)

    def expanded(self, flat: Ints, counts: Ints) -> list[list[int]]:
        """Stacks of places as stacks of frames, leaf first. Raises `ValueError` when they are too many."""
        widths = np.fromiter(map(len, self._places), np.int64, len(self._places))
        if len(flat) and int(widths[flat].sum()) > REFERENCES_MAX:
            raise ValueError(f"more than {REFERENCES_MAX} frames in all stacks: send a shorter profile")
        ends = np.cumsum(counts).tolist()
        places, numbers, found, at = self._places, flat.tolist(), [], 0
        plain = bool((widths == 1).all())
        single = [place[0] for place in places] if plain else []
        for end in ends:
            if plain:
                stack = [single[number] for number in numbers[at:end]]
            else:
                stack = [frame for number in numbers[at:end] for frame in places[number]]
            at = end
            if len(stack) > DEPTH_MAX:
                stack = [*stack[: DEPTH_MAX - 1], self._number(TRUNCATED)]
            found.append(stack)
        return found

    def _number(self, frame: Frame) -> int:
        if (number := self._numbers.get(frame)) is None:
            number = self._numbers[frame] = len(self.frames)
            self.frames.append(frame)
        return number


class Labels:
    """Label sets, numbered by what they are."""

    def __init__(self, given: dict[str, str]) -> None:
        self.sets: list[dict[str, str]] = []
        self._given = given
        self._numbers: dict[frozenset[tuple[str, str]], int] = {}

    def number(self, own: dict[str, str]) -> int:
        """The number of a sample's own labels with those that the whole profile was given, which win."""
        kept = {name: value[:LABEL_MAX] for name, value in list(own.items())[:LABELS_MAX]} | self._given
        key = frozenset(kept.items())
        if (number := self._numbers.get(key)) is None:
            number = self._numbers[key] = len(self.sets)
            self.sets.append(kept)
        return number


def counting(types: list[SampleType]) -> list[int]:
    """For each type the one that says of how many events it is: itself when its unit is count, else the last of that unit before it
    (samples and cpu, alloc_objects and alloc_space), or -1."""
    found, last = [], -1
    for index, kind in enumerate(types):
        if kind.unit == "count":
            last = index
        found.append(last)
    return found


def batch(
    start: int, source: str, types: list[SampleType], labels: Labels, stacks: Stacks, expanded: list[list[int]],
    values: list[list[int]], sets: list[int], lost: dict[str, int],
    events: list[int] | None = None
) -> Batch:  # fmt: skip
    """A batch of stacks with a value for each type; `values`, `sets` and `events` are by stack. Without `events`, another type says of how
    many events a value is (`counting`)."""
    counts = counting(types)
    samples = []
    for stack, (row, own) in enumerate(zip(values, sets, strict=True)):
        for kind, value in enumerate(row):
            if value:
                many = events[stack] if events else row[counts[kind]] if counts[kind] >= 0 else 1
                samples.append(Sample(kind, own, stack, value, max(1, many)))
    return Batch(
        start=start,
        source=source,
        types=types,
        labels=labels.sets,
        frames=stacks.frames,
        stacks=expanded,
        samples=samples,
        lost=lost,
    )
