"""A question of the endpoint `query` becomes its answer: what is asked is selected, named, merged and put into the shape of `shapes.py`.

Question --Profiles.select--> Selection --Symbolizer.names--> merge, diff, top, sandwich --> Answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import msgspec

from trimtab.components.profiling.batch import Frame
from trimtab.components.profiling.queries import shapes
from trimtab.components.profiling.queries.diff import diff, top_diff
from trimtab.components.profiling.queries.shapes import (
    Answer,
    Function,
    LabelsAnswer,
    Question,
    Row,
    SeriesAnswer,
    Side,
)
from trimtab.components.profiling.queries.top import sandwich, top
from trimtab.components.profiling.queries.tree import Filter, Named, Tree, merge
from trimtab.components.profiling.storage.selection import Query, Selection
from trimtab.components.profiling.storage.store import Profiles


class Symbolizer(Protocol):
    def names(self, frames: Sequence[Frame]) -> Sequence[Named]:
        """Of each frame its names."""


def question(parameters: Mapping[str, str]) -> Question:
    """What a query string asks. Raises `ValueError` with one line."""
    try:
        return msgspec.convert(dict(parameters), Question, strict=False)
    except msgspec.ValidationError as err:
        raise ValueError(f"the query is not understood: {err}") from err


@dataclass(frozen=True)
class Asked:
    """One side of a question, resolved."""

    tree: Tree
    type: str
    unit: str
    side: Side


def answer(asked: Question, profiles: Profiles, symbolizer: Symbolizer, now: int) -> Answer:
    """Raises `ValueError` with one line for what cannot be answered. now: Unix seconds."""
    query = _query(asked, now)
    if asked.view == "labels":
        types = [(kind.name, kind.unit) for kind in profiles.types(query.start, query.end)]
        return LabelsAnswer(labels=profiles.labels(query.start, query.end), types=types)
    if asked.view == "series":
        series = profiles.series(query, asked.step)
        values = series.values.tolist()
        return SeriesAnswer(type=series.type, unit=series.unit, start=series.start, step_s=series.step_s, values=values)
    if asked.by not in get_args(shapes.By):
        return _by_label(asked, query, profiles)
    after = _side(asked, query, profiles, symbolizer)
    if asked.view in ("diff", "top-diff"):
        return _diff(asked, after, _side(asked, _before(asked, query, now), profiles, symbolizer))
    given = (after.type, after.unit, after.side)
    if asked.view == "tree":
        return after.tree.answer(*given, nodes_max=asked.nodes)
    if asked.view == "sandwich":
        return sandwich(after.tree, asked.function, *given)
    return top(after.tree, *given, sort=asked.sort, limit=asked.limit)


def _query(asked: Question, now: int) -> Query:
    start, end = (at if at > 0 else now + at for at in (asked.start, asked.end))
    return Query(type=asked.type, start=start, end=end, selector=asked.selector)


def _before(asked: Question, after: Query, now: int) -> Query:
    told = (asked.before_start, asked.before_end, asked.before_selector)
    start, end = after.start, after.end
    if all(value is None for value in told):
        start, end = start - (end - start), start
    if asked.before_start is not None:
        start = asked.before_start if asked.before_start > 0 else now + asked.before_start
    if asked.before_end is not None:
        end = asked.before_end if asked.before_end > 0 else now + asked.before_end
    selector = after.selector if asked.before_selector is None else asked.before_selector
    return Query(type=asked.type, start=start, end=end, selector=selector)


def _side(asked: Question, query: Query, profiles: Profiles, symbolizer: Symbolizer) -> Asked:
    selection = profiles.select(query)
    wanted = Filter(asked.focus, asked.ignore, asked.hide)
    by: Any = asked.by
    tree = merge(selection, symbolizer.names(selection.frames), by=by, filter=wanted, anonymous=asked.anonymous)
    return Asked(tree, selection.type, selection.unit, _told(query, selection))


def _told(query: Query, selection: Selection) -> Side:
    return Side(
        total=selection.total, lost=selection.lost, start=selection.start, end=selection.end, selector=query.selector
    )


def _diff(asked: Question, after: Asked, before: Asked) -> Answer:
    units = asked.before_units, asked.after_units
    if asked.per == "second":
        units = before.side.end - before.side.start, after.side.end - after.side.start
    tree = diff(before.tree, after.tree, per=asked.per, before_units=units[0], after_units=units[1])
    unit = after.unit or before.unit
    if asked.view == "top-diff":
        return top_diff(tree, after.type, unit, before.side, after.side, sort=asked.sort, limit=asked.limit)
    return tree.answer(after.type, unit, before.side, after.side, nodes_max=asked.nodes)


def _by_label(asked: Question, query: Query, profiles: Profiles) -> Answer:
    if asked.view != "top":
        raise ValueError(f"only a table can be by a label ({asked.by}); a tree is by {', '.join(get_args(shapes.By))}")
    known = profiles.labels(query.start, query.end)
    if asked.by not in known:
        raise ValueError(f"there is no label {asked.by!r} in that time; there are {', '.join(known) or 'none'}")
    selection = profiles.select(query)
    totals = profiles.totals(query, asked.by)
    rows = [Row(function=Function(name or "(none)", kind="label"), self=v, total=v) for name, v in totals.items() if v]
    rows.sort(key=lambda row: -row.total)
    return shapes.TopAnswer(
        type=selection.type, unit=selection.unit, by=asked.by, side=_told(query, selection),
        rows=rows[: asked.limit or None], rows_total=len(rows),
    )  # fmt: skip
