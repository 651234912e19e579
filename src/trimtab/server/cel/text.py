"""Functions on strings: CEL's, its string extension's, Kubernetes' regular expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trimtab.server.cel.standard import Function, no_overload
from trimtab.server.cel.values import CostExceeded, EvaluationError
from trimtab.server.patterns import compiled

RESULT_MAX = 10_000_000
"""Characters that one call may make; more is stopped like what costs too much."""


def _strings(*values: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise no_overload()


def bounded(length: int) -> None:
    """Raises `CostExceeded` for a text that is too long to be made."""
    if length > RESULT_MAX:
        raise CostExceeded


def _pattern(text: str) -> Any:
    _strings(text)
    try:
        return compiled(text)
    except re.error as err:
        raise EvaluationError(f"Illegal regex: {err}") from None


def matches(text: str, pattern: Any) -> bool:
    _strings(text, pattern)
    try:
        return compiled(pattern).search(text) is not None
    except re.error as err:
        raise EvaluationError(str(err)) from None


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
    if offset < 0:
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
    bounded(len(text) + count * (len(new) - len(old)))
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
    bounded(sum(map(len, values)) + len(values) * len(separator))
    return separator.join(values)


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
}
