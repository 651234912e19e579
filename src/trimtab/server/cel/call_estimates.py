"""What a call can cost at most, and how large its result can be: the table behind `estimate.py`.

`costs.py` has the same figures for a call with its arguments at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trimtab.server.cel.costs import LIST, REGEX, TRAVERSAL
from trimtab.server.cel.ranges import MOST, ONE, UNKNOWN, Range
from trimtab.server.cel.syntax import Call, Literal, Node

if TYPE_CHECKING:
    from trimtab.server.cel.estimate import Estimator

Found = tuple[Range, Range | None]
Estimate = Callable[["Estimator", Call, str], Found]


def estimate(estimator: Estimator, node: Call, overload: str) -> Found:
    """(cost without its arguments', size of the result or None) of a call."""
    found = _BY_OVERLOAD.get(overload) or _BY_FUNCTION.get(node.function)
    return (ONE, None) if found is None else found(estimator, node, overload)


def _subject(node: Call) -> Node:
    """What a method is called on; of a function its first argument."""
    return node.target if node.target is not None else node.args[0]


def _traversal(factor: float, *, sized: bool = False) -> Estimate:
    """The cost of walking through the subject; `sized`: the result is no longer than it."""

    def found(estimator: Estimator, node: Call, overload: str) -> Found:
        size = estimator.size(_subject(node))
        return size.scaled(factor), size if sized else None

    return found


def _of_elements(estimator: Estimator, node: Call, overload: str) -> Found:
    target = _subject(node)
    size = estimator.size(target)
    if not target.type.params:
        return size.scaled(TRAVERSAL), None
    each = ONE
    if target.type.params[0].kind in ("string", "bytes"):
        each = each.plus((estimator.element_size(target) or UNKNOWN).scaled(TRAVERSAL))
    return size.times(each), None


def _replaced(estimator: Estimator, node: Call, overload: str) -> Found:
    size, old, new = (estimator.size(part) for part in (_subject(node), *node.args[:2]))
    most = least = 0
    kept_most = kept_least = 0
    if old.least == 0:
        most, kept_most = min(size.most + 1, MOST), size.most
    elif new.most <= old.least:
        kept_most = size.most
    else:
        most = math.ceil(size.most / old.least)
    if old.most == 0:
        least, kept_least = min(size.least + 1, MOST), size.least
    elif old.most <= new.least:
        kept_least = size.least
    else:
        least = math.ceil(size.least / old.most)
    result = Range(least, most).times(new).plus(Range(kept_least, kept_most))
    return size.scaled(2 * TRAVERSAL), result


def _split(estimator: Estimator, node: Call, overload: str) -> Found:
    size = estimator.size(_subject(node))
    return size.scaled(2 * TRAVERSAL), Range(0, _literal(node.args, 1, size.most))


def _joined(estimator: Estimator, node: Call, overload: str) -> Found:
    target = _subject(node)
    count = estimator.size(target)
    size = count.times(estimator.element_size(target) or UNKNOWN)
    if node.args:
        between = Range(max(count.least - 1, 0), max(count.most - 1, 0))
        size = size.plus(estimator.size(node.args[0]).times(between))
    return size.scaled(TRAVERSAL), size


def _searched(estimator: Estimator, node: Call, overload: str) -> Found:
    size = estimator.size(_subject(node))
    pattern = estimator.size(node.args[0])
    cost = size.plus(ONE).scaled(TRAVERSAL).times(pattern.scaled(REGEX))
    return cost, Range(0, size.most) if node.function.startswith("find") else None


def _contained(estimator: Estimator, node: Call, overload: str) -> Found:
    part = estimator.size(node.args[0]).scaled(TRAVERSAL)
    return estimator.size(_subject(node)).scaled(TRAVERSAL).times(part), None


def _first_argument(factor: float) -> Estimate:
    return lambda estimator, node, overload: (estimator.size(node.args[0]).scaled(factor), None)


def _converted(low: float, high: int, extra: int = 0) -> Estimate:
    def found(estimator: Estimator, node: Call, overload: str) -> Found:
        size = estimator.size(node.args[0])
        return size.scaled(TRAVERSAL), Range(int(size.least * low) + extra, min(size.most * high + extra, MOST))

    return found


def _in_list(estimator: Estimator, node: Call, overload: str) -> Found:
    return estimator.size(node.args[1]), None


def _compared(estimator: Estimator, node: Call, overload: str) -> Found:
    kind = node.args[0].type
    if node.function == "_==_" and kind == node.args[1].type and kind.kind in ("object", "opaque"):
        if kind.name in ("net.IP", "net.CIDR", "kubernetes.Quantity", "kubernetes.Semver"):
            return ONE, None
        if kind.name == "kubernetes.NamedFormat":
            return Range(1, 64).scaled(TRAVERSAL), None
        if kind.name == "kubernetes.URL":
            size = estimator.known_size(node.args[1])
            return Range(1, size.most if size else 1).scaled(TRAVERSAL), None
    most = min(estimator.size(arg).most for arg in node.args)
    return Range(1 if most > 0 else 0, most).scaled(TRAVERSAL), None


def _concatenated(estimator: Estimator, node: Call, overload: str) -> Found:
    size = estimator.size(node.args[0]).plus(estimator.size(node.args[1]))
    return (ONE if overload == "add_list" else size.scaled(TRAVERSAL)), size


_ADDRESS = Range(4, 16)


def _in_network(network: bool) -> Estimate:
    def found(estimator: Estimator, node: Call, overload: str) -> Found:
        cost = _ADDRESS.plus(_ADDRESS).scaled(TRAVERSAL)
        if network:
            cost = cost.plus(_ADDRESS.scaled(TRAVERSAL)).plus(ONE)
        if overload.endswith("_string"):
            cost = cost.plus(estimator.size(node.args[0]).scaled(TRAVERSAL))
        return cost, None

    return found


def _pairs(factor: int) -> Estimate:
    def found(estimator: Estimator, node: Call, overload: str) -> Found:
        both = estimator.size(node.args[0]).times(estimator.size(node.args[1]))
        return both.scaled(factor).plus(ONE), None

    return found


def _literal(args: list[Node], index: int, otherwise: int) -> int:
    node = args[index] if len(args) > index else None
    if isinstance(node, Literal) and type(node.value) is int:
        return node.value if node.value >= 0 else 0
    return otherwise


def _allocating(size: Range, factor: float = 1) -> Found:
    return size.scaled(factor).plus(ONE).plus(Range(LIST, LIST)), size


def _sliced(estimator: Estimator, node: Call, overload: str) -> Found:
    size = estimator.size(_subject(node))
    length = (_literal(node.args, 1, size.most) - _literal(node.args, 0, 0)) % (MOST + 1)
    return _allocating(Range(length, length))


def _ranged(estimator: Estimator, node: Call, overload: str) -> Found:
    count = _literal(node.args, 0, MOST)
    return _allocating(Range(count, count))


def _reversed(estimator: Estimator, node: Call, overload: str) -> Found:
    return _allocating(estimator.size(_subject(node)))


def _flattened(estimator: Estimator, node: Call, overload: str) -> Found:
    depth = _literal(node.args, 0, MOST) if node.args else 1
    return _allocating(estimator.size(_subject(node)), depth)


def _squared(estimator: Estimator, node: Call, overload: str) -> Found:
    subject = node.args[0] if node.function == "@sortByAssociatedKeys" else _subject(node)
    size = estimator.size(subject)
    text = (
        node.function != "distinct" and subject.type.params[:1] and subject.type.params[0].kind in ("string", "bytes")
    )
    return _allocating(size.times(size), 2 + TRAVERSAL if text else 2)


_BY_FUNCTION: Mapping[str, Estimate] = {
    **dict.fromkeys(("isSorted", "sum", "max", "min", "indexOf", "lastIndexOf"), _of_elements),
    **dict.fromkeys(("url", "lowerAscii", "upperAscii", "substring", "trim"), _traversal(TRAVERSAL, sized=True)),
    **dict.fromkeys(("cidr", "isIP", "isCIDR", "quantity", "isQuantity", "semver", "isSemver"), _traversal(TRAVERSAL)),
    "ip.isCanonical": _traversal(2 * TRAVERSAL),
    "replace": _replaced,
    "split": _split,
    "join": _joined,
    "find": _searched,
    "findAll": _searched,
    "containsIP": _in_network(False),
    "containsCIDR": _in_network(True),
    "validate": lambda estimator, node, overload: (
        estimator.size(node.args[0]).scaled(TRAVERSAL).scaled(128 * REGEX),
        None,
    ),
    "sets.contains": _pairs(1),
    "sets.intersects": _pairs(1),
    "sets.equivalent": _pairs(2),
    "slice": _sliced,
    "lists.range": _ranged,
    "reverse": _reversed,
    "flatten": _flattened,
    "distinct": _squared,
    "sort": _squared,
    "@sortByAssociatedKeys": _squared,
}

_BY_OVERLOAD: Mapping[str, Estimate] = {
    "string_to_ip": _traversal(TRAVERSAL),
    "cidr_ip": lambda estimator, node, overload: (ONE, None),
    "string_format": _traversal(TRAVERSAL),
    "string_to_bytes": _converted(1, 4),
    "bytes_to_string": _converted(0.25, 1),
    "strings_quote": _converted(1, 2, 2),
    "starts_with_string": _first_argument(TRAVERSAL),
    "ends_with_string": _first_argument(TRAVERSAL),
    "in_list": _in_list,
    "matches_string": _searched,
    "contains_string": _contained,
    **dict.fromkeys(("add_string", "add_bytes", "add_list"), _concatenated),
    **dict.fromkeys(("equals", "not_equals"), _compared),
    **{
        f"{name}_{kind}": _compared
        for name in ("less", "less_equals", "greater", "greater_equals")
        for kind in ("string", "bytes")
    },
}
