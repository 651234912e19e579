"""What a CRD's schema must be so that pruning and defaulting have one meaning: the rules of structural schemas.

`structural_errors` reads a schema as it stands in the CRD and names each fault by its path, in two passes: first that
every keyword has the type it must have (a decoded Go struct would not hold anything else), then the rules proper: a type
everywhere, no keyword that would make validity depend on more than the value, list types with their keys, and logical
junctors that only restrict fields which stand outside of them too.

The rules are those of
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from trimtab.server.patterns import compiled
from trimtab.server.structural import DUPLICATE, FORBIDDEN, JSON, NOT_SUPPORTED, REQUIRED, FieldError, value_text

DEPTH_MAX = 64
"""Schemas nested deeper than this are refused: nothing real is, and recursion must end."""

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_FORBIDDEN = (
    "$ref",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
)
_NOT_IN_JUNCTORS = (
    "type",
    "additionalProperties",
    "default",
    "title",
    "description",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
)
_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]


# --- the types of keywords ----------------------------------------------------------------------------------------

_KEYWORDS: dict[str, tuple[type, ...]] = {
    "type": (str,),
    "format": (str,),
    "pattern": (str,),
    "title": (str,),
    "description": (str,),
    "properties": (dict,),
    "additionalProperties": (dict, bool),
    "items": (dict, list),
    "not": (dict,),
    "allOf": (list,),
    "anyOf": (list,),
    "oneOf": (list,),
    "enum": (list,),
    "required": (list,),
    "minimum": (int, float),
    "maximum": (int, float),
    "multipleOf": (int, float),
    "exclusiveMinimum": (bool,),
    "exclusiveMaximum": (bool,),
    "minLength": (int,),
    "maxLength": (int,),
    "minItems": (int,),
    "maxItems": (int,),
    "minProperties": (int,),
    "maxProperties": (int,),
    "uniqueItems": (bool,),
    "nullable": (bool,),
    "x-kubernetes-list-type": (str,),
    "x-kubernetes-list-map-keys": (list,),
    "x-kubernetes-map-type": (str,),
    "x-kubernetes-preserve-unknown-fields": (bool,),
    "x-kubernetes-embedded-resource": (bool,),
    "x-kubernetes-int-or-string": (bool,),
}
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
}


def _shape_errors(schema: Any, path: str, depth: int) -> Iterator[FieldError]:
    if not isinstance(schema, dict):
        yield FieldError(path, f"Invalid value: {value_text(schema)}: must be a schema")
        return
    if depth > DEPTH_MAX:
        yield FieldError(path, f"Invalid value: must not be nested deeper than {DEPTH_MAX} levels")
        return
    faulty: set[str] = set()
    for keyword, types in _KEYWORDS.items():
        value = schema.get(keyword)
        if value is None or (type(value) in types):
            continue
        faulty.add(keyword)
        wanted = " or ".join(_NAMES[t] for t in types if not (t is int and float in types))
        yield FieldError(f"{path}.{keyword}", f"Invalid value: {value_text(value)}: must be {wanted}")
    for keyword in ("required", "x-kubernetes-list-map-keys"):
        if keyword not in faulty and not all(isinstance(name, str) for name in schema.get(keyword) or []):
            yield FieldError(f"{path}.{keyword}", "Invalid value: must be a list of field names")
    for where, child in _children(schema, faulty):
        yield from _shape_errors(child, f"{path}.{where}", depth + 1)


def _children(schema: JSON, faulty: set[str]) -> Iterator[tuple[str, Any]]:
    """(where, schema) of everything that is a schema itself."""
    if "properties" not in faulty:
        for name, child in (schema.get("properties") or {}).items():
            yield f"properties[{name}]", child
    for keyword in ("items", "additionalProperties", "not"):
        if keyword not in faulty and isinstance(schema.get(keyword), dict):
            yield keyword, schema[keyword]
    for keyword in ("allOf", "anyOf", "oneOf"):
        if keyword not in faulty:
            for index, child in enumerate(schema.get(keyword) or []):
                yield f"{keyword}[{index}]", child


# --- the rules ----------------------------------------------------------------------------------------------------


def structural_errors(schema: Any, path: str = "openAPIV3Schema") -> list[FieldError]:
    """Every fault that keeps a schema from being structural; empty when it is."""
    if schema is None:
        return [FieldError(path, "Required value: schemas are required", REQUIRED)]
    errors = list(_shape_errors(schema, path, 0))
    if errors:
        return errors
    if schema.get("type") != "object":
        problem = "must be object at the root"
        if "type" in schema:
            errors.append(FieldError(f"{path}.type", f"Invalid value: {value_text(schema['type'])}: {problem}"))
        else:
            errors.append(FieldError(f"{path}.type", f"Required value: {problem}", REQUIRED))
    metadata = schema.get("properties", {}).get("metadata") if isinstance(schema.get("properties"), dict) else None
    if isinstance(metadata, dict):
        extra = set(metadata) - {"type", "description", "properties"}
        for name in sorted(set(metadata.get("properties", {})) - {"name", "generateName"}):
            extra.add(f"properties[{name}]")
        for name in sorted(extra):
            text = "Forbidden: must not be set: only name and generateName may be restricted"
            errors.append(FieldError(f"{path}.properties[metadata].{name}", text, FORBIDDEN))
    if schema.get("nullable"):
        errors.append(FieldError(f"{path}.nullable", "Forbidden: nullable cannot be true at the root", FORBIDDEN))
    errors.extend(_node_errors(schema, path, root=True))
    return errors


def _node_errors(schema: JSON, path: str, *, root: bool = False) -> Iterator[FieldError]:
    if not root:
        yield from _type_errors(schema, path)
    yield from _keyword_errors(schema, path)
    yield from _list_errors(schema, path)
    yield from _junctor_errors(schema, path)
    for name, child in _properties(schema).items():
        yield from _node_errors(child, f"{path}.properties[{name}]")
    if isinstance(schema.get("items"), list):
        yield FieldError(f"{path}.items", "Forbidden: items must be a schema object and not an array", FORBIDDEN)
    elif isinstance(schema.get("items"), dict):
        yield from _node_errors(schema["items"], f"{path}.items")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _node_errors(schema["additionalProperties"], f"{path}.additionalProperties")


def _properties(schema: JSON) -> JSON:
    return schema.get("properties") or {}


def _type_errors(schema: JSON, path: str) -> Iterator[FieldError]:
    kind = schema.get("type")
    untyped = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if kind is None:
        if not untyped:
            yield FieldError(f"{path}.type", "Required value: must not be empty for specified object fields", REQUIRED)
    elif kind not in _TYPES:
        supported = ", ".join(f'"{name}"' for name in _TYPES)
        text = f"Unsupported value: {value_text(kind)}: supported values: {supported}"
        yield FieldError(f"{path}.type", text, NOT_SUPPORTED)
    elif schema.get("x-kubernetes-int-or-string"):
        text = f"Invalid value: {value_text(kind)}: must be empty if x-kubernetes-int-or-string is true"
        yield FieldError(f"{path}.type", text)
    if schema.get("x-kubernetes-embedded-resource"):
        if kind != "object":
            text = f"Invalid value: {value_text(kind)}: must be object if x-kubernetes-embedded-resource is true"
            yield FieldError(f"{path}.type", text)
        if not schema.get("properties") and not schema.get("x-kubernetes-preserve-unknown-fields"):
            text = "Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"
            yield FieldError(f"{path}.properties", text, REQUIRED)
    if kind == "array" and "items" not in schema:
        yield FieldError(f"{path}.items", "Required value: must be specified", REQUIRED)


def _keyword_errors(schema: JSON, path: str) -> Iterator[FieldError]:
    for name in _FORBIDDEN:
        if schema.get(name):
            yield FieldError(f"{path}.{name}", "Forbidden: must not be set in a structural schema", FORBIDDEN)
    if schema.get("uniqueItems") is True:
        text = "Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield FieldError(f"{path}.uniqueItems", text, FORBIDDEN)
    additional = schema.get("additionalProperties")
    if additional is not None and additional is not True:
        if additional is False:
            text = "Forbidden: additionalProperties cannot be set to false"
            yield FieldError(f"{path}.additionalProperties", text, FORBIDDEN)
        if schema.get("properties"):
            text = "Forbidden: additionalProperties and properties are mutual exclusive"
            yield FieldError(f"{path}.additionalProperties", text, FORBIDDEN)
    if schema.get("x-kubernetes-preserve-unknown-fields") is False:
        text = "Invalid value: false: must be true or undefined"
        yield FieldError(f"{path}.x-kubernetes-preserve-unknown-fields", text)
    yield from _pattern_errors(schema, path)
    if schema.get("x-kubernetes-map-type") not in (None, "atomic", "granular"):
        text = (
            f'Unsupported value: {value_text(schema["x-kubernetes-map-type"])}: supported values: "atomic", "granular"'
        )
        yield FieldError(f"{path}.x-kubernetes-map-type", text, NOT_SUPPORTED)


def _pattern_errors(schema: JSON, path: str) -> Iterator[FieldError]:
    pattern = schema.get("pattern")
    if pattern is not None:
        try:
            compiled(pattern)
        except re.error as err:
            text = f"Invalid value: {value_text(pattern)}: must be a valid regular expression, but isn't: {err}"
            yield FieldError(f"{path}.pattern", text)


def _list_errors(schema: JSON, path: str) -> Iterator[FieldError]:
    list_type = schema.get("x-kubernetes-list-type")
    keys = schema.get("x-kubernetes-list-map-keys") or []
    if list_type is None and not keys:
        return
    if list_type not in ("atomic", "map", "set"):
        text = f'Unsupported value: {value_text(list_type)}: supported values: "atomic", "map", "set"'
        yield FieldError(f"{path}.x-kubernetes-list-type", text, NOT_SUPPORTED)
        return
    if schema.get("type") != "array":
        text = "Invalid value: must be array if x-kubernetes-list-type is specified"
        yield FieldError(f"{path}.type", text)
    item = schema.get("items")
    if not isinstance(item, dict):
        return
    if list_type == "set":
        scalar = item.get("type") in ("string", "integer", "number", "boolean") or item.get(
            "x-kubernetes-int-or-string"
        )
        atomic = item.get("x-kubernetes-list-type") == "atomic" or item.get("x-kubernetes-map-type") == "atomic"
        if not scalar and not atomic:
            text = "Invalid value: items must be scalars or atomic when x-kubernetes-list-type is set"
            yield FieldError(f"{path}.items", text)
    if list_type != "map":
        if keys:
            text = "Forbidden: x-kubernetes-list-map-keys may only be set when x-kubernetes-list-type is map"
            yield FieldError(f"{path}.x-kubernetes-list-map-keys", text, FORBIDDEN)
        return
    if not keys:
        text = "Required value: must not be empty if x-kubernetes-list-type is map"
        yield FieldError(f"{path}.x-kubernetes-list-map-keys", text, REQUIRED)
    if item.get("type") != "object":
        text = "Invalid value: must be object if parent array's x-kubernetes-list-type is map"
        yield FieldError(f"{path}.items.type", text)
        return
    seen: set[str] = set()
    for index, key in enumerate(keys):
        where = f"{path}.x-kubernetes-list-map-keys[{index}]"
        declared = _properties(item).get(key)
        if not isinstance(declared, dict):
            text = f"Invalid value: {value_text(key)}: must be a key defined in items.properties"
            yield FieldError(where, text)
        elif key not in (item.get("required") or ()) and "default" not in declared:
            text = "Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            yield FieldError(f"{path}.items.properties[{key}].default", text, REQUIRED)
        if key in seen:
            yield FieldError(where, f"Duplicate value: {value_text(key)}", DUPLICATE)
        seen.add(key)


def _junctors(schema: JSON) -> Iterator[tuple[str, JSON]]:
    for name in ("allOf", "anyOf", "oneOf"):
        for index, child in enumerate(schema.get(name) or []):
            yield f"{name}[{index}]", child
    if schema.get("not") is not None:
        yield "not", schema["not"]


def _junctor_errors(schema: JSON, path: str) -> Iterator[FieldError]:
    types_allowed = bool(schema.get("x-kubernetes-int-or-string")) and _states_int_or_string(schema)
    for name, child in _junctors(schema):
        yield from _value_errors(schema, child, path, f"{path}.{name}", types_allowed=types_allowed)


def _states_int_or_string(schema: JSON) -> bool:
    if schema.get("anyOf") == _INT_OR_STRING:
        return True
    return any(child.get("anyOf") == _INT_OR_STRING for child in schema.get("allOf") or [])


def _value_errors(
    outside: JSON, schema: JSON, outside_path: str, path: str, *, types_allowed: bool
) -> Iterator[FieldError]:
    """Inside logical junctors a schema may only restrict values of fields that stand outside too."""
    for name in _NOT_IN_JUNCTORS:
        if schema.get(name) and not (name == "type" and types_allowed):
            yield FieldError(f"{path}.{name}", "Forbidden: must be empty to be structural", FORBIDDEN)
    yield from _pattern_errors(schema, path)
    for name, child in _properties(schema).items():
        where = f"{outside_path}.properties[{name}]"
        declared = _properties(outside).get(name)
        if declared is None:
            declared, where = outside.get("additionalProperties"), f"{outside_path}.additionalProperties"
        if not isinstance(declared, dict):
            text = f"Required value: because it is defined in {path}.properties[{name}]"
            yield FieldError(f"{outside_path}.properties[{name}]", text, REQUIRED)
            continue
        yield from _value_errors(declared, child, where, f"{path}.properties[{name}]", types_allowed=False)
    if isinstance(schema.get("items"), dict):
        declared = outside.get("items")
        if isinstance(declared, dict):
            yield from _value_errors(
                declared, schema["items"], f"{outside_path}.items", f"{path}.items", types_allowed=False
            )
        else:
            text = f"Required value: because it is defined in {path}.items"
            yield FieldError(f"{outside_path}.items", text, REQUIRED)
    for name, child in _junctors(schema):
        yield from _value_errors(outside, child, outside_path, f"{path}.{name}", types_allowed=types_allowed)
