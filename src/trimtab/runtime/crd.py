"""From structs to CustomResourceDefinitions: types, constraints and docstrings become a structural schema.

A field's type gives its schema, `msgspec.Meta` its constraints, the docstring below it its description. Lists of
conditions are keyed by type and lists of things with a required name by name, so that several appliers can each own entries.
Defaults stay in the structs: stored objects should not freeze them.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import Any

import msgspec
import msgspec.inspect as mi

from trimtab.api import JSON, Condition, ObjectMeta, Resource
from trimtab.api.cluster import CustomResourceDefinition
from trimtab.client.client import Client
from trimtab.client.wire import encode

MANAGER = "trimtab-runtime"
OWN_GROUP = "trimtab.dev"
ESTABLISHED_WITHIN_S = 30.0
POLL_S = 0.1

OPEN: JSON = {"x-kubernetes-preserve-unknown-fields": True}


UNAPPROVED = "unapproved, the fields of the published kind that Trimtab acts on"
"""Why a definition in one of Kubernetes' own groups is not an approved one: such groups take no definition without a word."""


def crd(kind: type[Resource]) -> JSON:
    """The CustomResourceDefinition of one of our kinds, as JSON.

    Raises:
        TypeError: a field has a type that a structural schema cannot say; the text names the field.
    """
    place = kind.resource_type
    names: JSON = {
        "kind": place.kind,
        "listKind": f"{place.kind}List",
        "plural": place.plural,
        "singular": place.kind.lower(),
    }
    if place.short_names:
        names["shortNames"] = list(place.short_names)
    if place.categories:
        names["categories"] = list(place.categories)
    version: JSON = {
        "name": place.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": kind_schema(kind)},
    }
    subresources: JSON = {}
    if place.status:
        subresources["status"] = {}
    if place.scale:
        subresources["scale"] = dict(place.scale)
    if subresources:
        version["subresources"] = subresources
    if place.columns:
        version["additionalPrinterColumns"] = [
            {"name": name, "type": type, "jsonPath": path} for name, type, path in place.columns
        ]
    metadata: JSON = {"name": f"{place.plural}.{place.group}"}
    if f".{place.group}".endswith((".k8s.io", ".kubernetes.io")):
        metadata["annotations"] = {"api-approved.kubernetes.io": UNAPPROVED}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": place.group,
            "names": names,
            "scope": "Namespaced" if place.namespaced else "Cluster",
            "versions": [version],
        },
    }


def kind_schema(kind: type[Resource]) -> JSON:
    """The `openAPIV3Schema` of a kind."""
    info = mi.type_info(kind)
    assert isinstance(info, mi.StructType)
    schema = _struct(info, kind.__name__, (), skip=("metadata",))
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        **schema.get("properties", {}),
    }
    return schema


def _struct(info: mi.StructType, path: str, outer: tuple[type, ...], skip: tuple[str, ...] = ()) -> JSON:
    cls = info.cls
    if cls is ObjectMeta:
        return {"type": "object", **OPEN}
    if cls in outer:
        raise TypeError(f"{path}: {cls.__name__} contains itself, which a structural schema cannot say")
    described = field_docs(cls)
    properties: JSON = {}
    required: list[str] = []
    for field in info.fields:
        if field.name in skip:
            continue
        schema = _type(field.type, f"{path}.{field.encode_name}", (*outer, cls))
        if text := described.get(field.name):
            schema["description"] = text
        properties[field.encode_name] = schema
        if field.required:
            required.append(field.encode_name)
    out: JSON = {"type": "object"}
    if text := inspect.cleandoc(cls.__dict__.get("__doc__") or ""):
        out["description"] = text
    if properties:
        out["properties"] = properties
    if required:
        out["required"] = required
    return out


def _type(info: mi.Type, path: str, outer: tuple[type, ...]) -> JSON:
    match info:
        case mi.Metadata():
            return {**_type(info.type, path, outer), **(info.extra_json_schema or {})}
        case mi.UnionType():
            return _union(info, path, outer)
        case mi.StructType():
            return _struct(info, path, outer)
        case mi.StrType():
            return {
                "type": "string",
                **_limits(info, minLength="min_length", maxLength="max_length", pattern="pattern"),
            }
        case mi.BoolType():
            return {"type": "boolean"}
        case mi.IntType():
            return {"type": "integer", "format": "int64", **_bounds(info)}
        case mi.FloatType():
            return {"type": "number", **_bounds(info)}
        case mi.DateTimeType():
            return {"type": "string", "format": "date-time"}
        case mi.LiteralType():
            return {
                "type": "integer" if all(isinstance(v, int) for v in info.values) else "string",
                "enum": list(info.values),
            }
        case mi.EnumType():
            return {"type": "string", "enum": [member.value for member in info.cls]}
        case mi.ListType():
            return _list(info, path, outer)
        case mi.DictType():
            if isinstance(info.value_type, (mi.AnyType, mi.RawType)):
                return {"type": "object", **OPEN}
            return {"type": "object", "additionalProperties": _type(info.value_type, f"{path}.*", outer)}
        case mi.AnyType() | mi.RawType():
            return dict(OPEN)
    raise TypeError(f"{path}: {info!r} has no form in a structural schema")


