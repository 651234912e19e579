"""Answers as text: tables, the tree with bars, the icicle in boxes; fitted to a width, coloured only where colours are wanted.

    print("\\n".join(terminal.lines(answer, width=shutil.get_terminal_size().columns, colour=sys.stdout.isatty())))

Nothing here loads numpy. Names come from strangers' programs: what a terminal would act on is taken out of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.components.profiling.queries.shapes import (
    Answer,
    CompareAnswer,
    DiffAnswer,
    DiffRow,
    Function,
    LabelsAnswer,
    Row,
    SandwichAnswer,
    SeriesAnswer,
    Side,
    TopAnswer,
    TopDiffAnswer,
    TreeAnswer,
)

ROWS = 30
WIDTH_MIN = 40
SPARKS = " ▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉"
SHARE_MIN = 0.005
"""What is below half a percent is not in a tree on a terminal."""
DEPTH_MAX = 200

_TONES = {"native": 33, "kernel": 35, "python": 32, "jit": 36, "named": 34, "mark": 31}
GREW, SHRANK, NEW, GONE, DIM = 31, 32, 35, 36, 2
PER = {"total": "of the total", "request": "per request", "second": "per second"}


@dataclass(frozen=True)
class _Paint:
    colour: bool

    def __call__(self, text: str, tone: int) -> str:
        return f"\x1b[{tone}m{text}\x1b[0m" if self.colour and text.strip() else text


def lines(
    answer: Answer, *, width: int = 100, rows: int = ROWS, colour: bool = False, boxes: bool = False
) -> list[str]:
    """The text of an answer, line by line. rows: of tables and trees, at most. boxes: a tree as icicle."""
    width, paint = max(width, WIDTH_MIN), _Paint(colour)
    if isinstance(answer, TopAnswer):
        return list(_top(answer, width, rows, paint))
    if isinstance(answer, TopDiffAnswer):
        return list(_top_diff(answer, width, rows, paint))
    if isinstance(answer, SandwichAnswer):
        halves = (("callers", answer.callers), ("callees", answer.callees))
        return [
            line for title, tree in halves for line in (title, *_outline(_Plain(tree), width, rows // 2, paint), "")
        ]
    if isinstance(answer, LabelsAnswer):
        return [*_labels(answer)]
    if isinstance(answer, CompareAnswer):
        return list(_compared(answer, width, paint))
    if isinstance(answer, SeriesAnswer):
        return [_sparks(answer, width)]
    tree = _Compared(answer) if isinstance(answer, DiffAnswer) else _Plain(answer)
    return [*_head(answer), *(_icicle(tree, width, paint) if boxes else _outline(tree, width, rows, paint))]


# Numbers and words


def quantity(value: float, unit: str) -> str:
    """`1.24 s`, `312 KiB`, `1,204`."""
    if unit == "nanoseconds":
        for name, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
            if abs(value) >= size:
                return f"{value / size:,.2f} {name}"
        return f"{value:.0f} ns"
    if unit == "bytes":
        for name, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if abs(value) >= size:
                return f"{value / size:,.1f} {name}"
        return f"{value:.0f} B"
    return f"{value:,.0f}"


def share(value: float, total: float) -> str:
    return f"{100 * value / total:.1f}%" if total else "-"


def plain(text: str) -> str:
    """The text without what a terminal would act on."""
    return "".join(c if unicodedata.category(c)[0] != "C" else "�" for c in text)


def fitted(text: str, width: int) -> str:
    """The text in exactly so many columns; its end is cut, and shown to be."""
    text = plain(text)
    return text[: max(width - 1, 0)] + "…" if len(text) > width else text.ljust(width)


def bar(part: float, width: int) -> str:
    """A part of 1 as a bar of so many columns, to an eighth of one."""
    eighths = round(min(max(part, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)


def lost(side: Side) -> str:
    """What was lost, in words; empty when nothing was."""
    what = ", ".join(f"{count:,} {plain(reason)}" for reason, count in sorted(side.lost.items()) if count)
    return f"samples lost: {what}" if what else ""


def _of(side: Side, unit: str) -> str:
    said = f"{quantity(side.total, unit)} in {side.samples:,.0f} samples"
    return "; ".join(filter(None, (said, plain(side.selector), lost(side))))


def _head(answer: TreeAnswer | TopAnswer | DiffAnswer | TopDiffAnswer) -> list[str]:
    if isinstance(answer, TreeAnswer | TopAnswer):
        return [f"{answer.type}: {_of(answer.side, answer.unit)}"]
    return [
        f"{answer.type}, {PER[answer.per]}",
        f"before: {_of(answer.before, answer.unit)}",
        f"after:  {_of(answer.after, answer.unit)}",
    ]


def label(function: Function) -> str:
    """The function and where it is; of one without a name, why."""
    where = f"({function.reason})" if function.reason else function.place
    return f"{function.name}  {where}" if where and where != function.name else function.name


def _labels(answer: LabelsAnswer) -> Iterator[str]:
    yield "types: " + ", ".join(f"{name} ({unit})" for name, unit in answer.types)
    for name, values in answer.labels.items():
        yield plain(f"{name}: {', '.join(values)}")


def _sparks(answer: SeriesAnswer, width: int) -> str:
    """A column for each stretch of time, and the greatest value of one."""
    per = max(-(-len(answer.values) // (width - 16)), 1)
    sums = [sum(answer.values[at : at + per]) for at in range(0, len(answer.values), per)]
    most = max(sums, default=0)
    columns = "".join(SPARKS[round(value / most * (len(SPARKS) - 1))] if most else " " for value in sums)
    return f"{columns}  max {quantity(most, answer.unit)} in {per * answer.step_s} s"


def _compared(answer: CompareAnswer, width: int, paint: _Paint) -> Iterator[str]:
    """The functions that grew, each with its part before and after."""
    yield f"{answer.state}: {plain(answer.before_image) or 'nothing'} -> {plain(answer.after_image) or 'nothing'}, {PER[answer.per]}"
    yield f"{answer.before.samples:,.0f} samples before, {answer.after.samples:,.0f} after, {answer.functions:,} functions"
    for grown in answer.grown:
        figures = f"{100 * grown.before:7.1f}% {100 * grown.after:7.1f}%"
        change = grown.change or f"+{100 * (grown.after - grown.before):.1f} pts"
        yield f"{figures} {paint(f'{change:>11}', GREW)}  {fitted(label(grown.function), max(width - 31, 10)).rstrip()}"


# Tables


def _top(answer: TopAnswer, width: int, rows: int, paint: _Paint) -> Iterator[str]:
    yield from _head(answer)
    total, shown = answer.side.total, answer.rows[:rows]
    wide = max(width - 52, 10)
    yield f"{'self':>11} {'self %':>7} {'':10} {'total':>11} {'total %':>8}  {answer.by}"
    for row in shown:
        yield (
            f"{quantity(row.self, answer.unit):>11} {share(row.self, total):>7} "
            f"{paint(bar(row.self / total if total else 0, 10), _tone(row))} "
            f"{quantity(row.total, answer.unit):>11} {share(row.total, total):>8}  {fitted(label(row.function), wide).rstrip()}"
        )
    yield from _rest(answer.rows_total, len(shown))


def _top_diff(answer: TopDiffAnswer, width: int, rows: int, paint: _Paint) -> Iterator[str]:
    yield from _head(answer)
    wide, shown = max(width - 36, 10), answer.rows[:rows]
    yield f"{'before':>10} {'after':>10} {'change':>11}  {answer.by}"
    for row in shown:
        before, after = row.before_total / (answer.before.units or 1), row.after_total / (answer.after.units or 1)
        change, tone = _change(before, after, answer)
        yield (
            f"{_per(before, answer):>10} {_per(after, answer):>10} {paint(f'{change:>11}', tone)}  "
            f"{fitted(label(row.function), wide).rstrip()}"
        )
    yield from _rest(answer.rows_total, len(shown))


def _rest(rows_total: int, shown: int) -> list[str]:
    return [f"and {rows_total - shown:,} more: --limit {rows_total}"] if rows_total > shown else []


def _tone(row: Row | DiffRow) -> int:
    return _TONES.get(row.function.kind, 34)


def _per(value: float, answer: DiffAnswer | TopDiffAnswer) -> str:
    return f"{100 * value:.1f}%" if answer.per == "total" else quantity(value, answer.unit)


def _change(before: float, after: float, answer: DiffAnswer | TopDiffAnswer) -> tuple[str, int]:
    """In words, and its colour. What was not there before has not grown by any factor: it is new."""
    if not before:
        return ("new", NEW) if after else ("", DIM)
    if not after:
        return "vanished", GONE
    tone = GREW if after > before else SHRANK
    if answer.per == "total":
        return f"{100 * (after - before):+.1f} pts", tone
    return f"{100 * (after / before - 1):+.0f}%", tone


# Trees


class _Plain:
    """A merge, as the drawing functions want a tree."""

    def __init__(self, answer: TreeAnswer) -> None:
        self.parent, self.function, self.functions = answer.parent, answer.function, answer.functions
        self.total = answer.total[0] or 1
        self.weight: Sequence[float] = [value / self.total for value in answer.total]
        self._answer = answer

    def columns(self, node: int) -> str:
        return f"{100 * self.weight[node]:5.1f}% {quantity(self._answer.total[node], self._answer.unit):>11}"

    def tone(self, node: int) -> int:
        return _TONES.get(self.functions[self.function[node]].kind, 34)


class _Compared:
    """A diff: as wide as the greater of its two sides."""

    def __init__(self, answer: DiffAnswer) -> None:
        self.parent, self.function, self.functions = answer.parent, answer.function, answer.functions
        self._before = [value / (answer.before.units or 1) for value in answer.before_total]
        self._after = [value / (answer.after.units or 1) for value in answer.after_total]
        whole = max(self._before[0], self._after[0]) or 1
        self.weight = [max(pair) / whole for pair in zip(self._before, self._after, strict=True)]
        self._answer = answer

    def columns(self, node: int) -> str:
        change, _ = _change(self._before[node], self._after[node], self._answer)
        return f"{_per(self._before[node], self._answer):>9} {_per(self._after[node], self._answer):>9} {change:>10}"

    def tone(self, node: int) -> int:
        return _change(self._before[node], self._after[node], self._answer)[1]


def _children(tree: _Plain | _Compared) -> dict[int, list[int]]:
    """Of each node those worth showing, the greatest first."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parent):
        if node and tree.weight[node] >= SHARE_MIN:
            children.setdefault(parent, []).append(node)
    for below in children.values():
        below.sort(key=lambda node: -tree.weight[node])
    return children


