"""What CEL sees of a CRD's schema: the types of `self`, and how large its values can be.

As in Kubernetes (`apiserver/pkg/cel/common/schemas.go`): fields without a type of their own are left out, `x-kubernetes-int-or-string`
is dynamic, formats of times and bytes are those types, and names that are no identifiers are escaped (`a-b` is `a__dash__b`).
"""

from __future__ import annotations

import re

from trimtab.server.cel.syntax import RESERVED
from trimtab.server.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    Declared,
    list_of,
    map_of,
    object_type,
)
from trimtab.server.structural import JSON

REQUEST_MAX_BYTES = 3 * 1024 * 1024
"""The largest request that the estimates reckon with."""
_TEXT_MAX = REQUEST_MAX_BYTES - 2
_TIME_MAX, _DATE_MAX = 32, 12

_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_NAME = re.compile(r"[A-Za-z_./-][A-Za-z0-9_./-]*")
_TEXT: JSON = {"type": "string"}
_META: JSON = {"type": "object", "properties": {"name": _TEXT, "generateName": _TEXT}}


def escaped(name: str) -> str | None:
    """The name of a field in expressions; None of one that they cannot name."""
    if name in RESERVED:
        return f"__{name}__"
    if not _NAME.fullmatch(name):
        return None
    return re.sub(r"__|[./-]", lambda match: _ESCAPES[match[0]], name)


def with_object_meta(schema: JSON) -> JSON:
    """A schema of a whole object with what every object has, of which rules see the name only."""
    properties = schema.get("properties") or {}
    meta = properties.get("metadata") or {}
    known = all(
        (part.get(name) or {}).get("type") == "string"
        for part, name in (
            (properties, "kind"),
            (properties, "apiVersion"),
            (meta.get("properties") or {}, "name"),
            (meta.get("properties") or {}, "generateName"),
        )
    )
    if known and meta.get("type") == "object":
        return schema
    return {**schema, "properties": {**properties, "kind": _TEXT, "apiVersion": _TEXT, "metadata": _META}}


def declared_of(schema: JSON, *, root: bool = False) -> Declared | None:
    """The type of a value with this schema; None where expressions cannot see it. `root`: it is a whole object."""
    if schema.get("x-kubernetes-int-or-string"):
        length = schema.get("maxLength")
        return Declared(DYN, max_elements=_TEXT_MAX if length is None else 4 * max(length, 0), min_size=1)
    if root or schema.get("x-kubernetes-embedded-resource"):
        schema = with_object_meta(schema)
    match schema.get("type"):
        case "array":
            return _list(schema)
        case "object":
            additional = schema.get("additionalProperties")
            return _map(schema, additional) if isinstance(additional, dict) else _object(schema)
        case "string":
            return _string(schema)
        case "boolean":
            return Declared(BOOL, max_elements=0, min_size=4)
        case "number":
            return Declared(DOUBLE, max_elements=0, min_size=1)
        case "integer":
            return Declared(INT, max_elements=0, min_size=1)
    return None


def _list(schema: JSON) -> Declared | None:
    element = declared_of(schema["items"]) if isinstance(schema.get("items"), dict) else None
    if element is None:
        return None
    most = schema.get("maxItems")
    return Declared(
        list_of(element.type),
        element=element,
        max_elements=_TEXT_MAX // (element.min_size + 1) if most is None else max(most, 0),
        min_size=2,
        list_type=schema.get("x-kubernetes-list-type", ""),
        map_keys=tuple(escaped(key) or key for key in schema.get("x-kubernetes-list-map-keys") or ()),
    )


def _map(schema: JSON, additional: JSON) -> Declared | None:
    element = declared_of(additional)
    if element is None:
        return None
    most = schema.get("maxProperties")
    return Declared(
        map_of(STRING, element.type),
        element=element,
        key=Declared(STRING, max_elements=0),
        max_elements=_TEXT_MAX // (element.min_size + 6) if most is None else max(most, 0),
        min_size=2,
    )


def _object(schema: JSON) -> Declared:
    fields: dict[str, Declared] = {}
    sources: dict[str, str] = {}
    required = set(schema.get("required") or ())
    size = 2
    for name, child in (schema.get("properties") or {}).items():
        declared = declared_of(child)
        if declared is None:
            continue
        known_as = escaped(name)
        if name == "namespace":
            fields[name] = declared  # reserved by CEL, but so common that Kubernetes takes it as it is, too
        if known_as is not None:
            fields[known_as] = declared
            if known_as != name:
                sources[known_as] = name
        if name in required and child.get("default") is None:
            size += len(name) + declared.min_size + 4
    return Declared(object_type("object"), fields=fields, sources=sources, max_elements=0, min_size=size)


def _string(schema: JSON) -> Declared:
    length = schema.get("maxLength")
    match schema.get("format"):
        case "byte":
            return Declared(BYTES, max_elements=_TEXT_MAX if length is None else max(length, 0), min_size=2)
        case "duration":
            return Declared(DURATION, max_elements=_TIME_MAX, min_size=3)
        case "date":
            return Declared(TIMESTAMP, max_elements=_DATE_MAX, min_size=_DATE_MAX)
        case "date-time":
            return Declared(TIMESTAMP, max_elements=_TIME_MAX, min_size=21)
    if length is not None:
        most = 4 * max(length, 0)
    elif schema.get("enum"):
        most = max((len(value.encode()) for value in schema["enum"] if isinstance(value, str)), default=0)
    else:
        most = _TEXT_MAX
    return Declared(STRING, max_elements=most, min_size=2)
