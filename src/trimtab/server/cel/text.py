"""Functions on strings: CEL's, its string extension's, Kubernetes' regular expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trimtab.server.cel.standard import Function, double_text, no_overload, string, type_name
from trimtab.server.cel.values import CostExceeded, Duration, EvaluationError, Object, Special, Timestamp, TypeValue
from trimtab.server.patterns import compiled

RESULT_MAX = 10_000_000
"""Characters that one call may make; more is stopped like what costs too much."""


def _strings(*values: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise no_overload()


def _bounded(length: int) -> None:
    if length > RESULT_MAX:
        raise CostExceeded


def _pattern(text: str) -> Any:
    _strings(text)
    try:
        return compiled(text)
    except re.error as err:
        raise EvaluationError(f"Illegal regex: {err}") from None


def matches(text: str, pattern: Any) -> bool:
    _strings(text)
    return _pattern(pattern).search(text) is not None


def find(text: str, pattern: Any) -> str:
    _strings(text)
    found = _pattern(pattern).search(text)
    return str(found[0]) if found else ""


def find_all(text: str, pattern: Any, limit: int = -1) -> list[str]:
    _strings(text)
    found: list[str] = []
    for match in _pattern(pattern).finditer(text):
        if 0 <= limit <= len(found):
            break
        found.append(match[0])
    return found


def char_at(text: str, at: int) -> str:
    _strings(text)
    if not 0 <= at <= len(text):
        raise EvaluationError(f"index out of range: {at}")
    return text[at : at + 1]


def index_of(text: Any, wanted: Any, offset: int = 0) -> int:
    if isinstance(text, list):
        from trimtab.server.cel.listing import list_index

        return list_index(text, wanted)
    _strings(text, wanted)
    if not wanted:
        return offset
    if not 0 <= offset <= len(text):
        raise EvaluationError(f"index out of range: {offset}")
    return int(text.find(wanted, offset))


def last_index_of(text: Any, wanted: Any, offset: int | None = None) -> int:
    if isinstance(text, list):
        from trimtab.server.cel.listing import list_last_index

        return list_last_index(text, wanted)
    _strings(text, wanted)
    if not wanted:
        return len(text) if offset is None else offset
    if offset is None:
        return int(text.rfind(wanted))
    if not 0 <= offset <= len(text):
        raise EvaluationError(f"index out of range: {offset}")
    return int(text.rfind(wanted, 0, offset + len(wanted)))


def replace(text: str, old: str, new: str, limit: int = -1) -> str:
    _strings(text, old, new)
    count = text.count(old)
    if limit >= 0:
        count = min(count, limit)
    _bounded(len(text) + count * (len(new) - len(old)))
    return text.replace(old, new, limit)


def split(text: str, separator: str, limit: int = -1) -> list[str]:
    _strings(text, separator)
    if limit == 0:
        return []
    if limit == 1:
        return [text]
    if not separator:
        characters = list(text)
        return (
            characters if limit < 0 else [*characters[: limit - 1], *([text[limit - 1 :]] if text[limit - 1 :] else [])]
        )
    return text.split(separator, limit - 1 if limit > 0 else -1)


def substring(text: str, start: int, end: int | None = None) -> str:
    _strings(text)
    size = len(text)
    if end is None:
        if not 0 <= start <= size:
            raise EvaluationError(f"index out of range: {start}")
        return text[start:]
    if start > end:
        raise EvaluationError(f"invalid substring range. start: {start}, end: {end}")
    if not 0 <= start <= size:
        raise EvaluationError(f"index out of range: {start}")
    if not 0 <= end <= size:
        raise EvaluationError(f"index out of range: {end}")
    return text[start:end]


_LOWER = {ord(c): c.lower() for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_UPPER = {ord(c): c.upper() for c in "abcdefghijklmnopqrstuvwxyz"}
_QUOTED = {ord(c): "\\" + e for c, e in zip('\a\b\f\n\r\t\v\\"', 'abfnrtv\\"', strict=True)}


def _translated(table: dict[int, str], around: str = "") -> Function:
    def translate(text: str) -> str:
        _strings(text)
        return f"{around}{text.translate(table)}{around}"

    return translate


def _method(name: str) -> Function:
    """A method of Python's strings that does what CEL's of that name does."""

    def call(text: str, *args: Any) -> Any:
        _strings(text, *args)
        return getattr(text, name)(*args)

    return call


def join(values: Any, separator: str = "") -> str:
    _strings(separator, *values)
    _bounded(sum(map(len, values)) + len(values) * len(separator))
    return separator.join(values)


_VERB = re.compile(r"%(%|(?:\.(\d+))?([A-Za-z]))")


def formatted(pattern: Any, args: Any) -> str:
    """`"%s is %d".format(args)`."""
    _strings(pattern)
    taken = iter(args)
    parts: list[str] = []
    at = 0
    while (percent := pattern.find("%", at)) >= 0:
        parts.append(pattern[at:percent])
        match = _VERB.match(pattern, percent)
        if match is None:
            raise EvaluationError("could not parse formatting clause: unexpected end of string")
        at = match.end()
        if match[1] == "%":
            parts.append("%")
            continue
        try:
            value = next(taken)
        except StopIteration:
            raise EvaluationError(f"index {len(args)} out of range") from None
        parts.append(_clause(match[3], int(match[2]) if match[2] else None, value))
        _bounded(sum(map(len, parts)))
    parts.append(pattern[at:])
    return "".join(parts)


def _clause(verb: str, precision: int | None, value: Any) -> str:
    def refused(kinds: str) -> EvaluationError:
        return EvaluationError(f"error during formatting: {kinds}, was given {type_name(value)}")

    whole = isinstance(value, int) and not isinstance(value, bool)
    match verb:
        case "s":
            return shown(value)
        case "d":
            if whole or (isinstance(value, float) and value.is_integer()):
                return str(int(value))
            raise refused("decimal clause can only be used on integers")
        case "f" | "e":
            if not whole and not isinstance(value, float):
                raise refused("scientific or fixed-point clause can only be used on doubles")
            return f"{float(value):.{6 if precision is None else min(precision, 1000)}{verb}}"
        case "b" if whole or isinstance(value, bool):
            return f"{int(value):b}"
        case "o" if whole:
            return f"{value:o}"
        case "x" | "X" if whole:
            return f"{value:{verb}}"
        case "x" | "X" if isinstance(value, str | bytes):
            digits = (value.encode() if isinstance(value, str) else value).hex()
            return digits if verb == "x" else digits.upper()
    raise EvaluationError(f'could not parse formatting clause: unrecognized formatting clause "{verb}"')


def shown(value: Any) -> str:
    """A value as `%s` prints it."""
    match value:
        case None:
            return "null"
        case float():
            return double_text(value)
        case str() | bool() | int() | bytes() | Timestamp() | Duration() | Special():
            return string(value)
        case list():
            return f"[{', '.join(map(shown, value))}]"
        case dict():
            return (
                "{"
                + ", ".join(f"{key}: {inner}" for key, inner in sorted((shown(k), shown(v)) for k, v in value.items()))
                + "}"
            )
        case TypeValue():
            return value.name
        case Object():
            raise no_overload()
    raise no_overload()


FUNCTIONS: Mapping[str, Function] = {
    "matches": matches,
    "find": find,
    "findAll": find_all,
    "contains": _method("__contains__"),
    "startsWith": _method("startswith"),
    "endsWith": _method("endswith"),
    "charAt": char_at,
    "indexOf": index_of,
    "lastIndexOf": last_index_of,
    "lowerAscii": _translated(_LOWER),
    "upperAscii": _translated(_UPPER),
    "strings.quote": _translated(_QUOTED, '"'),
    "trim": _method("strip"),
    "replace": replace,
    "split": split,
    "substring": substring,
    "join": join,
    "format": formatted,
}
