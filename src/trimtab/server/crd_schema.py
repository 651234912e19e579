"""A CRD's `openAPIV3Schema` becomes a compiled schema, or a list of what keeps it from being structural.

`compile_crd_schema` first checks the rules of structural schemas (`structural_rules.py`), then builds the nodes: types,
defaults, list and map types, preserved unknown fields, embedded resources, and one closure a constraint. `allOf`,
`anyOf`, `oneOf` and `not` only validate; they never prune or default. Last, every default must itself be valid.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from trimtab.server.definitions import enum_check, object_meta
from trimtab.server.formats import format_check
from trimtab.server.patterns import compiled
from trimtab.server.structural import (
    ANY,
    INVALID,
    JSON,
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
from trimtab.server.structural_rules import structural_errors


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
    ruled = "x-kubernetes-validations" in str(openapi_v3)
    if ruled and not errors:
        from trimtab.server.rule_checks import form_errors

        errors = list(form_errors(openapi_v3, "openAPIV3Schema"))
    if errors:
        raise SchemaInvalid(errors)
    root = _compile(openapi_v3)
    _make_object_root(root, openapi_v3)
    errors = list(_default_errors(openapi_v3, "openAPIV3Schema"))
    if errors:
        raise SchemaInvalid(errors)
    if preserve_unknown and root.values is None:
        root.values = ANY
        root.preserve = True
    rules = None
    if ruled:
        from trimtab.server.rules import rule_set

        rules = rule_set(openapi_v3)
    return Schema(root, api_version=api_version, kind=kind, status_subresource=status_subresource, rules=rules)


def check_rules(openapi_v3: JSON) -> None:
    """Checks the types and the highest cost of the rules in a valid schema.

    Raises:
        SchemaInvalid: rules do not compile, or could cost too much.
    """
    if "x-kubernetes-validations" in str(openapi_v3):
        from trimtab.server.rule_checks import rule_errors

        errors = rule_errors(openapi_v3)
        if errors:
            raise SchemaInvalid(errors)


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


# --- defaults -----------------------------------------------------------------------------------------------------


def _default_errors(schema: JSON, path: str) -> Iterator[FieldError]:
    """Defaults that the schema itself would refuse or prune."""
    if "default" in schema:
        yield from _faults_of_default(schema, path)
    for name, child in (schema.get("properties") or {}).items():
        yield from _default_errors(child, f"{path}.properties[{name}]")
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from _default_errors(schema[keyword], f"{path}.{keyword}")


def _faults_of_default(schema: JSON, path: str) -> Iterator[FieldError]:
    value = schema["default"]
    if value is None:
        if not schema.get("nullable"):
            yield FieldError(f"{path}.default", "Invalid value: null: must not be null unless nullable is true")
        return
    node = _compile(schema)
    errors: list[FieldError] = []
    walk(node, value, None, errors)
    for error in errors:
        dot = "." if error.path and not error.path.startswith("[") else ""
        yield FieldError(f"{path}.default{dot}{error.path}", error.message, error.reason)
    for dropped in Schema(node).prune(json.loads(json.dumps(value))):
        yield FieldError(f"{path}.default", f"Invalid value: must not have fields that get pruned: {dropped}")


# --- nodes --------------------------------------------------------------------------------------------------------


def _compile(schema: JSON) -> Node:
    kind = schema.get("type") or ("intstr" if schema.get("x-kubernetes-int-or-string") else "any")
    node = Node(kind)
    node.nullable = bool(schema.get("nullable"))
    node.preserve = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    node.required = tuple(schema.get("required") or ())
    properties = schema.get("properties") or {}
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
    node.fields = {name: _compile_value(child) for name, child in (schema.get("properties") or {}).items()}
    if isinstance(schema.get("items"), dict):
        node.items = _compile_value(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        node.values = _compile_value(schema["additionalProperties"])
    node.checks = tuple(_checks(schema))
    return node


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
    search = compiled(pattern).search

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
