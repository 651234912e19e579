"""The profiles of a machine: what asks and what writes meet here.

append(batch) -> a file in incoming/            durable at once
select, series, labels <- incoming/ and hours/  what was asked, summed by stack
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from trimtab.components.profiling.batch import TIME_S, Batch, SampleType
from trimtab.components.profiling.storage import trie
from trimtab.components.profiling.storage.arrivals import keep
from trimtab.components.profiling.storage.contents import Done, contents
from trimtab.components.profiling.storage.gauges import GAUGES, Latest
from trimtab.components.profiling.storage.part import Damaged, Opened, Piece, Samples, joined, of_batches
from trimtab.components.profiling.storage.retention import retain
from trimtab.components.profiling.storage.rollup import roll_up
from trimtab.components.profiling.storage.segment import HOUR_S, Choice, LabelTable, Mask, Segment
from trimtab.components.profiling.storage.selection import Query, Selection, Series, Stacks
from trimtab.components.profiling.storage.selector import Matcher, matches, parse
from trimtab.components.profiling.storage.trie import Ints

T = TypeVar("T")

log = logging.getLogger(__name__)

RETRIES_MAX = 5
"""A roll-up deletes once in minutes what a query reads in less than a second."""
JOIN_NODES_MAX = 600_000
"""Nodes of hours that are joined at once, some hundred bytes each while they are."""
STEPS_MAX = 20_000
"""Steps of a series: 55 hours by 10 seconds."""


class Profiles:
    """Profiles under `root`. Queries read what is there when they begin and hold no file open; several processes may write and ask."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def append(self, batch: Batch) -> None:
        """Keeps a batch: durable when this returns. Raises `OSError` (a full disk with nothing to drop), keeping nothing of it."""
        keep(self.root, batch)

    def select(self, query: Query) -> Selection:
        """The samples of a query, summed by stack. Raises `ValueError` with one line when it cannot be understood."""
        return self._steady(lambda: self._select(query, parse(query.selector), *_bounds(query)))

    def series(self, query: Query, step_s: int) -> Series:
        """The sum of a query's samples by steps of `step_s` seconds, a multiple of `TIME_S`. Raises `ValueError` like `select`."""
        start, end = _bounds(query)
        steps = _steps(start, end, step_s)
        return self._steady(lambda: self._series(query, parse(query.selector), start, end, step_s, steps))

    def totals(self, query: Query, label: str) -> dict[str, int]:
        """The sum of a query's samples by the values of a label; of those without it, by the empty text. Raises `ValueError` like
        `select`."""
        return self._steady(lambda: self._totals(query, parse(query.selector), *_bounds(query), label))

    def labels(self, start: int, end: int) -> dict[str, list[str]]:
        """The names of all labels of a stretch of time (of the hours that it touches), and the values of each."""
        return self._steady(lambda: self._labels(*_bounds(Query(start=start, end=end))))

    def types(self, start: int, end: int) -> list[SampleType]:
        """What is counted in a stretch of time."""
        there = self._steady(lambda: self._there(*_bounds(Query(start=start, end=end))))
        return sorted(set(there.kinds()), key=lambda kind: (kind.name, kind.unit))

    def roll_up(self, now: float) -> Done:
        """See `rollup.py`."""
        return roll_up(self.root, now)

    def retain(self, now: float, seconds: int, max_bytes: int) -> Done:
        """See `retention.py`."""
        return retain(self.root, now, seconds, max_bytes)

    def _select(self, query: Query, matchers: list[Matcher], start: int, end: int) -> Selection:
        there = self._there(start, end)
        choice, wanted = _choice(there, query, matchers, start, end, end - start)
        pieces = [of_batches(there.batches, wanted, there.refused)]
        nodes = 0
        for segment in there.segments:
            with there.damaged():
                pieces.append(segment.piece(choice))
                nodes += len(pieces[-1].trie.parent)
            if nodes > JOIN_NODES_MAX:
                pieces, nodes = [joined(pieces)], 0
        return _selection(choice.kind, start, end, joined(pieces), there.lost)

    def _series(self, query: Query, matchers: list[Matcher], start: int, end: int, step_s: int, steps: int) -> Series:
        there = self._there(start, end)
        choice, wanted = _choice(there, query, matchers, start, end, step_s)
        values, counts = np.zeros(steps, np.int64), np.zeros(steps, np.int64)
        for opened in there.batches:
            samples, at = wanted(opened), (opened.head.start - start) // step_s
            values[at] += samples.value.sum()
            counts[at] += samples.count.sum()
        for segment in there.segments:
            with there.damaged():
                if (found := segment.steps(choice)) is not None:
                    step = (found["time"] * TIME_S - start) // step_s
                    np.add.at(values, step, found["value"])
                    np.add.at(counts, step, found["count"])
        kind = choice.kind
        return Series(type=kind.name, unit=kind.unit, start=start, step_s=step_s, values=values, counts=counts)

    def _totals(self, query: Query, matchers: list[Matcher], start: int, end: int, label: str) -> dict[str, int]:
        there = self._there(start, end)
        choice, wanted = _choice(there, query, matchers, start, end, end - start)
        found = dict[str, int]()
        for opened in there.batches:
            samples = wanted(opened)
            for number in np.unique(samples.labels).tolist():
                value = opened.head.labels[number].get(label, "")
                _add(found, {value: int(samples.value[samples.labels == number].sum())})
        for segment in there.segments:
            with there.damaged():
                _add(found, segment.totals(choice, label))
        return found

    def _labels(self, start: int, end: int) -> dict[str, list[str]]:
        there = self._there(start, end)
        found: dict[str, set[str]] = {}
        for opened in there.batches:
            for labels in opened.head.labels:
                for name, value in labels.items():
                    found.setdefault(name, set()).add(value)
        for segment in there.segments:
            with there.damaged():
                for name, values in segment.labels().values().items():
                    found.setdefault(name, set()).update(values)
        return {name: sorted(found[name]) for name in sorted(found)}

    def _there(self, start: int, end: int) -> _There:
        found = contents(self.root)
        there = _There([], [])
        for _, error in found.damaged:
            there.refused(error)
        for path in found.batches:
            if start <= _start_of(path) < end:
                with there.damaged():
                    there.batches.append(Opened(path))
        touched = [
            segment
            for hour, segments in sorted(found.segments.items())
            if hour < end and start < hour + HOUR_S
            for segment in segments
        ]
        # Who asks for the last minutes alone needs none, and not what reads them.
        there.segments += [
            one for one in touched if one.about.first * TIME_S < end and start <= one.about.last * TIME_S
        ]
        for opened in there.batches:
            _add(there.lost, opened.head.lost)
        for segment in touched:
            for lost in segment.about.lost:
                if start <= lost.time * TIME_S < end:
                    _add(there.lost, {lost.reason: lost.count})
        return there

    def _steady(self, ask: Callable[[], T]) -> T:
        """Asks again when a roll-up took away what was about to be read."""
        for _ in range(RETRIES_MAX):
            with suppress(FileNotFoundError):
                return ask()
        return ask()


