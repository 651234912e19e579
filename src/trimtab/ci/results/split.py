"""Which shard a test belongs to. Stands alone: `pytest_plugin.py` takes it into the sandbox, where there is no trimtab.

Every shard computes the same split by itself: whole files where they are short, else by test; the longest first, each to the shard with
the least (LPT: never more than 4/3 of the best). Tests that nobody has timed take what the middle one takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FILE_SHARE = 0.2
"""A file that takes more than this part of a shard's time is split by its tests."""
UNKNOWN_S = 0.1


def split(ids: Sequence[str], seconds: Mapping[str, float], count: int) -> dict[str, int]:
    """By test the number of its shard, from 0. ids: in their order; seconds: by id, of those that are known."""
    took = times(ids, seconds)
    files: dict[str, list[str]] = {}
    for one in ids:
        files.setdefault(one.split("::")[0], []).append(one)
    limit = FILE_SHARE * sum(took.values()) / count
    groups: list[list[str]] = []
    for members in files.values():
        whole = sum(took[one] for one in members) <= limit
        groups += [members] if whole else [[one] for one in members]
    busy = [0.0] * count
    shard: dict[str, int] = {}
    for members in sorted(groups, key=lambda group: (-sum(took[one] for one in group), group[0])):
        at = busy.index(min(busy))
        busy[at] += sum(took[one] for one in members)
        shard.update(dict.fromkeys(members, at))
    return shard


def times(ids: Sequence[str], seconds: Mapping[str, float]) -> dict[str, float]:
    """By test what it takes, known or guessed."""
    known = [seconds[one] for one in ids if one in seconds]
    usual = middle(known) if known else UNKNOWN_S
    return {one: max(seconds.get(one, usual), 1e-4) for one in ids}


def loads(ids: Sequence[str], planned: Mapping[str, float], actual: Mapping[str, float], count: int) -> list[float]:
    """Seconds by shard, when tests are split by `planned` and take `actual`."""
    busy = [0.0] * count
    took = times(ids, actual)
    for one, shard in split(sorted(ids), planned, count).items():
        busy[shard] += took[one]
    return busy


def middle(values: Sequence[float]) -> float:
    """The median; the upper one of two. (The module statistics takes 10 ms to load.)"""
    return sorted(values)[len(values) // 2]
