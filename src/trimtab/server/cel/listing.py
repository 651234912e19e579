"""Functions on lists: Kubernetes', and CEL's extensions for lists, sets and loops with two variables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cmp_to_key
from itertools import pairwise
from typing import Any

from trimtab.server.cel.standard import Function, add, compare, no_overload, text_of
from trimtab.server.cel.values import NONE, CostExceeded, Duration, EvaluationError, Optional, Uint, contains, equal

RANGE_MAX = 1_000_000
"""Elements that one call may make; more is stopped like what costs too much."""


def list_index(values: list[Any], wanted: Any) -> int:
    return next((index for index, value in enumerate(values) if equal(value, wanted)), -1)


def list_last_index(values: list[Any], wanted: Any) -> int:
    return next((index for index in range(len(values) - 1, -1, -1) if equal(values[index], wanted)), -1)


def _is_sorted(values: list[Any]) -> bool:
    return all(compare(a, b) <= 0 for a, b in pairwise(values))


def _sum_from(zero: Any) -> Function:
    def total(values: list[Any]) -> Any:
        found = zero
        for index, value in enumerate(values):
            found = add(found, value) if index else value
        return found

    return total


def _extreme(name: str, sign: int) -> Function:
    def extreme(values: list[Any]) -> Any:
        if not values:
            raise EvaluationError(f"{name} called on empty list")
        found = values[0]
        for value in values[1:]:
            if compare(value, found) * sign > 0:
                found = value
        return found

    return extreme


def _slice(values: list[Any], start: int, end: int) -> list[Any]:
    if start < 0 or end < 0:
        raise EvaluationError(f"cannot slice({start}, {end}), negative indexes not supported")
    if start > end:
        raise EvaluationError(f"cannot slice({start}, {end}), start index must be less than or equal to end index")
    if len(values) < end:
        raise EvaluationError(f"cannot slice({start}, {end}), list is length {len(values)}")
    return values[start:end]


def _flatten(values: list[Any], depth: int = 1) -> list[Any]:
    if depth < 0:
        raise EvaluationError("level must be non-negative")
    made: list[Any] = []
    for value in values:
        if isinstance(value, list) and depth > 0:
            made += _flatten(value, depth - 1)
        else:
            made.append(value)
    return made


def _range(count: Any) -> list[int]:
    if count > RANGE_MAX:
        raise CostExceeded
    return list(range(count))


def _distinct(values: list[Any]) -> list[Any]:
    made: list[Any] = []
    for value in values:
        if not contains(made, value):
            made.append(value)
    return made


def _sort(values: list[Any]) -> list[Any]:
    return sorted(values, key=cmp_to_key(compare))


def _sort_by(values: list[Any], keys: list[Any]) -> list[Any]:
    def order(a: int, b: int) -> int:
        return compare(keys[a], keys[b])

    return [values[index] for index in sorted(range(len(values)), key=cmp_to_key(order))]


def _contains_all(values: list[Any], wanted: list[Any]) -> bool:
    return all(contains(values, value) for value in wanted)


def _inserted(made: dict[Any, Any], *entry: Any) -> dict[Any, Any]:
    """Inserts into the map that a loop is making."""
    entries = entry[0].items() if len(entry) == 1 else [entry]
    for key, value in entries:
        if isinstance(key, list | dict):
            raise no_overload()
        if key in made:
            raise EvaluationError(f"insert failed: key {text_of(key)} already exists")
        made[key] = value
    return made


def _end(at: int) -> Function:
    return lambda values: Optional(True, values[at]) if values else NONE


def _of_lists(function: Function) -> Function:
    """The function, refusing anything but lists."""

    def call(*args: Any) -> Any:
        if not isinstance(args[0], list):
            raise no_overload()
        return function(*args)

    return call


_ON_LISTS: Mapping[str, Function] = {
    "isSorted": _is_sorted,
    "sum": _sum_from(0),
    "min": _extreme("min", -1),
    "max": _extreme("max", 1),
    "slice": _slice,
    "flatten": _flatten,
    "reverse": lambda values: values[::-1],
    "distinct": _distinct,
    "sort": _sort,
    "@sortByAssociatedKeys": _sort_by,
    "first": _end(0),
    "last": _end(-1),
    "sets.contains": _contains_all,
    "sets.equivalent": lambda a, b: _contains_all(a, b) and _contains_all(b, a),
    "sets.intersects": lambda a, b: any(contains(b, value) for value in a),
}

FUNCTIONS: Mapping[str, Function] = {
    **{name: _of_lists(function) for name, function in _ON_LISTS.items()},
    "lists.range": _range,
    "cel.@mapInsert": _inserted,
}

BY_OVERLOAD: Mapping[str, Function] = {
    "list_uint_sum_uint": _of_lists(_sum_from(Uint(0))),
    "list_double_sum_double": _of_lists(_sum_from(0.0)),
    "list_duration_sum_duration": _of_lists(_sum_from(Duration(0))),
}
"""Where the types decide what an empty list gives."""
