"""A CRD's `openAPIV3Schema` becomes a compiled schema, or a list of what keeps it from being structural.

`compile_crd_schema` first checks the rules of structural schemas, each fault named by its path as the real server names
it, then builds the nodes: types, defaults, list and map types, preserved unknown fields, embedded resources, and one
closure a constraint. `allOf`, `anyOf`, `oneOf` and `not` only validate; they never prune or default.

The rules are those of
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from trimtab.server.definitions import enum_check, object_meta
from trimtab.server.formats import format_check
from trimtab.server.structural import (
    ANY,
    DUPLICATE,
    FORBIDDEN,
    INVALID,
    JSON,
    NOT_SUPPORTED,
    REQUIRED,
    STRING,
    TOO_LONG,
    TOO_MANY,
    Check,
    FieldError,
    Node,
    Path,
    Schema,
    add,
    compile_default,
    path_text,
    value_text,
    walk,
)

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
DEPTH_MAX = 64
"""Schemas nested deeper than this are refused: nothing real is, and recursion must end."""


class SchemaInvalid(ValueError):
    """A CRD's schema is not structural; `errors` has one line a fault, each naming its path."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = list(errors)
        super().__init__("\n".join(str(error) for error in errors))


def compile_crd_schema(
    openapi_v3: JSON,
    *,
    api_version: str = "",
    kind: str = "",
    status_subresource: bool = False,
    preserve_unknown: bool = False,
) -> Schema:
    """The schema of a custom kind. `preserve_unknown` is the CRD's old `spec.preserveUnknownFields`.

    Raises:
        SchemaInvalid: the schema is not structural; every line names a path below `openAPIV3Schema`.
    """
    errors = structural_errors(openapi_v3)
    if errors:
        raise SchemaInvalid(errors)
    root = _compile(openapi_v3)
    _make_object_root(root, openapi_v3)
    if preserve_unknown and root.values is None:
        root.values = ANY
        root.preserve = True
    return Schema(root, api_version=api_version, kind=kind, status_subresource=status_subresource)


def _make_object_root(node: Node, schema: JSON) -> None:
    """A root or an embedded resource has apiVersion, kind and real metadata, whatever its schema says of them."""
    declared = schema.get("properties", {}).get("metadata")
    node.fields = {**node.fields, "apiVersion": STRING, "kind": STRING, "metadata": object_meta()}
    node.defaults = tuple(item for item in node.defaults if item[0] not in ("apiVersion", "kind", "metadata"))
    node.required = tuple(name for name in node.required if name not in ("apiVersion", "kind", "metadata"))
    names = (declared or {}).get("properties", {})
    if names:
        constraints = Node("any")
        constraints.fields = {key: _compile_value(value) for key, value in names.items()}

        def check(value: Any, path: Path, errors: list[FieldError]) -> None:
            meta = value.get("metadata")
            if isinstance(meta, dict):
                walk(constraints, meta, (path, "metadata"), errors)

        node.checks = (*node.checks, check)


# --- what a structural schema must be -----------------------------------------------------------------------------


def structural_errors(schema: Any, path: str = "openAPIV3Schema") -> list[FieldError]:
    """Every fault that keeps a schema from being structural; empty when it is."""
    errors: list[FieldError] = []
    if not isinstance(schema, dict):
        return [FieldError(path, "Required value: schemas are required", REQUIRED)]
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
    errors.extend(_node_errors(schema, path, 0))
    return errors


def _node_errors(schema: Any, path: str, depth: int) -> Iterator[FieldError]:
    if not isinstance(schema, dict):
        yield FieldError(path, f"Invalid value: {value_text(schema)}: must be a schema")
        return
    if depth > DEPTH_MAX:
        yield FieldError(path, f"Invalid value: must not be nested deeper than {DEPTH_MAX} levels")
        return
    yield from _type_errors(schema, path)
    yield from _keyword_errors(schema, path)
    yield from _list_errors(schema, path)
    yield from _junctor_errors(schema, path)
    for name, child in _properties(schema).items():
        yield from _node_errors(child, f"{path}.properties[{name}]", depth + 1)
    if "items" in schema:
        if isinstance(schema["items"], list):
            yield FieldError(f"{path}.items", "Forbidden: items must be a schema object and not an array", FORBIDDEN)
        else:
            yield from _node_errors(schema["items"], f"{path}.items", depth + 1)
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict):
        yield from _node_errors(additional, f"{path}.additionalProperties", depth + 1)
    if "default" in schema:
        yield from _default_errors(schema, path)


def _properties(schema: JSON) -> JSON:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


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
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        try:
            _regex(pattern)
        except re.error as err:
            text = f"Invalid value: {value_text(pattern)}: must be a valid regular expression, but isn't: {err}"
            yield FieldError(f"{path}.pattern", text)
    if schema.get("x-kubernetes-map-type") not in (None, "atomic", "granular"):
        text = (
            f'Unsupported value: {value_text(schema["x-kubernetes-map-type"])}: supported values: "atomic", "granular"'
        )
        yield FieldError(f"{path}.x-kubernetes-map-type", text, NOT_SUPPORTED)


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
        elif key not in item.get("required", []) and "default" not in declared:
            text = "Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            yield FieldError(f"{path}.items.properties[{key}].default", text, REQUIRED)
        if key in seen:
            yield FieldError(where, f"Duplicate value: {value_text(key)}", DUPLICATE)
        seen.add(key)