def _union(info: mi.UnionType, path: str, outer: tuple[type, ...]) -> JSON:
    types = [t for t in info.types if not isinstance(t, mi.NoneType)]
    if len(types) == 1:
        return _type(types[0], path, outer)
    kinds = {type(t) for t in types}
    if kinds == {mi.IntType, mi.StrType}:
        return {"x-kubernetes-int-or-string": True}
    if kinds == {mi.IntType, mi.FloatType}:
        return {"type": "number"}
    return dict(OPEN)


def _list(info: mi.ListType, path: str, outer: tuple[type, ...]) -> JSON:
    schema: JSON = {"type": "array", "items": _type(info.item_type, f"{path}[]", outer)}
    schema |= _limits(info, minItems="min_length", maxItems="max_length")
    item = info.item_type
    if isinstance(item, mi.StructType):
        key = "type" if item.cls is Condition else "name"
        if any(
            field.encode_name == key and field.required and isinstance(field.type, mi.StrType) for field in item.fields
        ):
            schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return schema


def _limits(info: Any, **names: str) -> JSON:
    return {name: value for name, attribute in names.items() if (value := getattr(info, attribute)) is not None}


def _bounds(info: mi.IntType | mi.FloatType) -> JSON:
    out = _limits(info, minimum="ge", maximum="le", multipleOf="multiple_of")
    if info.gt is not None:
        out |= {"minimum": info.gt, "exclusiveMinimum": True}
    if info.lt is not None:
        out |= {"maximum": info.lt, "exclusiveMaximum": True}
    return out


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a class and its bases; empty where the source is not at hand."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        found |= _module_docs(base.__module__).get(base.__qualname__, {})
    return found


@cache
def _module_docs(module: str) -> dict[str, dict[str, str]]:
    """By class the docstrings below its own fields: a module is parsed once, for all that is in it."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, dict[str, str]] = {}
    places: list[tuple[str, ast.AST]] = [("", tree)]
    while places:
        above, place = places.pop()
        for node in ast.iter_child_nodes(place):
            if isinstance(node, ast.ClassDef):
                found[above + node.name] = _below_fields(node)
                places.append((f"{above}{node.name}.", node))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                places.append((f"{above}{node.name}.<locals>.", node))
            elif isinstance(node, ast.If | ast.Try | ast.With):
                places.append((above, node))
    return found


def _below_fields(node: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for statement, below in pairwise(node.body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[statement.target.id] = inspect.cleandoc(below.value.value)
    return found


_encoded: dict[type[Resource], bytes] = {}


def installed(kinds: Iterable[type[Resource]], *, foreign: bool = True) -> list[type[Resource]]:
    """Those of which `ensure_crds` installs the CRDs, each once."""
    ours = [kind for kind in dict.fromkeys(kinds) if not kind.resource_type.builtin]
    return [kind for kind in ours if foreign or kind.resource_type.group.endswith(OWN_GROUP)]


async def ensure_crds(client: Client, kinds: Iterable[type[Resource]], *, foreign: bool = True) -> list[str]:
    """Installs (or updates) the CRDs of those kinds that are not built in and waits until they are served; returns their
    names. With `foreign` False only kinds of our own group: on a real cluster others' kinds are theirs to install.

    Raises:
        TimeoutError: the server did not establish one in time.
    """
    place = CustomResourceDefinition.resource_type
    names: list[str] = []
    waiting: list[str] = []
    for kind in installed(kinds, foreign=foreign):
        if kind not in _encoded:
            _encoded[kind] = encode(crd(kind))
        name = f"{kind.resource_type.plural}.{kind.resource_type.group}"
        answer = await client.wire.apply_bytes(place, name, None, _encoded[kind], manager=MANAGER)
        names.append(name)
        if not _established(msgspec.json.decode(answer)):
            waiting.append(name)
    deadline = asyncio.get_running_loop().time() + ESTABLISHED_WITHIN_S
    for name in waiting:
        while not _established(await client.wire.get(place, name) or {}):
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"the API did not establish {name} within {ESTABLISHED_WITHIN_S:.0f} s")
            await asyncio.sleep(POLL_S)
    return names


def _established(definition: JSON) -> bool:
    # A new definition's conditions are null for a moment on kube-apiserver.
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)
