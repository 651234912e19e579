"""Strategic merge patch: a merge patch that knows, from the schema, which lists merge and by which key.

A list whose schema says `patchStrategy: merge` is merged item by item (objects by their `patchMergeKey`, scalars as a
set); every other list is replaced. Directives in the patch refine that: `$patch: replace|delete|merge`,
`$retainKeys`, `$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>`. Items that only the live list has keep
their place relative to their neighbours; the others follow the patch's order.

Source of the rules: the Kubernetes design note "Strategic Merge Patch"
(https://github.com/kubernetes/community/blob/main/contributors/devel/sig-api-machinery/strategic-merge-patch.md) and
k8s.io/apimachinery `strategicpatch`, whose results this module reproduces.
"""

from __future__ import annotations

from typing import Any

from trimtab.server.structural import ANY, JSON, Node, Schema

_DIRECTIVE = "$patch"
_RETAIN_KEYS = "$retainKeys"
_DELETE_FROM = "$deleteFromPrimitiveList/"
_SET_ORDER = "$setElementOrder/"


class PatchError(ValueError):
    """A patch that cannot be applied, in one line."""


def strategic_merge_patch(doc: JSON, patch: Any, schema: Schema) -> JSON:
    """The document after the patch; neither argument is changed.

    Raises:
        PatchError: a malformed directive, a missing merge key, or a list of mixed types.
    """
    if patch is None:
        return doc
    if not isinstance(patch, dict):
        raise PatchError("a strategic merge patch must be an object")
    return _merge_map(schema.root, doc, patch, "")


def _merge_map(node: Node, original: JSON, patch: JSON, path: str) -> JSON:
    directive = patch.get(_DIRECTIVE)
    if directive is not None:
        if directive == "replace":
            return {key: value for key, value in patch.items() if key != _DIRECTIVE}
        if directive == "delete":
            return {}
        if directive != "merge":
            raise PatchError(f"{path or 'patch'}: unknown {_DIRECTIVE} {directive!r}; it is replace, delete or merge")
    out = dict(original)
    _retain_keys(out, patch, path)
    merged_by_order = _apply_orders(node, out, patch, path)
    for key, value in patch.items():
        if key in (_DIRECTIVE, _RETAIN_KEYS) or key.startswith((_DELETE_FROM, _SET_ORDER)) or key in merged_by_order:
            continue
        where = f"{path}.{key}" if path else key
        if value is None:
            out.pop(key, None)
            continue
        merged = _merge_value(node.child(key) or ANY, out.get(key), value, where)
        if merged is None:
            out.pop(key, None)
        else:
            out[key] = merged
    _delete_from_lists(out, patch, path)
    return out


def _merge_value(node: Node, current: Any, value: Any, path: str) -> Any:
    """The value of one field after the patch; None where the patch only says to delete what is not there."""
    if value.__class__ is dict and current.__class__ is dict:
        if node.strategy == "replace":
            return _plain(value)
        return _merge_map(node, current, value, path)
    if value.__class__ is list and current.__class__ is list and "merge" in node.strategy.split(","):
        return _merge_list(node, current, value, path)
    return _plain(value)


def _plain(value: Any) -> Any:
    """A patch's value for something that is not there yet: without nulls and directives."""
    if value.__class__ is dict:
        if _DIRECTIVE in value:
            return None
        out = {}
        for key, child in value.items():
            if child is None or key == _RETAIN_KEYS or key.startswith((_DELETE_FROM, _SET_ORDER)):
                continue
            plain = _plain(child)
            if plain is not None:
                out[key] = plain
        return out
    if value.__class__ is list:
        items = [_plain(item) for item in value]
        return [item for item in items if item is not None]
    return value


def _retain_keys(out: JSON, patch: JSON, path: str) -> None:
    retain = patch.get(_RETAIN_KEYS)
    if retain is None:
        return
    if not isinstance(retain, list) or not all(isinstance(key, str) for key in retain):
        raise PatchError(f"{path or 'patch'}: {_RETAIN_KEYS} must be a list of field names")
    for key in patch:
        if not key.startswith("$") and key not in retain:
            raise PatchError(f"{path or 'patch'}: {_RETAIN_KEYS} does not list {key!r}, which the patch sets")
    for key in list(out):
        if key not in retain:
            del out[key]


def _delete_from_lists(out: JSON, patch: JSON, path: str) -> None:
    for name, gone in patch.items():
        if not name.startswith(_DELETE_FROM):
            continue
        key = name[len(_DELETE_FROM) :]
        if not isinstance(gone, list):
            raise PatchError(f"{path or 'patch'}: {name} must be a list")
        current = out.get(key)
        if isinstance(current, list) and _SET_ORDER + key not in patch:
            out[key] = [item for item in current if item not in gone]


