"""The patch types of the API, as pure functions from a document and a patch to a new document.

`json_patch` is RFC 6902, `merge_patch` RFC 7386; `strategic_merge_patch` (the Kubernetes form that knows how lists
merge) stands in `strategic.py` and is offered here too. None changes the document that it is given, though the result
may share unchanged branches with it. What cannot be applied raises `PatchError` with one line that names the operation.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from trimtab.server.objects import copied
from trimtab.server.strategic import PatchError, strategic_merge_patch

__all__ = ["PatchError", "json_patch", "merge_patch", "strategic_merge_patch"]

OPERATIONS_MAX = 10_000
"""A JSON patch with more operations is refused, as the real server does."""

COPIED_MAX_BYTES = 3 * 1024 * 1024
"""What the `copy` operations of one patch may copy in all: copies of copies grow without end (the real server's limit)."""
MOVED_MAX = 100_000_000
"""How often items of lists may change their place in one patch: a tenth of a second."""

JSON = dict[str, Any]

_MISSING: Any = object()
_INDEX = re.compile(r"0|[1-9][0-9]*")


class JsonPatchRefused(PatchError):
    """An operation does not go with the document: nothing stands at its path, or a `test` does not find what it expects."""


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
        PatchError: an operation is malformed, its path does not exist, or all together they would do too much;
            `JsonPatchRefused` where an operation does not go with the document.
    """
    if ops is None:
        return doc
    if not isinstance(ops, list):
        raise PatchError("a JSON patch must be a list of operations")
    if len(ops) > OPERATIONS_MAX:
        raise PatchError(f"the JSON patch has {len(ops)} operations; at most {OPERATIONS_MAX} are allowed")
    patching = _Patching(copied(doc))
    for index, op in enumerate(ops):
        try:
            patching.operate(op)
        except PatchError as err:
            raise JsonPatchRefused(f"JSON patch operation {index}: {err}") from None
    return patching.doc


class _Patching:
    """A document of its own that operations change in place, and what they may still cost."""

    def __init__(self, doc: Any) -> None:
        self.doc = doc
        self._copied_bytes = 0
        self._moved = 0

    def operate(self, op: Any) -> None:
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
            found = _find(self.doc, path)
            expected = op["value"]
            if not (found is _MISSING and expected is None) and not _same(found, expected):
                raise PatchError(f"test failed: {op['path']!r} does not have the expected value")
        elif name in ("add", "replace"):
            self._set(path, copied(op["value"]), op["path"], insert=name == "add")
        elif name == "remove":
            self._remove(path, op["path"])
        else:
            self._move_or_copy(op, path)

    def _move_or_copy(self, op: JSON, path: list[str]) -> None:
        source = _tokens(op, "from")
        value = _find(self.doc, source)
        if value is _MISSING:
            raise PatchError(f"from: {op['from']!r} does not exist")
        if op["op"] == "copy":
            value = self._copy(value)
        else:
            if path[: len(source)] == source and len(path) > len(source):
                raise PatchError("cannot move a value into itself")
            if source:
                self._remove(source, op["from"])
        self._set(path, value, op["path"], insert=True)

    def _copy(self, value: Any) -> Any:
        try:
            text = msgspec.json.encode(value)
        except RecursionError:
            raise PatchError("what it copies is nested too deep") from None
        self._copied_bytes += len(text)
        if self._copied_bytes > COPIED_MAX_BYTES:
            raise PatchError(f"the patch copies more than {COPIED_MAX_BYTES} bytes")
        return msgspec.json.decode(text)

    def _place(self, path: list[str], pointer: str) -> Any:
        """The container that the last token of a path is in."""
        place = self.doc
        for token in path[:-1]:
            if isinstance(place, dict):
                if token not in place:
                    raise PatchError(f"{pointer!r}: {token!r} does not exist")
                place = place[token]
            elif isinstance(place, list):
                place = place[_position(token, len(place), pointer, end=False)]
            else:
                raise _below(pointer, token)
        return place

    def _set(self, path: list[str], value: Any, pointer: str, *, insert: bool) -> None:
        if not path:
            self.doc = value
            return
        place, token = self._place(path, pointer), path[-1]
        if isinstance(place, dict):
            place[token] = value  # `replace` adds what is absent, as in the implementation that the real server uses
        elif isinstance(place, list):
            index = _position(token, len(place), pointer, end=insert)
            if insert:
                self._shift(len(place) - index)
                place.insert(index, value)
            else:
                place[index] = value
        else:
            raise _below(pointer, token)

    def _remove(self, path: list[str], pointer: str) -> None:
        if not path:
            raise PatchError("the whole document cannot be removed")
        place, token = self._place(path, pointer), path[-1]
        if isinstance(place, dict):
            if token not in place:
                raise PatchError(f"{pointer!r}: {token!r} does not exist")
            del place[token]
        elif isinstance(place, list):
            index = _position(token, len(place), pointer, end=False)
            self._shift(len(place) - index)
            del place[index]
        else:
            raise _below(pointer, token)

    def _shift(self, count: int) -> None:
        """Takes note of so many items of a list that change their place."""
        self._moved += count
        if self._moved > MOVED_MAX:
            raise PatchError(f"the patch moves items of lists more than {MOVED_MAX} times")


def _below(pointer: str, token: str) -> PatchError:
    return PatchError(f"{pointer!r}: {token!r} is below a value that is neither object nor list")


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


# --- what a refusal shows -----------------------------------------------------------------------------------------


def shown_patch(left: JSON, strategic: bytes) -> str:
    """What Kubernetes shows of a patch that it refuses: the object that it `left`, or a strategic patch itself in Go's words."""
    if strategic:
        return json.dumps(_in_go(msgspec.json.decode(strategic)), ensure_ascii=False)
    meta = {key: value for key, value in (left.get("metadata") or {}).items() if key != "managedFields"}
    text = json.dumps({**left, "metadata": meta}, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return json.dumps(text, ensure_ascii=False)


def _in_go(value: Any) -> str:
    """As Go prints it with %+v."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_in_go(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(_in_go, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "<nil>" if value is None else str(value)