def _outline(tree: _Plain | _Compared, width: int, rows: int, paint: _Paint) -> Iterator[str]:
    """A node a line, indented, with a bar. Of those there is no line for, the smallest are left out."""
    smallest = sorted(tree.weight, reverse=True)[:rows][-1]
    children, shown = _children(tree), 0
    wide_bar = max(width // 6, 8)
    stack = [(0, 0)]
    while stack and shown < rows:
        node, depth = stack.pop()
        if tree.weight[node] < smallest:
            continue
        columns = tree.columns(node)
        room = max(width - len(columns) - wide_bar - 4, 10)
        indent = " " * min(depth, room // 2)
        text = fitted(indent + label(tree.functions[tree.function[node]]), room).rstrip()
        yield f"{columns} {paint(bar(tree.weight[node], wide_bar), tree.tone(node))}  {text}"
        shown += 1
        below = children.get(node, []) if depth < DEPTH_MAX else []
        stack.extend((child, depth + 1) for child in reversed(below))
    if len(tree.parent) > shown:
        yield f"and {len(tree.parent) - shown:,} smaller ones"


def _icicle(tree: _Plain | _Compared, width: int, paint: _Paint) -> Iterator[str]:
    """A level a line, each node a box as wide as its share; those of less than a column are left out."""
    children = _children(tree)
    level = [(0, 0, width)]
    while level:
        line, at, below = "", 0, []
        for node, start, end in level:
            text = fitted(tree.functions[tree.function[node]].name, end - start - 1)
            line += " " * (start - at) + _box(text, tree.tone(node), paint)
            at, place = end, float(start)
            for child in children.get(node, []):
                wide = tree.weight[child] / (tree.weight[node] or 1) * (end - start)
                left, right = round(place), min(round(place + wide), end)
                place += wide
                if right - left >= 2:
                    below.append((child, left, right))
        yield line.rstrip() if not paint.colour else line
        level = below


def _box(text: str, tone: int, paint: _Paint) -> str:
    """A box of one line: in reverse on a terminal, else with an edge."""
    return f"\x1b[7;{tone}m{text}\x1b[0m " if paint.colour else f"{text}│"
