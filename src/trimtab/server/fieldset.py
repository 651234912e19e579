"""Sets of fields, in the very form in which they stand in `metadata.managedFields[].fieldsV1`.

A set is a tree of path elements. Each key is one element: `f:<field>`, `k:<json of a list item's keys>`, `v:<json of a
set's value>`. A node `{}` is a member without children, `{".": {}, ...}` a member with children, any other node only has
children; the root itself is never a member, so an empty root is the empty set. Because the wire form *is* the working
form, reading and writing managed fields costs nothing, and an untouched branch is shared, never copied. Nodes are
therefore never changed once made.

The form and the operations are those of sigs.k8s.io/structured-merge-diff (`fieldpath`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

Fields = dict[str, Any]
"""One node of a set. `Any` because a node nests itself."""

LEAF: Fields = {}
"""The node of a member without children. Shared: never written to."""


def union(a: Fields, b: Fields) -> Fields:
    """The members of either; both are non-empty nodes, or leaves."""
    if a is b or not b:
        return _as_member(a)
    if not a:
        return _as_member(b)
    out = dict(a)
    for key, child in b.items():
        mine = out.get(key)
        out[key] = child if mine is None else union(mine, child)
    return out


def _as_member(node: Fields) -> Fields:
    return node if not node or "." in node else {".": LEAF, **node}


def union_roots(a: Fields, b: Fields) -> Fields:
    """Like `union` for whole sets, where an empty tree is the empty set."""
    if not a:
        return b
    return union(a, b) if b else a


def difference(a: Fields, b: Fields) -> Fields | None:
    """The members of `a` that are not members of `b`; None when nothing is left. Both are nodes below the root."""
    if not b and "." not in a:
        return a or None
    member = (not a or "." in a) and not (not b or "." in b)
    children: Fields = {}
    for key, child in a.items():
        if key == ".":
            continue
        other = b.get(key)
        left = child if other is None else difference(child, other)
        if left is not None:
            children[key] = left
    if member:
        if not children:
            return LEAF
        children["."] = LEAF
        return children
    return children or None


def difference_roots(a: Fields, b: Fields) -> Fields:
    """Like `difference` for whole sets."""
    if not a or not b:
        return a
    out: Fields = {}
    for key, child in a.items():
        other = b.get(key)
        left = child if other is None else difference(child, other)
        if left is not None:
            out[key] = left
    return out


def intersection(a: Fields, b: Fields) -> Fields | None:
    """The members of both; None when there is none. Both are nodes below the root."""
    member = (not a or "." in a) and (not b or "." in b)
    if len(a) > len(b):
        a, b = b, a
    children: Fields = {}
    for key, child in a.items():
        if key == ".":
            continue
        other = b.get(key)
        if other is not None:
            both = intersection(child, other)
            if both is not None:
                children[key] = both
    if member:
        if not children:
            return LEAF
        children["."] = LEAF
        return children
    return children or None


def intersection_roots(a: Fields, b: Fields) -> Fields:
    """Like `intersection` for whole sets."""
    if len(a) > len(b):
        a, b = b, a
    out: Fields = {}
    for key, child in a.items():
        other = b.get(key)
        if other is not None:
            both = intersection(child, other)
            if both is not None:
                out[key] = both
    return out


def has_member(node: Fields) -> bool:
    """Whether the node itself is in the set, not only something below it."""
    return not node or "." in node


def paths(root: Fields) -> Iterator[str]:
    """Every member as kubectl prints it: `.spec.containers[name="web"].image`."""
    for key, child in sorted(root.items()):
        if key != ".":
            yield from _paths(_element_text(key), child)


def _paths(prefix: str, node: Fields) -> Iterator[str]:
    if has_member(node):
        yield prefix
    for key, child in sorted(node.items()):
        if key != ".":
            yield from _paths(prefix + _element_text(key), child)


def _element_text(element: str) -> str:
    kind, _, rest = element.partition(":")
    if kind == "f":
        return f".{rest}"
    if kind == "k":
        return "[" + ",".join(f"{name}={_value_text(value)}" for name, value in json.loads(rest).items()) + "]"
    if kind == "v":
        return f"[={_value_text(json.loads(rest))}]"
    return f"[{rest}]"


def _value_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def value_element(value: str | int | float | bool) -> str:
    """The element of one value of a list of type set."""
    return _value_element(value, type(value).__name__)


@lru_cache(maxsize=4096)
def _value_element(value: str | int | float | bool, _type: str) -> str:
    return "v:" + _go_json(value)


def key_element(keys: tuple[str, ...], values: tuple[Any, ...]) -> str:
    """The element of an item of a list of type map; `keys` in sorted order."""
    return _key_element(keys, values, tuple(map(type, values)))


@lru_cache(maxsize=4096)
def _key_element(keys: tuple[str, ...], values: tuple[Any, ...], _types: tuple[type, ...]) -> str:
    return "k:" + _go_json(dict(zip(keys, values, strict=True)))


def _go_json(value: object) -> str:
    """Compact JSON with the characters escaped that Go's encoder escapes, so that elements compare as strings."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if "<" in text or ">" in text or "&" in text:
        text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return text


def in_order(node: Fields) -> Fields:
    """The set with its elements in the order in which Kubernetes writes them (clients compare the bytes); itself where they stand
    so already."""
    changed: Fields | None = None
    last, ordered = "", True
    for key, child in node.items():
        ordered &= key > last
        last = key
        if child and (mine := in_order(child)) is not child:
            changed = dict(node) if changed is None else changed
            changed[key] = mine
    found = node if changed is None else changed
    return found if ordered else dict(sorted(found.items()))


def canonical(root: Fields) -> Fields:
    """A set that a client wrote, with its elements in our spelling and unknown kinds of elements left out.

    Raises:
        ValueError: the tree is not FieldsV1.
    """
    out: Fields = {}
    for key, child in root.items():
        if not isinstance(child, dict):
            raise ValueError(f"managedFields: element {key!r} must be an object")
        if key == ".":
            out[key] = LEAF
            continue
        element = _canonical_element(key)
        if element is not None:
            out[element] = canonical(child)
    return out


def _canonical_element(key: str) -> str | None:
    kind, colon, rest = key.partition(":")
    if not colon:
        raise ValueError(f"managedFields: element {key!r} has no colon")
    if kind == "f":
        return key
    if kind == "i":
        return key if rest.isdigit() else None
    if kind not in "kv":
        return None
    try:
        value = json.loads(rest)
    except ValueError:
        raise ValueError(f"managedFields: element {key!r} is not JSON after the colon") from None
    if kind == "v":
        return "v:" + _go_json(value)
    if not isinstance(value, dict):
        raise ValueError(f"managedFields: element {key!r} must hold an object")
    return "k:" + _go_json(dict(sorted(value.items())))
