"""Causes of a refusal, made from a field and what is wrong with it, worded as the real server words each sort."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.server import names
from trimtab.server.errors import Cause


def shown(value: Any) -> str:
    """A value as Kubernetes shows it in its refusals: under the names of Go's fields it has their order."""
    in_go = isinstance(value, dict) and next(iter(value), "")[:1].isupper()
    return msgspec.json.encode(value, order=None if in_go else "sorted").decode()


def required(at: str, why: str = "") -> Cause:
    return Cause(at, f"Required value: {why}" if why else "Required value", "FieldValueRequired")


def invalid(at: str, value: Any, why: str) -> Cause:
    return Cause(at, f"Invalid value: {shown(value)}: {why}")


def invalids(at: str, value: Any, problems: Iterable[str]) -> Iterator[Cause]:
    return (invalid(at, value, problem) for problem in problems)


def forbidden(at: str, why: str) -> Cause:
    return Cause(at, f"Forbidden: {why}", "FieldValueForbidden")


def duplicate(at: str, value: Any) -> Cause:
    return Cause(at, f"Duplicate value: {shown(value)}", "FieldValueDuplicate")


def not_found(at: str, value: Any) -> Cause:
    return Cause(at, f"Not found: {shown(value)}", "FieldValueNotFound")


def too_long(at: str, limit: int) -> Cause:
    return Cause(at, f"Too long: may not be more than {limit} bytes", "FieldValueTooLong")


def too_many(at: str, count: int, limit: int) -> Cause:
    return Cause(at, f"Too many: {count}: must have at most {limit} items", "FieldValueTooMany")


def unsupported(at: str, value: Any, allowed: Iterable[str]) -> Cause:
    supported = ", ".join(f'"{one}"' for one in allowed)
    return Cause(at, f"Unsupported value: {shown(value)}: supported values: {supported}", "FieldValueNotSupported")


_EMPTY: tuple[Any, ...] = (None, [], {})


def one_of(obj: JSON, name: str, allowed: Iterable[str], at: str) -> Iterator[Cause]:
    """When the field is there, it has one of these values."""
    if obj.get(name) is not None and obj[name] not in allowed:
        yield unsupported(f"{at}.{name}" if at else name, obj[name], allowed)


def immutable(at: str, new: Any, old: Any) -> Iterator[Cause]:
    """A field that may not change; no list and an empty one are the same."""
    if new != old and not (new in _EMPTY and old in _EMPTY):
        yield invalid(at, new, "field is immutable")


def not_negative(obj: JSON, name: str, at: str) -> Iterator[Cause]:
    value = obj.get(name)
    if isinstance(value, int) and value < 0:
        yield invalid(f"{at}.{name}", value, "must be greater than or equal to 0")


def labels(found: Mapping[str, str], at: str) -> Iterator[Cause]:
    """Of a map of labels."""
    for key, value in found.items():
        yield from invalids(at, key, names.qualified_name(key))
        yield from invalids(at, value, names.label_value(value))


def selector(found: JSON | None, at: str) -> Iterator[Cause]:
    """Of a LabelSelector."""
    if not found:
        return
    yield from labels(found.get("matchLabels") or {}, f"{at}.matchLabels")
    for index, requirement in enumerate(found.get("matchExpressions") or ()):
        here = f"{at}.matchExpressions[{index}]"
        operator, values = requirement.get("operator") or "", requirement.get("values") or []
        if operator in ("In", "NotIn"):
            if not values:
                yield required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                yield forbidden(f"{here}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        else:
            yield invalid(f"{here}.operator", operator, "not a valid selector operator")
        key = requirement.get("key") or ""
        yield from invalids(f"{here}.key", key, names.qualified_name(key))
        for number, value in enumerate(values):
            yield from invalids(f"{here}.values[{number}]", value, names.label_value(value))