def _apply_orders(node: Node, out: JSON, patch: JSON, path: str) -> set[str]:
    """Merges the lists that come with an order; the fields done."""
    done = set()
    for name, order in patch.items():
        if not name.startswith(_SET_ORDER):
            continue
        key = name[len(_SET_ORDER) :]
        where = f"{path}.{key}" if path else key
        if not isinstance(order, list):
            raise PatchError(f"{path or 'patch'}: {name} must be a list")
        child = node.child(key) or ANY
        changes = patch.get(key)
        if changes is not None and not isinstance(changes, list):
            raise PatchError(f"{where}: must be a list, as {name} orders it")
        gone = patch.get(_DELETE_FROM + key) or []
        current = out.get(key)
        done.add(key)
        if not isinstance(current, list):
            if changes is not None:
                out[key] = _plain(changes)
            continue
        _check_order(child, changes or [], order, where)
        current = [item for item in current if item not in gone] if gone else current
        merged = _merge_items(child, current, changes, where) if changes else current
        out[key] = _ordered(child, merged, order, current, where)
    return done


def _check_order(node: Node, changes: list[Any], order: list[Any], path: str) -> None:
    """The items that the patch sets must stand in the order too, and in the same sequence."""
    if not order:
        return
    wanted = [_identity(node, item, path) for item in order]
    at = 0
    for item in changes:
        if isinstance(item, dict) and _DIRECTIVE in item:
            continue
        key = _identity(node, item, path)
        while at < len(wanted) and wanted[at] != key:
            at += 1
        if at == len(wanted):
            raise PatchError(f"{path}: item {key!r} is not in $setElementOrder, or not in the same order")
        at += 1


def _identity(node: Node, item: Any, path: str) -> Any:
    """What makes an item of a merging list the same item: its merge key's value, or the scalar itself."""
    if item.__class__ is not dict:
        if item.__class__ is list:
            raise PatchError(f"{path}: lists of lists cannot be merged")
        return item
    if not node.merge_key:
        raise PatchError(f"{path}: cannot merge lists without merge key")
    if node.merge_key not in item:
        raise PatchError(f"{path}: an item does not contain declared merge key: {node.merge_key}")
    key = item[node.merge_key]
    if key.__class__ is dict or key.__class__ is list:
        raise PatchError(f"{path}: merge key {node.merge_key} must be a scalar")
    return key


def _merge_list(node: Node, current: list[Any], changes: list[Any], path: str) -> list[Any]:
    if not current or not changes:
        return current or _plain(changes)
    merged = _merge_items(node, current, changes, path)
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in changes):
        return merged
    kept = [item for item in changes if not (isinstance(item, dict) and _DIRECTIVE in item)]
    return _ordered(node, merged, kept, current, path)


def _merge_items(node: Node, current: list[Any], changes: list[Any], path: str) -> list[Any]:
    kinds = {item.__class__ is dict for item in (*current, *changes)}
    if len(kinds) > 1:
        raise PatchError(f"{path}: a list must not mix objects and scalars")
    if False in kinds:
        seen: list[Any] = []
        for item in (*current, *changes):
            if _identity(node, item, path) not in seen:
                seen.append(item)
        return seen
    plain = [item for item in changes if _DIRECTIVE not in item]
    replaced = False
    for item in changes:
        directive = item.get(_DIRECTIVE)
        if directive == "delete":
            gone = _identity(node, item, path)
            current = [one for one in current if one.get(node.merge_key) != gone]
        elif directive == "replace":
            replaced = True
        elif directive is not None:
            raise PatchError(f"{path}: {_DIRECTIVE} {directive!r} cannot be used on an item of a list")
    if replaced:
        return [_plain(item) for item in plain]
    item_node = node.items or ANY
    out = list(current)
    place = {_identity(node, item, path): index for index, item in reversed(list(enumerate(out)))}
    for item in plain:
        key = _identity(node, item, path)
        index = place.get(key)
        if index is None:
            place[key] = len(out)
            out.append(_plain(item))
        else:
            out[index] = _merge_map(item_node, out[index], item, f"{path}[{index}]")
    return out


def _ordered(node: Node, merged: list[Any], order: list[Any], live: list[Any], path: str) -> list[Any]:
    """The items that `order` names, in its order; the others before the first ordered item that followed them live."""
    rank = {_identity(node, item, path): index for index, item in reversed(list(enumerate(order)))}
    place = {_identity(node, item, path): index for index, item in reversed(list(enumerate(live)))}
    named: list[Any] = []
    others: list[Any] = []
    for item in merged:
        (named if _identity(node, item, path) in rank else others).append(item)
    named.sort(key=lambda item: rank[_identity(node, item, path)])
    out: list[Any] = []
    at = 0
    for item in named:
        behind = place.get(_identity(node, item, path))
        while behind is not None and at < len(others):
            ahead = place.get(_identity(node, others[at], path))
            if ahead is None or ahead >= behind:
                break
            out.append(others[at])
            at += 1
        out.append(item)
    return [*out, *others[at:]]