def _junctors(schema: JSON) -> Iterator[tuple[str, JSON]]:
    for name in ("allOf", "anyOf", "oneOf"):
        for index, child in enumerate(schema.get(name) or []):
            yield f"{name}[{index}]", child
    if isinstance(schema.get("not"), dict):
        yield "not", schema["not"]


def _junctor_errors(schema: JSON, path: str) -> Iterator[FieldError]:
    int_or_string = bool(schema.get("x-kubernetes-int-or-string"))
    for name, child in _junctors(schema):
        allowed = int_or_string and _states_int_or_string(schema)
        yield from _value_errors(schema, child, f"{path}.{name}", types_allowed=allowed)


def _states_int_or_string(schema: JSON) -> bool:
    if schema.get("anyOf") == _INT_OR_STRING:
        return True
    return any(isinstance(c, dict) and c.get("anyOf") == _INT_OR_STRING for c in schema.get("allOf") or [])


def _value_errors(outside: JSON, schema: Any, path: str, *, types_allowed: bool) -> Iterator[FieldError]:
    """Inside logical junctors a schema may only restrict values of fields that stand outside too."""
    if not isinstance(schema, dict):
        yield FieldError(path, f"Invalid value: {value_text(schema)}: must be a schema")
        return
    for name in _NOT_IN_JUNCTORS:
        if schema.get(name) and not (name == "type" and types_allowed):
            yield FieldError(f"{path}.{name}", "Forbidden: must be empty to be structural", FORBIDDEN)
    for name, child in _properties(schema).items():
        declared = _properties(outside).get(name)
        if not isinstance(declared, dict):
            if not isinstance(outside.get("additionalProperties"), dict):
                text = f"Required value: because it is defined in {path}.properties[{name}]"
                yield FieldError(f"{path.partition('.')[0]}.properties[{name}]", text, REQUIRED)
                continue
            declared = outside["additionalProperties"]
        yield from _value_errors(declared, child, f"{path}.properties[{name}]", types_allowed=False)
    if isinstance(schema.get("items"), dict):
        declared = outside.get("items")
        if not isinstance(declared, dict):
            text = f"Required value: because it is defined in {path}.items"
            yield FieldError(f"{path.partition('.')[0]}.items", text, REQUIRED)
        else:
            yield from _value_errors(declared, schema["items"], f"{path}.items", types_allowed=False)
    for name, child in _junctors(schema):
        yield from _value_errors(outside, child, f"{path}.{name}", types_allowed=types_allowed)


def _default_errors(schema: JSON, path: str) -> Iterator[FieldError]:
    value = schema["default"]
    if value is None:
        if not schema.get("nullable"):
            yield FieldError(f"{path}.default", "Invalid value: null: must not be null unless nullable is true")
        return
    try:
        node = _compile(schema)
    except (re.error, TypeError, KeyError, AttributeError):
        return  # The schema's own faults are reported where they stand.
    errors: list[FieldError] = []
    walk(node, value, None, errors)
    for error in errors:
        where = f"{path}.default{'.' if error.path and not error.path.startswith('[') else ''}{error.path}"
        yield FieldError(where, error.message, error.reason)
    probe = Schema(node)
    if isinstance(value, dict):
        for dropped in probe.prune(json.loads(json.dumps(value))):
            yield FieldError(f"{path}.default", f"Invalid value: must not have fields that get pruned: {dropped}")


# --- nodes --------------------------------------------------------------------------------------------------------


def _compile(schema: JSON) -> Node:
    kind = schema.get("type") or ("intstr" if schema.get("x-kubernetes-int-or-string") else "any")
    node = Node(kind)
    node.nullable = bool(schema.get("nullable"))
    node.preserve = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    node.required = tuple(schema.get("required") or ())
    properties = _properties(schema)
    if properties:
        node.fields = {name: _compile(child) for name, child in properties.items()}
        node.defaults = tuple(
            (name, compile_default(child["default"])) for name, child in properties.items() if "default" in child
        )
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict):
        node.values = _compile(additional)
    elif additional is True or node.preserve or kind == "any":
        node.values = ANY
    node.atomic = schema.get("x-kubernetes-map-type") == "atomic"
    if kind == "array":
        node.items = _compile(schema["items"]) if isinstance(schema.get("items"), dict) else ANY
        list_type = schema.get("x-kubernetes-list-type", "atomic")
        node.atomic = list_type == "atomic"
        node.unique = list_type == "set"
        if list_type == "map":
            node.keys = tuple(sorted(schema["x-kubernetes-list-map-keys"]))
    elif kind == "any":
        node.items = ANY
    node.embedded = bool(schema.get("x-kubernetes-embedded-resource"))
    if node.embedded:
        _make_object_root(node, schema)
        node.required = (*node.required, "apiVersion", "kind")
    node.checks = tuple(_checks(schema))
    return node


