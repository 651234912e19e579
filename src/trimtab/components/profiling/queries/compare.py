"""What the image that an App got costs, beside the one before it: view=compare of the endpoint `query`.

    totals by image --> which two          series --> thirds of each side's time, by samples
    select 3 + 3 --merge--> trees --growth.py--> the functions that grew

The start of a program (imports, caches that fill) is no part of the comparison, and what an image did while the next was being rolled out
neither. With the requests that the proxy counted by the minute the costs are per request, of whole minutes; else they are shares of the
App's own CPU time. What the Python interpreter does for a function is the function's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.components.profiling.batch import TIME_S
from trimtab.components.profiling.naming import INTERPRETERS, Symbolizer
from trimtab.components.profiling.queries.causes import causes
from trimtab.components.profiling.queries.growth import growth, named, scales, sides
from trimtab.components.profiling.queries.shapes import CompareAnswer, Comparison, Side
from trimtab.components.profiling.queries.tree import Filter, Ints, Tree, merge
from trimtab.components.profiling.storage.selection import Query
from trimtab.components.profiling.storage.store import Profiles

BEFORE_S = 6 * 3600
"""How far back the image before is looked at."""
START_S = 60
"""So long a new image's samples are those of its start."""
SAMPLES = 1_500
"""Of the new image; there are no more of the one before to wait for. With so many on both sides a function that had a tenth of the time and
takes twice as long is found in 98 of 100 deploys."""
PATIENCE_S = 3600
"""After that, what there is has to do, if it is `min_samples` on both sides."""
PATIENCE_MAX_S = 24 * 3600
PARTS = 3
MINUTE_S = 60
Floats = NDArray[np.float64]
Stretch = tuple[int, int]
"""Unix seconds from, and until."""


def comparison(parameters: Mapping[str, str]) -> Comparison:
    """What a query string asks. Raises `ValueError` with one line."""
    try:
        return msgspec.convert(dict(parameters), Comparison, strict=False)
    except msgspec.ValidationError as err:
        raise ValueError(f"the query is not understood: {err}") from err


def compare(asked: Comparison, profiles: Profiles, symbolizer: Symbolizer, now: int) -> CompareAnswer:
    """Raises `ValueError` with one line."""
    whose = f"namespace={_quoted(asked.namespace)},app={_quoted(asked.app)}"
    back = asked.since - BEFORE_S
    old = _image(profiles, whose, asked.before_image, back, asked.since)
    new = _image(profiles, whose, asked.after_image, asked.since, now)
    patient = now - asked.since < PATIENCE_MAX_S
    if not old or not new or old == new:
        state = "same-image" if old and old == new and now - asked.since > PATIENCE_S else "waiting"
        return CompareAnswer(state=state if patient else "too-few", before_image=old, after_image=new)  # type: ignore[arg-type]
    before, after = f"{whose},image={_quoted(old)}", f"{whose},image={_quoted(new)}"
    began = _first(profiles, after, back, now)
    ended = min(began, asked.since)
    minutes = _minutes(asked)
    stretches = (_first(profiles, before, back, ended), ended), (began + START_S, now)
    if known := _known(asked, minutes, stretches):
        stretches = known
    windows = _Window(profiles, before, *stretches[0]), _Window(profiles, after, *stretches[1])
    samples = [int(window.counts.sum()) for window in windows]
    told = [
        Side(total=0, samples=n, start=w.start, end=w.end, selector=w.selector)
        for n, w in zip(samples, windows, strict=True)
    ]
    answer = CompareAnswer(state="waiting", before_image=old, after_image=new, before=told[0], after=told[1])
    impatient = now - asked.since >= PATIENCE_S
    if min(samples) < asked.min_samples or (samples[1] < SAMPLES and not impatient):
        answer.state = "waiting" if patient else "too-few"
        return answer
    return _compared(answer, windows, symbolizer, asked, minutes if known else None)


def _minutes(asked: Comparison) -> Floats:
    """Requests by the minute."""
    try:
        return np.array([int(count) for count in asked.requests.split(",") if count], float)
    except ValueError:
        raise ValueError("requests are whole numbers with commas between") from None


