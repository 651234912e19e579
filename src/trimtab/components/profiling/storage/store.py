"""The profiles of a machine: what asks and what writes meet here.

append(batch) -> a file in incoming/            durable at once
select, series, labels <- incoming/ and hours/  what was asked, summed by stack
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trimtab.components.profiling.batch import TIME_S, Batch, Frame, SampleType, incoming, write
from trimtab.components.profiling.storage import trie
from trimtab.components.profiling.storage.part import Opened, Piece, Samples, joined, of_batches
from trimtab.components.profiling.storage.selection import Query, Selection, Series, Stacks
from trimtab.components.profiling.storage.selector import Matcher, matches, parse
from trimtab.components.profiling.storage.trie import Ints

log = logging.getLogger(__name__)

STEPS_MAX = 20_000
"""Steps of a series: 55 hours by 10 seconds."""


class Profiles:
    """Profiles under `root`. Queries read what is there when they begin and hold no file open; several processes may write and ask."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def append(self, batch: Batch) -> None:
        """Keeps a batch: durable when this returns. Raises `OSError` (a full disk), keeping nothing of it."""
        write(self.root, batch)

    def select(self, query: Query) -> Selection:
        """The samples of a query, summed by stack. Raises `ValueError` with one line when it cannot be understood."""
        matchers, (start, end) = parse(query.selector), _bounds(query)
        batches, lost = self._batches(start, end)
        kind = chosen(query.type, [kind for opened in batches for kind in opened.head.types])
        piece = joined([of_batches(batches, _wanted(kind, matchers), lambda err: _unreadable(err, lost))])
        return _selection(kind, start, end, piece, lost)

    def series(self, query: Query, step_s: int) -> Series:
        """The sum of a query's samples by steps of `step_s` seconds, a multiple of `TIME_S`. Raises `ValueError` like `select`."""
        matchers, (start, end) = parse(query.selector), _bounds(query)
        steps = _steps(start, end, step_s)
        values, counts = np.zeros(steps, np.int64), np.zeros(steps, np.int64)
        batches, _ = self._batches(start, end)
        kind = chosen(query.type, [kind for opened in batches for kind in opened.head.types])
        wanted = _wanted(kind, matchers)
        for opened in batches:
            samples, at = wanted(opened), (opened.head.start - start) // step_s
            values[at] += samples.value.sum()
            counts[at] += samples.count.sum()
        return Series(type=kind.name, unit=kind.unit, start=start, step_s=step_s, values=values, counts=counts)

    def totals(self, query: Query, label: str) -> dict[str, int]:
        """The sum of a query's samples by the values of a label; of those without it, by the empty text. Raises `ValueError` like
        `select`."""
        matchers, (start, end) = parse(query.selector), _bounds(query)
        batches, _ = self._batches(start, end)
        wanted = _wanted(chosen(query.type, [kind for opened in batches for kind in opened.head.types]), matchers)
        found: dict[str, int] = {}
        for opened in batches:
            samples = wanted(opened)
            for number in np.unique(samples.labels).tolist():
                value = opened.head.labels[number].get(label, "")
                found[value] = found.get(value, 0) + int(samples.value[samples.labels == number].sum())
        return found

    def labels(self, start: int, end: int) -> dict[str, list[str]]:
        """The names of all labels of a stretch of time, and the values of each."""
        found: dict[str, set[str]] = {}
        for opened in self._batches(*_bounds(Query(start=start, end=end)))[0]:
            for labels in opened.head.labels:
                for name, value in labels.items():
                    found.setdefault(name, set()).add(value)
        return {name: sorted(found[name]) for name in sorted(found)}

    def types(self, start: int, end: int) -> list[SampleType]:
        """What is counted in a stretch of time."""
        batches, _ = self._batches(*_bounds(Query(start=start, end=end)))
        return sorted(
            {kind for opened in batches for kind in opened.head.types}, key=lambda kind: (kind.name, kind.unit)
        )

    def _batches(self, start: int, end: int) -> tuple[list[Opened], dict[str, int]]:
        found: list[Opened] = []
        lost: dict[str, int] = {}
        for path in sorted(incoming(self.root).glob("*.batch")):
            if not start <= _start_of(path) < end:
                continue
            try:
                opened = Opened(path)
            except FileNotFoundError:  # rolled up meanwhile
                continue
            except ValueError as err:
                _unreadable(err, lost)
                continue
            found.append(opened)
            _add(lost, opened.head.lost)
        return found, lost


def chosen(asked: str, kinds: list[SampleType]) -> SampleType:
    """The sample type that a query means. Raises `ValueError` when a name is kept in two units."""
    name, _, unit = asked.partition(":")
    found = sorted({kind.unit for kind in kinds if kind.name == name and (not unit or kind.unit == unit)})
    if len(found) > 1:
        raise ValueError(
            f"{name} is kept in {' and '.join(found)}: ask for {' or '.join(f'{name}:{u}' for u in found)}"
        )
    return SampleType(name, found[0] if found else unit)


def _wanted(kind: SampleType, matchers: list[Matcher]) -> Callable[[Opened], Samples]:
    def wanted(opened: Opened) -> Samples:
        head, samples = opened.head, opened.samples
        types = np.array([other == kind for other in head.types], bool)
        labels = np.array([matches(matchers, one) for one in head.labels], bool)
        if not len(samples.type):
            return samples
        return samples.where(types[samples.type] & labels[samples.labels])

    return wanted


def _selection(kind: SampleType, start: int, end: int, piece: Piece, lost: dict[str, int]) -> Selection:
    nodes = np.flatnonzero((piece.values != 0) | (piece.counts != 0))
    values, counts = piece.values[nodes], piece.counts[nodes]
    nodes = np.where(nodes == len(piece.trie.parent), -1, nodes)
    flat, offsets = trie.expand(piece.trie, nodes)
    used, flat = np.unique(flat, return_inverse=True)
    frames: list[Frame] = [piece.frames[index] for index in used.tolist()]
    return Selection(
        type=kind.name,
        unit=kind.unit,
        start=start,
        end=end,
        frames=frames,
        stacks=Stacks(flat, offsets),
        values=values,
        counts=counts,
        total=int(values.sum()),
        lost=lost,
    )


def _bounds(query: Query) -> tuple[int, int]:
    start = query.start - query.start % TIME_S
    if query.end <= query.start:
        raise ValueError(f"end {query.end} is not after start {query.start}: give a stretch of time")
    return start, query.end


def _steps(start: int, end: int, step_s: int) -> int:
    if step_s <= 0 or step_s % TIME_S:
        raise ValueError(f"step of {step_s} s: give a multiple of {TIME_S} s")
    if (steps := -((start - end) // step_s)) > STEPS_MAX:
        raise ValueError(f"{steps} steps, more than {STEPS_MAX}: give a longer step")
    return steps


def _start_of(path: Path) -> int:
    digits = path.name.partition("-")[0]
    return int(digits) if digits.isdecimal() else -1


def _unreadable(err: ValueError, lost: dict[str, int]) -> None:
    log.warning("%s", err)
    _add(lost, {"unreadable": 1})


def _add(into: dict[str, int], more: dict[str, int]) -> None:
    for reason, count in more.items():
        into[reason] = into.get(reason, 0) + count


__all__ = ["Ints", "Profiles", "Query", "Selection", "Series", "Stacks", "chosen"]
