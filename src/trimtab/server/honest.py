"""The honest subset: which fields of an object nothing here acts on, so that the answer can warn of them.

The typed structs of `trimtab.api` name exactly the fields that something acts on; a field that a client writes and no struct
names is accepted, stored, and warned of.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from trimtab.api import JSON, kind_of

WARNINGS_MAX = 12
"""More would hide what matters."""

Tree = dict[str, Any]
"""Named fields: name -> `Tree` of a struct (or of a list's or map's items), or None where anything may follow."""

_NEVER = frozenset({"apiVersion", "kind", "metadata", "status"})


@cache
def _tree(cls: Any) -> Tree:
    hints = typing.get_type_hints(cls)
    return {field.encode_name: _below(hints[field.name]) for field in msgspec.structs.fields(cls)}


def _below(hint: Any) -> Tree | None:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        found = [_below(part) for part in typing.get_args(hint) if part is not type(None)]
        return found[0] if len(found) == 1 else None
    if origin is list:
        return _below(typing.get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _tree(hint)
    return None


def unacted_fields(obj: JSON) -> list[str]:
    """The paths of fields that are set and that nothing acts on; none for kinds without a struct."""
    cls = kind_of(obj.get("apiVersion", ""), obj.get("kind", ""))
    if cls is None:
        return []
    found: list[str] = []
    _walk({key: value for key, value in obj.items() if key not in _NEVER}, _tree(cls), "", found)
    return list(dict.fromkeys(found))


def _walk(value: Any, tree: Tree, path: str, found: list[str]) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _walk(item, tree, f"{path}[{index}]", found)
    elif isinstance(value, dict):
        for key, child in value.items():
            if not child:
                continue
            at = f"{path}.{key}" if path else key
            if key not in tree:
                found.append(at)
            elif (below := tree[key]) is not None:
                _walk(child, below, at, found)


STORED_ONLY = frozenset(
    {
        ("networking.k8s.io/v1", "IPAddress"),
        ("networking.k8s.io/v1", "ServiceCIDR"),
        ("storage.k8s.io/v1", "CSIDriver"),
        ("storage.k8s.io/v1", "CSINode"),
        ("storage.k8s.io/v1", "CSIStorageCapacity"),
        ("storage.k8s.io/v1", "VolumeAttributesClass"),
    }
)
"""Kinds that clients ask for, and that no part of Trimtab acts on."""


def warnings_of(obj: JSON, before: JSON | None) -> list[str]:
    """One warning a field that the write adds and nothing acts on; one for a new object on which nothing acts at all."""
    if before is None and (obj.get("apiVersion"), obj.get("kind")) in STORED_ONLY:
        return [f"{obj['kind']}: nothing acts on objects of this kind, they are only stored"]
    known = set(unacted_fields(before)) if before else set()
    new = [path for path in unacted_fields(obj) if path not in known]
    texts = [] if before else list(_hidden(obj, ""))[:WARNINGS_MAX]
    texts += [f"{path}: nothing acts on this field" for path in new[:WARNINGS_MAX]]
    if len(new) > WARNINGS_MAX:
        texts.append(f"and {len(new) - WARNINGS_MAX} more fields that nothing acts on")
    return texts


def _hidden(value: Any, path: str) -> Iterator[str]:
    """Variables of containers that a later one of the same name hides, in Kubernetes' words."""
    if not isinstance(value, dict):
        return
    for kind in ("initContainers", "containers"):
        for number, container in enumerate(value.get(kind) or ()):
            seen = set()
            for index, variable in enumerate((container.get("env") if isinstance(container, dict) else None) or ()):
                name = variable.get("name") if isinstance(variable, dict) else None
                if name in seen:
                    at = f"{path}.{kind}[{number}].env[{index}]"
                    yield f'{at}: hides previous definition of "{name}", which may be dropped when using apply'
                seen.add(name)
    for key in ("spec", "template", "jobTemplate"):
        yield from _hidden(value.get(key), f"{path}.{key}" if path else key)