def _known(asked: Comparison, minutes: Floats, stretches: tuple[Stretch, Stretch]) -> tuple[Stretch, Stretch] | None:
    """The whole minutes of each side whose requests are known: samples and requests are of the same time, or a request seems dearer than it
    is. Of the side after there may be none yet. None when they are not known of the side before."""
    if not asked.requests_start:
        return None
    first, last = asked.requests_start, asked.requests_start + MINUTE_S * len(minutes)
    before, after = (
        (max(first, -(-start // MINUTE_S) * MINUTE_S), min(last, end - end % MINUTE_S)) for start, end in stretches
    )
    return (before, after) if before[1] > before[0] else None


@dataclass(frozen=True)
class _Window:
    """Samples of one image in a stretch of time."""

    profiles: Profiles
    selector: str
    start: int
    end: int

    @property
    def counts(self) -> Ints:
        if self.end - self.start < TIME_S:
            return np.zeros(1, np.int64)
        return self.profiles.series(self._query(self.start, self.end), TIME_S).counts

    def parts(self) -> list[tuple[int, int]]:
        """Stretches of about as many samples each."""
        sums = np.cumsum(self.counts)
        first = self.start - self.start % TIME_S
        cuts = [int(np.searchsorted(sums, sums[-1] * part / PARTS)) + 1 for part in range(1, PARTS)]
        edges = [first, *(first + TIME_S * cut for cut in cuts), self.end]
        return [(a, b) for a, b in pairwise(edges) if b > a]

    def tree(self, start: int, end: int, symbolizer: Symbolizer) -> Tree:
        selection = self.profiles.select(self._query(start, end))
        names, wanted = symbolizer.names(selection.frames), Filter(hide=INTERPRETERS)
        return merge(selection, names, filter=wanted, anonymous=True)

    def _query(self, start: int, end: int) -> Query:
        return Query(start=start, end=end, selector=self.selector)


def _compared(
    answer: CompareAnswer,
    windows: tuple[_Window, _Window],
    symbolizer: Symbolizer,
    asked: Comparison,
    minutes: Floats | None,
) -> CompareAnswer:
    """minutes: the requests, when they are known of all of the windows."""
    parts = [window.parts() for window in windows]
    trees = [[w.tree(*part, symbolizer) for part in each] for w, each in zip(windows, parts, strict=True)]
    served = _served(asked, minutes, windows[0].profiles, parts) if minutes is not None else None
    functions, before, after = sides(trees[0], trees[1], served)
    answer.state, answer.functions = "compared", len(functions)
    for side, found in ((answer.before, before), (answer.after, after)):
        side.total, side.samples = int(found.whole.sum()), found.samples
        side.units = float(side.total if found.requests is None else found.requests.sum())
    if served is not None:
        answer.per = "request"
        answer.cost_before, answer.cost_after = (s.total / s.units for s in (answer.before, answer.after))
    threshold = asked.threshold_percent / 100
    grew = causes(functions, trees[0], trees[1], growth(before, after, threshold), scales(before, after), threshold)
    answer.grown = named(functions, grew)
    return answer


def _served(
    asked: Comparison, minutes: Floats, profiles: Profiles, parts: Sequence[Sequence[Stretch]]
) -> tuple[list[float], list[float]] | None:
    """Requests in each part of both sides, of the time that was measured; None when there were none in a part."""
    counted = [[_requests(asked, minutes, profiles, *part) for part in each] for each in parts]
    return (counted[0], counted[1]) if all(count > 0 for each in counted for count in each) else None


def _requests(asked: Comparison, minutes: Floats, profiles: Profiles, start: int, end: int) -> float:
    """Requests in a stretch of time, without those during which nothing on the machine was measured: what they cost is in no sample."""
    whole = profiles.series(Query(start=start, end=end), TIME_S)
    at = whole.start + TIME_S * np.arange(len(whole.counts))
    minute = (at - asked.requests_start) // MINUTE_S
    return float(minutes[minute[whole.counts > 0]].sum() * TIME_S / MINUTE_S)


def _image(profiles: Profiles, whose: str, known: str, start: int, end: int) -> str:
    """The image that is known to have run, or else that most of an App's samples are of; empty when there are none."""
    if end - start < TIME_S:
        return ""
    totals = profiles.totals(Query(start=start, end=end, selector=whose), "image")
    if totals.get(known):
        return known
    return max(((total, image) for image, total in totals.items() if image and total), default=(0, ""))[1]


def _first(profiles: Profiles, selector: str, start: int, end: int) -> int:
    """When the first sample was taken."""
    series = profiles.series(Query(start=start, end=end, selector=selector), TIME_S)
    found = np.flatnonzero(series.counts)
    return int(series.start + TIME_S * found[0]) if len(found) else end


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
