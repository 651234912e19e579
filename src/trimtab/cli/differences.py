"""What differs between an object as it is and as it would be, field by field, for `trimtab plan`.

What the server counts and notes by itself is left out, and so is status. A list whose members have names is compared by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimtab.api import JSON

SENSITIVE = "(sensitive)"
_NOTED = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
_IDENTITY = ("apiVersion", "kind")


def differences(before: JSON, after: JSON) -> list[JSON]:
    """Every place that would change: {path, before, after, cause}."""
    hidden = before.get("kind") == "Secret"
    return [_change(path, a, b, hidden=hidden) for path, a, b in _walk(_essence(before), _essence(after), "") if a != b]


def given(obj: JSON) -> list[JSON]:
    """Every place that a manifest gives, of an object that is not there yet."""
    hidden = obj.get("kind") == "Secret"
    essence = _essence(obj)
    essence["metadata"] = {k: v for k, v in essence["metadata"].items() if k not in ("name", "namespace")}
    found = ((path, value) for path, _, value in _walk({}, essence, ""))
    return [_change(path, None, value, hidden=hidden) for path, value in found if value not in ({}, None)]


def _essence(obj: JSON) -> JSON:
    out = {key: value for key, value in obj.items() if key not in (*_IDENTITY, "status")}
    out["metadata"] = {key: value for key, value in obj["metadata"].items() if key not in _NOTED}
    return out


def _change(path: str, before: Any, after: Any, *, hidden: bool) -> JSON:
    if hidden and path.partition(".")[0].partition("[")[0] in ("data", "stringData"):
        before, after = (SENSITIVE if value is not None else None for value in (before, after))
    return {"path": path, "before": before, "after": after, "cause": "spec"}


def _walk(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The leaves in which two values differ, or may; None for what is not there."""
    if before == after:
        return
    if isinstance(before or {}, dict) and isinstance(after or {}, dict) and (before or after):
        for key in sorted({**(before or {}), **(after or {})}):
            yield from _walk((before or {}).get(key), (after or {}).get(key), _at(path, key))
    elif (names := _by_name(before)) is not None and (others := _by_name(after)) is not None and (names or others):
        for name in sorted({**names, **others}):
            yield from _walk(names.get(name), others.get(name), f"{path}[{name}]")
    else:
        yield path, before, after


def _at(path: str, key: str) -> str:
    name = key if key.replace("-", "").replace("_", "").isalnum() else f'"{key}"'
    return f"{path}.{name}" if path else name


def _by_name(value: Any) -> dict[str, Any] | None:
    """The members of a list by their names; None where it has members without."""
    if value is None:
        return {}
    if not isinstance(value, list):
        return None
    names = [one.get("name") if isinstance(one, dict) else None for one in value]
    if None in names or len(set(map(str, names))) < len(names):
        return None
    return dict(zip(map(str, names), value, strict=True))


__all__ = ["differences", "given"]
