"""What a tightened schema may not hold against an object: values that an update leaves as they were.

A CRD's schema can become stricter than objects that exist. As in Kubernetes (CRDValidationRatcheting), a value that is equal to the
one that stood in its place before is not refused for what it was: the fault becomes the business of whoever changes the value.
Places correspond by field names, and in lists of type map by their keys; other lists are one value.
"""

from __future__ import annotations

from typing import Any

from trimtab.server.structural import ANY, DUPLICATE, JSON, FieldError, Node, Path, Schema, walk


def faults_of_update(schema: Schema, new: JSON, old: JSON) -> list[FieldError]:
    """What is wrong with an object, except for what the update did not touch."""
    errors = schema.validate(new)
    if not errors:
        return errors
    found: list[FieldError] = []
    _walk(schema.root, new, old, None, found)
    repeated = [error for error in errors if error.reason == DUPLICATE]
    if repeated and not any(error.reason == DUPLICATE for error in schema.validate(old)):
        found += repeated
    return found


def _walk(node: Node, new: Any, old: Any, path: Path, errors: list[FieldError]) -> None:
    """`old` is what stood here before. Faults of elements that stand twice are left to the caller."""
    if new == old and type(new) is type(old):
        return
    own: list[FieldError] = []
    walk(_alone(node), new, path, own)
    errors += own
    if isinstance(new, dict) and isinstance(old, dict):
        for key, value in new.items():
            child = node.child(key)
            if child is None or child is ANY:
                continue
            _below(child, value, old, key, path, errors, known=key in old and (path is not None or key not in _TYPE))
    elif isinstance(new, list) and node.items is not None and node.items is not ANY:
        places = _places(old, node.keys)
        for index, value in enumerate(new):
            key = _key(value, node.keys)
            if key in places:
                _walk(node.items, value, places[key], (path, index), errors)
            else:
                _all(node.items, value, (path, index), errors)
    elif isinstance(new, dict):
        for key, value in new.items():
            child = node.child(key)
            if child is not None and child is not ANY:
                _all(child, value, (path, key), errors)


_TYPE = ("apiVersion", "kind")


def _below(child: Node, value: Any, old: JSON, key: str, path: Path, errors: list[FieldError], *, known: bool) -> None:
    if known:
        _walk(child, value, old[key], (path, key), errors)
    else:
        _all(child, value, (path, key), errors)


def _all(node: Node, value: Any, path: Path, errors: list[FieldError]) -> None:
    found: list[FieldError] = []
    walk(node, value, path, found)
    errors += [error for error in found if error.reason != DUPLICATE]


def _alone(node: Node) -> Node:
    """The node without what is below it, and without what lists say of several elements."""
    made = Node()
    made.become(node)
    made.fields = {}
    made.values = None
    made.items = None
    made.keys = ()
    made.unique = False
    return made


def _places(old: Any, keys: tuple[str, ...]) -> dict[Any, Any]:
    if not keys or not isinstance(old, list):
        return {}
    return {_key(value, keys): value for value in old if isinstance(value, dict)}


def _key(value: Any, keys: tuple[str, ...]) -> Any:
    return tuple(repr(value.get(key)) for key in keys) if keys and isinstance(value, dict) else None
