"""Sets of completion indexes and their text, as in `status.completedIndexes`: `0,2-4`."""

from __future__ import annotations

from collections.abc import Iterable

INDEX_MAX = 2**31 - 1


def parse(text: str | None) -> frozenset[int]:
    """`parse("0,2-4") == {0, 2, 3, 4}`.

    Raises:
        ValueError: one line saying which part is none.
    """
    out: set[int] = set()
    last = -1
    for part in (text or "").split(",") if text else ():
        first, dash, end = part.partition("-")
        if not first.isdigit() or (dash and not end.isdigit()):
            raise ValueError(f'"{part}" is neither an index nor a range of indexes such as 2-4')
        low, high = int(first), int(end or first)
        if low <= last or high < low or high > INDEX_MAX:
            raise ValueError(f'"{part}" is out of order: indexes and ranges have to rise')
        out.update(range(low, high + 1))
        last = high
    return frozenset(out)


def text_of(indexes: Iterable[int]) -> str:
    """The inverse of `parse`; a pair is written `2,3`, longer runs `2-4`, as Kubernetes does."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(
        str(low) if low == high else f"{low},{high}" if high == low + 1 else f"{low}-{high}" for low, high in runs
    )