def _compile_value(schema: JSON) -> Node:
    """A node that only validates: what stands inside logical junctors."""
    node = Node(schema.get("type") or "any")
    node.nullable = True
    node.required = tuple(schema.get("required") or ())
    node.fields = {name: _compile_value(child) for name, child in _properties(schema).items()}
    if isinstance(schema.get("items"), dict):
        node.items = _compile_value(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        node.values = _compile_value(schema["additionalProperties"])
    node.checks = tuple(_checks(schema))
    return node


# RE2, which the real server uses, has no look-around; Python's `$` would also match before a final newline.
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"(?<!\\)((?:\\\\)*)\$(?=$|\)|\|)", r"\1\\Z", pattern))


def _checks(schema: JSON) -> Iterator[Check]:
    if schema.get("enum") is not None:
        yield enum_check(schema["enum"])
    if isinstance(schema.get("pattern"), str):
        yield _pattern_check(schema["pattern"])
    if isinstance(schema.get("format"), str):
        found = format_check(schema["format"])
        if found is not None:
            yield found
    if schema.get("minimum") is not None or schema.get("maximum") is not None:
        yield _range_check(schema)
    if schema.get("multipleOf"):
        yield _multiple_check(schema["multipleOf"])
    for low, high, cls, noun in (
        ("minLength", "maxLength", str, "chars long"),
        ("minItems", "maxItems", list, "items"),
        ("minProperties", "maxProperties", dict, "properties"),
    ):
        if schema.get(low) is not None or schema.get(high) is not None:
            yield _size_check(schema.get(low), schema.get(high), cls, noun)
    yield from _logic_checks(schema)


def _pattern_check(pattern: str) -> Check:
    search = _regex(pattern).search

    def check(value: Any, path: Path, errors: list[FieldError]) -> None:
        if value.__class__ is str and search(value) is None:
            add(errors, path, value, f"should match '{pattern}'")

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _range_check(schema: JSON) -> Check:
    low, high = schema.get("minimum"), schema.get("maximum")
    open_low, open_high = bool(schema.get("exclusiveMinimum")), bool(schema.get("exclusiveMaximum"))

    def check(value: Any, path: Path, errors: list[FieldError]) -> None:
        if not _is_number(value):
            return
        if low is not None and (value <= low if open_low else value < low):
            add(errors, path, value, f"should be greater than {'' if open_low else 'or equal to '}{low}")
        if high is not None and (value >= high if open_high else value > high):
            add(errors, path, value, f"should be less than {'' if open_high else 'or equal to '}{high}")

    return check


def _multiple_check(factor: float) -> Check:
    def check(value: Any, path: Path, errors: list[FieldError]) -> None:
        if _is_number(value) and not float(value / factor).is_integer():
            add(errors, path, value, f"should be a multiple of {factor}")

    return check


def _size_check(low: int | None, high: int | None, cls: type, noun: str) -> Check:
    def check(value: Any, path: Path, errors: list[FieldError]) -> None:
        if value.__class__ is not cls:
            return
        size = len(value)
        if low is not None and size < low:
            verb = "be" if cls is str else "have"
            add(errors, path, value if cls is str else size, f"should {verb} at least {low} {noun}")
        if high is not None and size > high:
            where = path_text(path)
            if cls is str:
                errors.append(FieldError(where, f"Too long: may not be more than {high} bytes", TOO_LONG))
            else:
                errors.append(FieldError(where, f"Too many: {size}: must have at most {high} items", TOO_MANY))

    return check


def _passes(node: Node, value: Any, path: Path) -> bool:
    found: list[FieldError] = []
    walk(node, value, path, found)
    return not found


def _logic_checks(schema: JSON) -> Iterator[Check]:
    all_of = [_compile_value(child) for child in schema.get("allOf") or []]
    any_of = [_compile_value(child) for child in schema.get("anyOf") or []]
    one_of = [_compile_value(child) for child in schema.get("oneOf") or []]
    never = _compile_value(schema["not"]) if isinstance(schema.get("not"), dict) else None
    if not (all_of or any_of or one_of or never):
        return

    def check(value: Any, path: Path, errors: list[FieldError]) -> None:
        where = path_text(path)

        def fail(problem: str) -> None:
            shown = "<object>" if isinstance(value, dict | list) else value_text(value)
            errors.append(FieldError(where, f'Invalid value: {shown}: "{where}" must {problem}', INVALID))

        for node in all_of:
            walk(node, value, path, errors)
        if any_of and not any(_passes(node, value, path) for node in any_of):
            fail("validate at least one schema (anyOf)")
        if one_of:
            valid = sum(_passes(node, value, path) for node in one_of)
            if valid != 1:
                found = "Found none valid" if not valid else f"Found {valid} valid alternatives"
                fail(f"validate one and only one schema (oneOf). {found}")
        if never is not None and _passes(never, value, path):
            fail("not validate the schema (not)")

    yield check
