"""The patch types of the API, as pure functions from a document and a patch to a new document.

`json_patch` is RFC 6902, `merge_patch` RFC 7386; `strategic_merge_patch` (the Kubernetes form that knows how lists
merge) stands in `strategic.py` and is offered here too. None changes the document that it is given, though the result
may share unchanged branches with it. What cannot be applied raises `PatchError` with one line that names the operation.
"""

from __future__ import annotations

import re
from typing import Any

from trimtab.server.strategic import PatchError, strategic_merge_patch

__all__ = ["PatchError", "json_patch", "merge_patch", "strategic_merge_patch"]

OPERATIONS_MAX = 10_000
"""A JSON patch with more operations is refused, as the real server does."""

_MISSING: Any = object()
_INDEX = re.compile(r"0|[1-9][0-9]*")


class JsonPatchTestFailed(PatchError):
    """A `test` operation did not find what it expects."""


def merge_patch(doc: Any, patch: Any) -> Any:
    """RFC 7386: objects merge key by key, null deletes a key, everything else replaces."""
    if patch.__class__ is not dict:
        return patch
    out = dict(doc) if doc.__class__ is dict else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        elif value.__class__ is dict:
            out[key] = merge_patch(out.get(key), value)
        else:
            out[key] = value
    return out


def json_patch(doc: Any, ops: Any) -> Any:
    """RFC 6902: the operations one after the other; all of them or none.

    Raises:
        PatchError: an operation is malformed or its path does not exist; JsonPatchTestFailed for a failed `test`.
    """
    if not isinstance(ops, list):
        raise PatchError("a JSON patch must be a list of operations")
    if len(ops) > OPERATIONS_MAX:
        raise PatchError(f"the JSON patch has {len(ops)} operations; at most {OPERATIONS_MAX} are allowed")
    for index, op in enumerate(ops):
        try:
            doc = _operate(doc, op)
        except PatchError as err:
            raise type(err)(f"JSON patch operation {index}: {err}") from None
    return doc


def _operate(doc: Any, op: Any) -> Any:
    if not isinstance(op, dict):
        raise PatchError("must be an object with op and path")
    name = op.get("op")
    if name not in ("add", "remove", "replace", "move", "copy", "test"):
        raise PatchError(f"unknown op {name!r}; it is one of add, remove, replace, move, copy, test")
    path = _tokens(op, "path")
    if name in ("add", "replace", "test") and "value" not in op:
        raise PatchError(f'op "{name}" needs a value')
    if name == "test":
        # An absent field equals null, as in the implementation that the real server uses.
        found = _find(doc, path)
        expected = op["value"]
        if not (found is _MISSING and expected is None) and not _same(found, expected):
            raise JsonPatchTestFailed(f"test failed: {op['path']!r} does not have the expected value")
        return doc
    if name == "add":
        return _set(doc, path, op["value"], op["path"], insert=True)
    if name == "replace":
        return _set(doc, path, op["value"], op["path"], insert=False)
    if name == "remove":
        return _remove(doc, path, op["path"])
    source = _tokens(op, "from")
    value = _find(doc, source)
    if value is _MISSING:
        raise PatchError(f"from: {op['from']!r} does not exist")
    if name == "move":
        if path[: len(source)] == source and len(path) > len(source):
            raise PatchError("cannot move a value into itself")
        doc = _remove(doc, source, op["from"]) if source else None
    return _set(doc, path, value, op["path"], insert=True)


def _tokens(op: dict[str, Any], field: str) -> list[str]:
    pointer = op.get(field)
    if not isinstance(pointer, str):
        raise PatchError(f"{field} must be a JSON pointer")
    if not pointer:
        return []
    if not pointer.startswith("/"):
        raise PatchError(f"{field} {pointer!r} must start with a slash")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]


def _same(a: Any, b: Any) -> bool:
    """Equality of JSON: true is not 1, and an integer equals the same number written as a float."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _position(token: str, length: int, pointer: str, *, end: bool) -> int:
    if token == "-" and end:
        return length
    if not _INDEX.fullmatch(token) or len(token) > 9:
        raise PatchError(f"{pointer!r}: {token!r} is not an index of a list")
    index = int(token)
    if index > length - (0 if end else 1):
        raise PatchError(f"{pointer!r}: index {index} is beyond the list of {length}")
    return index


def _find(doc: Any, path: list[str]) -> Any:
    for token in path:
        if isinstance(doc, dict):
            doc = doc.get(token, _MISSING)
        elif isinstance(doc, list):
            doc = doc[int(token)] if _INDEX.fullmatch(token) and len(token) < 10 and int(token) < len(doc) else _MISSING
        else:
            return _MISSING
        if doc is _MISSING:
            return _MISSING
    return doc


def _set(doc: Any, path: list[str], value: Any, pointer: str, *, insert: bool) -> Any:
    if not path:
        return value
    token, rest = path[0], path[1:]
    if isinstance(doc, dict):
        if rest or not insert:
            if token not in doc:
                raise PatchError(f"{pointer!r}: {token!r} does not exist")
            value = _set(doc[token], rest, value, pointer, insert=insert) if rest else value
        return {**doc, token: value}
    if isinstance(doc, list):
        index = _position(token, len(doc), pointer, end=insert and not rest)
        if rest:
            return [*doc[:index], _set(doc[index], rest, value, pointer, insert=insert), *doc[index + 1 :]]
        return [*doc[:index], value, *doc[index + (0 if insert else 1) :]]
    raise PatchError(f"{pointer!r}: {token!r} is below a value that is neither object nor list")


def _remove(doc: Any, path: list[str], pointer: str) -> Any:
    if not path:
        raise PatchError("the whole document cannot be removed")
    token, rest = path[0], path[1:]
    if isinstance(doc, dict):
        if token not in doc:
            raise PatchError(f"{pointer!r}: {token!r} does not exist")
        if rest:
            return {**doc, token: _remove(doc[token], rest, pointer)}
        return {key: value for key, value in doc.items() if key != token}
    if isinstance(doc, list):
        index = _position(token, len(doc), pointer, end=False)
        middle = [_remove(doc[index], rest, pointer)] if rest else []
        return [*doc[:index], *middle, *doc[index + 1 :]]
    raise PatchError(f"{pointer!r}: {token!r} is below a value that is neither object nor list")
