"""Structured merge and diff: what server-side apply does to values, without knowing of managers.

Four walks over plain JSON along the compiled schema. `field_set` names the fields that an applied configuration
speaks of. `merge` lays a configuration over a live object and returns the live object's own branches wherever nothing
changes. `compare` says which fields were added or changed and which went away. `prune_stale` removes what an applier no
longer mentions and nobody else owns. Nothing is copied that does not change, and nothing given is changed in place.

The rules (list types, order of merged lists, what counts as a field of its own) are those of
sigs.k8s.io/structured-merge-diff (`typed`, `merge`).
"""

from __future__ import annotations

from typing import Any

from trimtab.server.fieldset import LEAF, Fields, has_member, key_element, value_element
from trimtab.server.structural import ANY, JSON, Node

_MISSING: Any = object()


class ApplyInvalid(ValueError):
    """An applied configuration that cannot be merged: `path` like `.spec.ports`, `problem` in one line."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


def _granular(node: Node, value: Any) -> bool:
    """Whether the value is a container whose parts are fields of their own."""
    cls = value.__class__
    if node.atomic:
        return False
    if cls is dict:
        return True
    return cls is list and (node.keys != () or node.unique)


def item_element(node: Node, item: Any, path: str = "") -> str:
    """The path element of one item of a list of type map or set.

    Raises:
        ApplyInvalid: the item has no key.
    """
    if node.unique:
        if item is None or item.__class__ is dict or item.__class__ is list:
            raise ApplyInvalid(path, "an item of a set must be a scalar")
        return value_element(item)
    if item.__class__ is not dict:
        raise ApplyInvalid(path, "an item of an associative list must be an object")
    keys = node.keys
    values = tuple(item.get(key, _MISSING) for key in keys)
    if _MISSING in values:
        item_node = node.items or ANY
        defaults = dict(item_node.defaults)
        present = {key: item.get(key, defaults.get(key, _MISSING)) for key in keys}
        present = {key: value for key, value in present.items() if value is not _MISSING}
        if not present:
            raise ApplyInvalid(path, f"an item omits all keys of the associative list ({', '.join(keys)})")
        keys, values = tuple(present), tuple(present.values())
    try:
        return key_element(keys, values)
    except TypeError:
        raise ApplyInvalid(path, f"a key of the associative list ({', '.join(keys)}) must be a scalar") from None


# --- the fields of a configuration --------------------------------------------------------------------------------


def field_set(node: Node, value: JSON, path: str = "") -> Fields:
    """The set of fields that an applied configuration mentions.

    Raises:
        ApplyInvalid: an unknown field, a duplicate list item, or a value of the wrong shape.
    """
    out: Fields = {}
    fields = node.fields
    values = node.values
    for key, child_value in value.items():
        child = fields.get(key)
        named = child is not None
        if child is None:
            child = values
            if child is None:
                if node.kind != "any":
                    raise ApplyInvalid(f"{path}.{key}", "field not declared in schema")
                child = ANY
        made = _field_node(child, child_value, f"{path}.{key}")
        if made is not None:
            out["f:" + key] = made if named or has_member(made) else {".": LEAF, **made}
        elif not named:
            out["f:" + key] = LEAF
    return out


def _field_node(node: Node, value: Any, path: str) -> Fields | None:
    cls = value.__class__
    if cls is dict:
        if node.python is not None and node.python is not dict:
            raise ApplyInvalid(path, f"expected {node.kind}, got an object")
        if node.atomic or not value:
            return LEAF
        return field_set(node, value, path) or None
    if cls is list:
        if node.python is not None and node.python is not list:
            raise ApplyInvalid(path, f"expected {node.kind}, got a list")
        if not _granular(node, value):
            return LEAF
        return _item_set(node, value, path) if value else None
    if value is not None and (node.python is dict or node.python is list):
        raise ApplyInvalid(path, f"expected {'map' if node.python is dict else 'list'}, got {value!r}")
    return LEAF


def _item_set(node: Node, value: list[Any], path: str) -> Fields:
    item_node = node.items or ANY
    out: Fields = {}
    for index, item in enumerate(value):
        element = item_element(node, item, path)
        if element in out:
            raise ApplyInvalid(path, f"duplicate entries for key {element[2:]}")
        below = _field_node(item_node, item, f"{path}[{index}]")
        out[element] = {".": LEAF, **below} if below else LEAF
    return out


# --- merge --------------------------------------------------------------------------------------------------------


def merge(node: Node, live: Any, config: Any) -> Any:
    """The configuration laid over the live value. Returns `live` itself when that changes nothing below it."""
    cls = config.__class__
    if cls is dict and live.__class__ is dict and not node.atomic:
        return _merge_map(node, live, config)
    if cls is list and live.__class__ is list and _granular(node, config):
        return _merge_list(node, live, config)
    if config is None and live and _granular(node, live):
        return live
    if cls is live.__class__ and config == live:
        return live
    return config


def _merge_map(node: Node, live: JSON, config: JSON) -> JSON:
    fields = node.fields
    values = node.values or ANY
    out: JSON | None = None
    for key, value in config.items():
        current = live.get(key, _MISSING)
        merged = value if current is _MISSING else merge(fields.get(key) or values, current, value)
        if merged is not current:
            if out is None:
                out = dict(live)
            out[key] = merged
    return live if out is None else out


def _merge_list(node: Node, live: list[Any], config: list[Any]) -> list[Any]:
    """Items of both in the order of the configuration; items of the live list alone keep their place before the next
    shared item."""
    item_node = node.items or ANY
    config_items = {item_element(node, item): item for item in config}
    live_elements = [item_element(node, item) for item in live]
    first: dict[str, Any] = {}
    for element, item in zip(live_elements, live, strict=True):
        # A duplicate in the live list is not merged with; the configuration's item replaces it.
        first[element] = None if element in first else item
    order = [element for element in config_items if element in first]
    wanted = list(config_items)
    next_shared = 0
    done: set[str] = set()
    out: list[Any] = []
    left = right = 0
    while left < len(live) or right < len(wanted):
        if left < len(live):
            element = live_elements[left]
            if element not in config_items:
                out.append(live[left])
                left += 1
                continue
            if element in done:
                left += 1
                continue
            expected = order[next_shared] if next_shared < len(order) else None
            if right < len(wanted) and element != wanted[right] and element != expected:
                left += 1
                continue
        if right < len(wanted):
            element = wanted[right]
            current = first.get(element)
            out.append(config_items[element] if current is None else merge(item_node, current, config_items[element]))
            done.add(element)
            if next_shared < len(order) and order[next_shared] == element:
                next_shared += 1
            right += 1
    if len(out) == len(live) and all(a is b for a, b in zip(out, live, strict=True)):
        return live
    return out


# --- compare ------------------------------------------------------------------------------------------------------


def compare(node: Node, old: JSON, new: JSON) -> tuple[Fields, Fields]:
    """(fields added or changed, fields removed) between two objects."""
    changed: Fields = {}
    removed: Fields = {}
    if old is not new:
        _compare_map(node, old, new, changed, removed)
    return changed, removed


def _compare_map(node: Node, old: JSON, new: JSON, changed: Fields, removed: Fields) -> None:
    fields = node.fields
    values = node.values or ANY
    for key, value in new.items():
        before = old.get(key, _MISSING)
        if before is value:
            continue
        child = fields.get(key) or values
        if before is _MISSING:
            if child.inline and (value.__class__ is dict or value.__class__ is list):
                before = value.__class__()
            elif (value is None and child.python in (dict, list)) or (key, value) in node.zeros:
                continue
            else:
                changed["f:" + key] = whole(child, value)
                continue
        _compare_value(child, before, value, "f:" + key, changed, removed)
    for key, value in old.items():
        if key not in new:
            child = fields.get(key) or values
            if (value is None and child.python in (dict, list)) or (key, value) in node.zeros:
                continue
            if child.inline and (value.__class__ is dict or value.__class__ is list):
                _compare_value(child, value, value.__class__(), "f:" + key, changed, removed)
            else:
                removed["f:" + key] = whole(child, value)


def _compare_value(node: Node, old: Any, new: Any, element: str, changed: Fields, removed: Fields) -> None:
    if old == new and old.__class__ is new.__class__:
        return
    if (_granular(node, new) and (old is None or _granular(node, old))) or (new is None and _granular(node, old)):
        is_map = (old if new is None else new).__class__ is dict
        if old is None:
            old = {} if is_map else []
        if new is None:
            new = {} if is_map else []
        if old.__class__ is new.__class__:
            if old or new:
                below: tuple[Fields, Fields] = ({}, {})
                if is_map:
                    _compare_map(node, old, new, *below)
                else:
                    _compare_list(node, old, new, *below)
                if below[0]:
                    changed[element] = below[0]
                if below[1]:
                    removed[element] = below[1]
            else:
                changed[element] = LEAF
            return
    changed[element] = whole(node, new)
    if _granular(node, old):
        gone = {key: value for key, value in whole(node, old).items() if key != "."}
        if gone:
            removed[element] = gone


def _compare_list(node: Node, old: list[Any], new: list[Any], changed: Fields, removed: Fields) -> None:
    item_node = node.items or ANY
    before = _by_element(node, old)
    after = _by_element(node, new)
    for element, items in after.items():
        previous = before.get(element)
        if previous is None:
            changed[element] = whole(item_node, items[0]) if len(items) == 1 else LEAF
        elif len(items) == 1 and len(previous) == 1:
            _compare_value(item_node, previous[0], items[0], element, changed, removed)
        elif items != previous:
            changed[element] = LEAF
    for element, items in before.items():
        if element not in after:
            removed[element] = whole(item_node, items[0]) if len(items) == 1 else LEAF


def _by_element(node: Node, items: list[Any]) -> dict[str, list[Any]]:
    """Items by element; items without a key, which only an old object can hold, count by their place."""
    out: dict[str, list[Any]] = {}
    for index, item in enumerate(items):
        try:
            element = item_element(node, item)
        except ApplyInvalid:
            element = f"i:{index}"
        out.setdefault(element, []).append(item)
    return out


def whole(node: Node, value: Any) -> Fields:
    """A value that came or went as one: the field itself and every field below it."""
    if not value or not _granular(node, value):
        return LEAF
    out: Fields = {} if node.inline else {".": LEAF}
    if value.__class__ is dict:
        fields = node.fields
        values = node.values or ANY
        for key, child in value.items():
            out["f:" + key] = whole(fields.get(key) or values, child)
    else:
        item_node = node.items or ANY
        for element, items in _by_element(node, value).items():
            out[element] = whole(item_node, items[0]) if len(items) == 1 else LEAF
    return out


# --- prune --------------------------------------------------------------------------------------------------------


def prune_stale(node: Node, value: Any, stale: Fields, owned: list[Fields]) -> Any:
    """The value without the fields in `stale` that none of the sets in `owned` holds.

    A struct field counts as held when anything below it is held; a map's entry or a list's item only when it is itself
    a member. Containers that are emptied go too, unless they are held.
    """
    cls = value.__class__
    if cls is dict:
        fields = node.fields
        out: Any = value
        for key, child_value in value.items():
            element = "f:" + key
            gone = stale.get(element)
            if gone is None:
                continue
            child = fields.get(key)
            holders = [tree[element] for tree in owned if element in tree]
            if child is not None:
                kept = bool(holders)
            else:
                child = node.values or ANY
                kept = not has_member(gone) or any(has_member(tree) for tree in holders)
            left = prune_stale(child, child_value, gone, holders) if kept else _MISSING
            if left is _MISSING or (not left and child_value and left is not child_value and not _held(holders)):
                if out is value:
                    out = dict(value)
                del out[key]
            elif left is not child_value:
                if out is value:
                    out = dict(value)
                out[key] = left
        return out
    if cls is list and _granular(node, value):
        item_node = node.items or ANY
        items = []
        for item in value:
            try:
                element = item_element(node, item)
            except ApplyInvalid:
                items.append(item)
                continue
            gone = stale.get(element)
            if gone is None:
                items.append(item)
                continue
            holders = [tree[element] for tree in owned if element in tree]
            if has_member(gone) and not any(has_member(tree) for tree in holders):
                continue
            items.append(prune_stale(item_node, item, gone, holders))
        if len(items) == len(value) and all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return items
    return value


def _held(holders: list[Fields]) -> bool:
    return any(has_member(tree) for tree in holders)
