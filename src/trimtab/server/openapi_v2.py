"""What the server publishes of itself as OpenAPI v2, in JSON: the definitions of every kind, custom ones among them.

Version 3 says everything (`openapi.py`); older clients read the definitions of this one. Paths are left out. What version 2
cannot say of a custom kind (`oneOf`, `nullable` and the like) is left out as the real server leaves it out: its rules stand in
k8s.io/apiextensions-apiserver, `controller/openapi/v2/conversion.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trimtab.server import definitions
from trimtab.server.kinds import Kind
from trimtab.server.openapi import META, METADATA, list_of, schema_name, schema_name_of_list, type_meta

JSON = dict[str, Any]

_DEFINITIONS = "#/definitions/"
_LEFT_OUT = frozenset({"allOf", "oneOf", "anyOf", "not", "nullable", "default", "x-kubernetes-validations"})
_UNSUPPORTED = "x-kubernetes-preserve-unknown-fields"


def document(kinds: Iterable[Kind], crd_schema: Callable[[Kind], JSON | None]) -> JSON:
    """The OpenAPI v2 document of all these kinds. crd_schema: the `openAPIV3Schema` of a custom kind; None where it has none."""
    found: JSON = {}
    queue = [META + "ObjectMeta", META + "ListMeta", META + "DeleteOptions", META + "Status"]
    for kind in kinds:
        name = schema_name(kind)
        if kind.crd:
            found[name] = _custom(kind, crd_schema(kind))
            found[f"{name}List"] = _list_of(kind, name)
        else:
            queue += [name, schema_name_of_list(kind, name)]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        try:
            found[name] = _published(definitions.text(name))
        except KeyError:
            found[name] = {"type": "object"}
        queue.extend(ref for ref in _references(found[name]) if ref not in found)
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": f"v{definitions.kubernetes_version()}"},
        "paths": {},
        "definitions": dict(sorted(found.items())),
    }


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix(_DEFINITIONS)
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def _published(schema: JSON) -> JSON:
    """A published definition in the form of version 2: no null types, no alternatives."""
    out: JSON = {}
    for key, value in schema.items():
        if key == "$ref":
            out[key] = _DEFINITIONS + value.rpartition("/")[2]
        elif key == "type" and isinstance(value, list):
            out[key] = next(name for name in value if name != "null")
        elif key == "properties":
            out[key] = {name: _published(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = _published(value)
        elif key not in ("enum", "oneOf"):
            out[key] = value
    return out


def _custom(kind: Kind, schema: JSON | None) -> JSON:
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    said = schema is not None and not schema.get(_UNSUPPORTED)
    body: JSON = _restricted(schema) if schema is not None and said else {"type": "object"}
    if said:
        body["properties"] = {
            **body.get("properties", {}),
            **type_meta(),
            "metadata": {"description": METADATA, "$ref": f"{_DEFINITIONS}{META}ObjectMeta"},
        }
    return {**body, "x-kubernetes-group-version-kind": [gvk]}


def _restricted(schema: JSON) -> JSON:
    """A custom schema without what version 2 cannot say."""
    vague = bool(schema.get("nullable") or schema.get(_UNSUPPORTED))
    out: JSON = {}
    for key, value in schema.items():
        if key in _LEFT_OUT or (vague and key in ("items", "properties")):
            continue
        if key == "properties":
            out[key] = {name: _restricted(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = _restricted(value)
        else:
            out[key] = value
    untyped = out.get("type") == "array" and "items" not in out
    if schema.get("nullable") or untyped or (schema.get(_UNSUPPORTED) and out.get("type") == "object"):
        out.pop("type", None)
    children = schema["properties"] if "properties" in out else {}
    required = [name for name in out.pop("required", ()) if not children.get(name, {}).get("nullable")]
    if required:
        out["required"] = required
    return out


def _list_of(kind: Kind, name: str) -> JSON:
    return list_of(kind, {"$ref": f"{_DEFINITIONS}{META}ListMeta"}, {"$ref": _DEFINITIONS + name})
