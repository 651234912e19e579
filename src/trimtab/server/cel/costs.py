"""What a call costs when it runs.

A unit is about what reading a field costs. The figures are those of cel-go (`interpreter/runtimecost.go`) and of Kubernetes'
libraries (`apiserver/pkg/cel/library/cost.go`), so that a rule that fits in the budget there fits here, and the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.server.cel.kubernetes import REGEX_SIZES, Cidr, Format, Ip
from trimtab.server.cel.values import Object, Optional, Special

Price = Callable[[Sequence[Any]], int]
"""From the arguments (of a method, its receiver first) to the cost."""

TRAVERSAL = 0.1
"""For each character of a string that is looked at."""
REGEX = 0.25
"""For each character of a pattern: an expression in it is taken to be four long."""
SELECT = 1
LIST, MAP = 10, 30
"""For making one."""


def size(value: Any) -> int:
    """How long a value is, for its cost; 1 of what has no length."""
    if isinstance(value, str | bytes | list | dict | Object | Ip | Cidr):
        return len(value)
    if isinstance(value, Optional) and value.present:
        return size(value.value)
    return 1


def _traversed(factor: float, argument: int = 0) -> Price:
    return lambda args: math.ceil(size(args[argument]) * factor)


def _searched(args: Sequence[Any]) -> int:
    return math.ceil((1 + size(args[0])) * TRAVERSAL) * math.ceil(size(args[1]) * REGEX)


def _contained(args: Sequence[Any]) -> int:
    return math.ceil(size(args[0]) * TRAVERSAL) * math.ceil(size(args[1]) * TRAVERSAL)


def _equality(args: Sequence[Any]) -> int:
    if isinstance(args[0], Special):
        return 1
    return math.ceil(min(size(args[0]), size(args[1])) * TRAVERSAL)


def _ordered(args: Sequence[Any]) -> int:
    return math.ceil(min(size(args[0]), size(args[1])) * TRAVERSAL)


def _whole(value: Any) -> int:
    """The cost of walking through all of a value."""
    if isinstance(value, str | bytes):
        return int(len(value) * TRAVERSAL)
    if isinstance(value, list):
        return sum(map(_whole, value))
    if isinstance(value, dict):
        return sum(_whole(key) + _whole(inner) for key, inner in value.items())
    if isinstance(value, Object):
        return sum(_whole(name) + _whole(value.get(name)) for name in value.names())
    return 1


def _in_network(compared: int, parsed: str, extra: int = 0) -> Price:
    def price(args: Sequence[Any]) -> int:
        own = size(args[0])
        cost = math.ceil(2 * own * TRAVERSAL) + (math.ceil(own * TRAVERSAL) if compared else 0) + extra
        return cost + (math.ceil(size(args[1]) * TRAVERSAL) if parsed and isinstance(args[1], str) else 0)

    return price


def _validated(args: Sequence[Any]) -> int:
    pattern = REGEX_SIZES.get(args[0].name, 128) if isinstance(args[0], Format) else 1
    return math.ceil((1 + size(args[1])) * TRAVERSAL) * math.ceil(pattern * REGEX)


def _pairs(factor: float) -> Price:
    return lambda args: 1 + int(size(args[0]) * size(args[1]) * factor)


def _squared(args: Sequence[Any]) -> int:
    return 1 + LIST + 2 * size(args[-1]) ** 2


def _allocated(args: Sequence[Any]) -> int:
    return 1 + LIST + size(args[0])


def _sliced(args: Sequence[Any]) -> int:
    return 1 + LIST + max(0, args[2] - args[1]) if isinstance(args[2], int) and isinstance(args[1], int) else 1


def _joined(args: Sequence[Any]) -> int:
    length = sum(map(size, args[0])) if isinstance(args[0], list) else 1
    return math.ceil((length + (len(args[0]) * size(args[1]) if len(args) > 1 else 0)) * 2 * TRAVERSAL)


def _flattened(args: Sequence[Any]) -> int:
    depth = args[1] if len(args) > 1 and isinstance(args[1], int) else 1
    return 1 + LIST + depth * size(args[0])


def _concatenated(args: Sequence[Any]) -> int:
    return math.ceil((size(args[0]) + size(args[1])) * TRAVERSAL)


_BY_FUNCTION: Mapping[str, Price] = {
    **dict.fromkeys(("isSorted", "sum", "max", "min", "indexOf", "lastIndexOf"), lambda args: _whole(args[0])),
    **dict.fromkeys(
        [
            "url",
            "lowerAscii",
            "upperAscii",
            "substring",
            "trim",
            "cidr",
            "isIP",
            "isCIDR",
            "quantity",
            "isQuantity",
            "semver",
            "isSemver",
        ],
        _traversed(TRAVERSAL),
    ),
    **dict.fromkeys(("replace", "split", "ip.isCanonical"), _traversed(2 * TRAVERSAL)),
    "join": _joined,
    "find": _searched,
    "findAll": _searched,
    "ip": lambda args: 1 if isinstance(args[0], Cidr) else math.ceil(size(args[0]) * TRAVERSAL),
    "containsIP": _in_network(0, "string"),
    "containsCIDR": _in_network(1, "string", 1),
    "validate": _validated,
    "_==_": _equality,
    "sets.contains": _pairs(1),
    "sets.intersects": _pairs(1),
    "sets.equivalent": _pairs(2),
    "slice": _sliced,
    "flatten": _flattened,
    "lists.range": lambda args: 1 + LIST + (max(0, args[0]) if isinstance(args[0], int) else 1),
    "reverse": _allocated,
    "distinct": _squared,
    "sort": _squared,
    "@sortByAssociatedKeys": _squared,
}

_BY_OVERLOAD: Mapping[str, Price] = {
    **dict.fromkeys(("string_to_bytes", "bytes_to_string", "string_format"), _traversed(TRAVERSAL)),
    **dict.fromkeys(("starts_with_string", "ends_with_string", "strings_quote"), _traversed(TRAVERSAL)),
    **dict.fromkeys(("add_string", "add_bytes"), _concatenated),
    **{
        f"{name}_{kind}": _ordered
        for name in ("less", "less_equals", "greater", "greater_equals")
        for kind in ("string", "bytes")
    },
    "in_list": lambda args: size(args[1]),
    "not_equals": _equality,
    "matches_string": _searched,
    "matches": _searched,
    "contains_string": _contained,
}


def price(function: str, overloads: Sequence[str]) -> Price | int:
    """What a call of a function costs: a number, or a function of its arguments."""
    found = _BY_FUNCTION.get(function)
    if found is None and len(overloads) == 1:
        found = _BY_OVERLOAD.get(overloads[0])
    return 1 if found is None else found