class _There:
    """What is there of a stretch of time, and what was lost of it."""

    def __init__(self, batches: list[Opened], segments: list[Segment]) -> None:
        self.batches, self.segments = batches, segments
        self.lost: dict[str, int] = {}

    def kinds(self) -> list[SampleType]:
        batches = [kind for opened in self.batches for kind in opened.head.types]
        return batches + [kind for segment in self.segments for kind in segment.about.types]

    def refused(self, error: Damaged) -> None:
        log.warning("%s", error)
        _add(self.lost, {"unreadable": 1})

    @contextmanager
    def damaged(self) -> Iterator[None]:
        """Passes over what is damaged, and counts it."""
        try:
            yield
        except Damaged as err:
            self.refused(err)


def chosen(asked: str, kinds: list[SampleType]) -> SampleType:
    """The sample type that a query means. Raises `ValueError` when a name is kept in two units."""
    name, _, unit = asked.partition(":")
    found = sorted({kind.unit for kind in kinds if kind.name == name and (not unit or kind.unit == unit)})
    if len(found) > 1:
        raise ValueError(
            f"{name} is kept in {' and '.join(found)}: ask for {' or '.join(f'{name}:{u}' for u in found)}"
        )
    return SampleType(name, found[0] if found else unit)


def _choice(
    there: _There, query: Query, matchers: list[Matcher], start: int, end: int, step_s: int
) -> tuple[Choice, Callable[[Opened], Samples]]:
    """Which samples are asked for, of segments and of batches. Of a gauge each target's last in every step."""
    kind = chosen(query.type, there.kinds())
    wanted, choice = _wanted(kind, matchers), Choice(kind, _accepted(matchers), start, end)
    if kind.name not in GAUGES:
        return choice, wanted
    latest = Latest(start, step_s)

    def times(opened: Opened, samples: Samples) -> Ints:
        return np.full(len(samples.labels), opened.head.start // TIME_S, np.int64)

    def last(opened: Opened) -> Samples:
        samples = wanted(opened)
        return samples.where(latest.keep(times(opened, samples), samples.labels, opened.head.labels))

    for opened in there.batches:
        samples = wanted(opened)
        latest.see(times(opened, samples), samples.labels, opened.head.labels)
    for segment in there.segments:
        with there.damaged():
            segment.see(choice, latest)
    return choice._replace(latest=latest), last


def _wanted(kind: SampleType, matchers: list[Matcher]) -> Callable[[Opened], Samples]:
    def wanted(opened: Opened) -> Samples:
        head, samples = opened.head, opened.samples
        types = np.array([other == kind for other in head.types], bool)
        labels = np.array([matches(matchers, one) for one in head.labels], bool)
        if not len(samples.type):
            return samples
        return samples.where(types[samples.type] & labels[samples.labels])

    return wanted


def _accepted(matchers: list[Matcher]) -> Callable[[LabelTable], Mask]:
    def accepted(table: LabelTable) -> Mask:
        mask = np.ones(table.length, bool)
        for matcher in matchers:
            mask &= table.accepted(matcher.label, matcher.accepts)
        return mask

    return accepted


def _selection(kind: SampleType, start: int, end: int, piece: Piece, lost: dict[str, int]) -> Selection:
    nodes = np.flatnonzero((piece.values != 0) | (piece.counts != 0))
    values, counts = piece.values[nodes], piece.counts[nodes]
    nodes = np.where(nodes == len(piece.trie.parent), -1, nodes)
    used, frame = np.unique(piece.trie.frame, return_inverse=True)
    flat, offsets = trie.expand(trie.Trie(piece.trie.parent, frame), nodes)
    return Selection(
        type=kind.name,
        unit=kind.unit,
        start=start,
        end=end,
        frames=piece.frames.some(used).frames(),
        stacks=Stacks(flat, offsets),
        values=values,
        counts=counts,
        total=int(values.sum()),
        merged=piece.merged,
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


def _add(into: dict[str, int], more: dict[str, int]) -> None:
    for reason, count in more.items():
        into[reason] = into.get(reason, 0) + count


__all__ = ["Profiles", "Query", "Selection", "Series", "Stacks", "chosen"]
