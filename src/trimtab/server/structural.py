"""A schema, compiled: one tree of nodes from which an object is pruned, defaulted, validated, merged and diffed.

A body that arrives goes through three steps, each walking the object once along the node tree: `prune` drops fields
that the schema does not name, `default` fills in what was left out, `validate` says in Kubernetes' words what is wrong.
Built-in kinds and custom kinds have the same nodes; they differ in where nodes come from (`schemas.py` compiles a
definition when it is first touched, `crd.py` a CRD's schema) and in how nulls are read (`Schema.builtin`). The list
types, map keys and merge keys that server-side apply (`merge.py`) and strategic merge patch (`strategic.py`) need stand
on the same nodes.

Bodies are plain decoded JSON and are changed in place; nodes never are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimtab.api.quantity import canonical_quantity

if TYPE_CHECKING:
    from trimtab.server.rules import RuleSet

JSON = dict[str, Any]

Path = tuple[Any, ...] | None
"""Where a value stands, as a linked list `(parent, key or index)`: costs nothing until an error prints it."""

Check = Callable[[Any, Path, list["FieldError"]], None]
"""One constraint of a value beyond its type; appends to the errors."""

Defaulter = Callable[[JSON], None]
"""A default that depends on other fields of the same object."""

REQUIRED = "FieldValueRequired"
INVALID = "FieldValueInvalid"
NOT_SUPPORTED = "FieldValueNotSupported"
DUPLICATE = "FieldValueDuplicate"
FORBIDDEN = "FieldValueForbidden"
TOO_LONG = "FieldValueTooLong"
TOO_MANY = "FieldValueTooMany"
TYPE_INVALID = "FieldValueTypeInvalid"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of an object: `path` like `spec.containers[0].name`, `message` without the path, `reason` as in a Status cause."""

    path: str
    message: str
    reason: str = INVALID

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


_PYTHON: Mapping[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}


class Node:
    """What the schema says of one value. A node made with `load` fills itself in when it is first looked at."""

    __slots__ = (
        "_load",
        "atomic",
        "checks",
        "default",
        "defaulter",
        "defaults",
        "drops",
        "embedded",
        "fields",
        "inline",
        "items",
        "keys",
        "kind",
        "merge_key",
        "nullable",
        "preserve",
        "python",
        "repeats",
        "required",
        "strategy",
        "unique",
        "values",
        "zeros",
    )

    kind: str
    """JSON type, or `intstr`, `quantity`, or `any` where the schema says nothing."""
    python: type | None
    """The exact Python class of a valid value where there is only one."""
    fields: Mapping[str, Node]
    values: Node | None
    """What keys that `fields` does not name hold; None where such keys are unknown."""
    items: Node | None
    preserve: bool
    """Unknown fields are kept here and below."""
    embedded: bool
    nullable: bool
    required: tuple[str, ...]
    checks: tuple[Check, ...]
    default: Any
    """The JSON text of the default, or None."""
    defaults: tuple[tuple[str, Any], ...]
    """The fields with a default: (name, scalar or JSON text of a container)."""
    defaulter: Defaulter | None
    atomic: bool
    """A map or list that one manager owns as a whole."""
    keys: tuple[str, ...]
    """The keys of a list of type map, sorted."""
    repeats: bool
    """A key may stand twice in that list."""
    unique: bool
    """A list of type set."""
    inline: bool
    """A struct that built-in kinds always carry, so that its presence is nobody's."""
    merge_key: str
    strategy: str
    drops: frozenset[str]
    """Fields of a built-in struct that are not written when they are zero."""
    zeros: tuple[tuple[str, Any], ...]
    """Fields of a built-in struct that are written even when nobody set them: (name, value)."""
    _load: Callable[[Node], None]

    def __init__(self, kind: str = "any", load: Callable[[Node], None] | None = None) -> None:
        if load is not None:
            self._load = load
            return
        self.kind = kind
        self.python = _PYTHON.get(kind)
        self.fields = _NO_FIELDS
        self.values = None
        self.items = None
        self.preserve = False
        self.embedded = False
        self.nullable = False
        self.required = ()
        self.checks = ()
        self.default = None
        self.defaults = ()
        self.defaulter = None
        self.atomic = False
        self.keys = ()
        self.repeats = False
        self.unique = False
        self.inline = False
        self.merge_key = ""
        self.strategy = ""
        self.drops = _NOTHING
        self.zeros = ()

    def __getattr__(self, name: str) -> Any:
        """Runs only while a slot is unset: fills in a lazy node, once."""
        if name.startswith("_"):
            raise AttributeError(name)
        load = self._load
        load(self)
        del self._load
        return getattr(self, name)

    def become(self, other: Node) -> None:
        """Takes over everything of `other`."""
        for slot in Node.__slots__:
            if slot != "_load":
                setattr(self, slot, getattr(other, slot))

    def child(self, key: str) -> Node | None:
        """The node of a field or of a map's value; None where the schema knows no such field."""
        return self.fields.get(key) or self.values


_NO_FIELDS: Mapping[str, Node] = {}
_NOTHING: frozenset[str] = frozenset()

ANY = Node("any")
"""Below preserved unknown fields: maps are granular, lists atomic, everything is allowed."""
ANY.values = ANY
ANY.items = ANY
ANY.preserve = True
ANY.nullable = True
STRING = Node("string")


class Schema:
    """The compiled schema of one kind, shared by every request that touches it."""

    __slots__ = ("api_version", "builtin", "kind", "root", "rules", "status_subresource")

    def __init__(
        self,
        root: Node,
        *,
        api_version: str = "",
        kind: str = "",
        builtin: bool = False,
        status_subresource: bool = False,
        rules: RuleSet | None = None,
    ) -> None:
        self.root = root
        self.rules = rules
        """The validation rules of a custom kind."""
        self.api_version = api_version
        self.kind = kind
        self.builtin = builtin
        """Nulls and empty optional lists and maps vanish, as they do when the real server decodes into a Go struct."""
        self.status_subresource = status_subresource
        """`status` is written through its subresource only."""

    def prune(self, obj: JSON, wrong: list[FieldError] | None = None) -> list[str]:
        """Drops fields that the schema does not name, in place; the paths dropped, like `spec.containers[0].foo`.

        wrong: of a built-in kind, is given each value of another type than its field; what such an object holds must not
        be looked at any further."""
        dropped: list[str] = []
        if self.builtin:
            _prune_builtin(self.root, obj, None, dropped, [] if wrong is None else wrong)
        else:
            _prune(self.root, obj, None, dropped)
            node = self.root.fields.get("metadata")
            if node is not None and "managedFields" in node.fields and obj.get("metadata").__class__ is dict:
                # Also a custom object's metadata passes through the struct that all objects share.
                _prune_builtin(node, obj["metadata"], (None, "metadata"), [], [])
        return dropped

    def default(self, obj: JSON) -> None:
        """Fills in missing fields, in place. In custom kinds, nulls that a field does not allow count as missing."""
        if self.builtin:
            _default_builtin(self.root, obj)
        else:
            _default(self.root, obj)

    def complete(self, obj: JSON, *, stored: bool = False) -> None:
        """Writes what a built-in kind's struct writes even when nobody set it, in place; after validation, which has asked for it.
        stored: as storage gives it back, in which an empty list is none."""
        if self.builtin:
            _complete(self.root, obj, stored)

    def validate(self, obj: JSON) -> list[FieldError]:
        """What is wrong with the object, in the order of its fields; empty when it is valid."""
        errors: list[FieldError] = []
        walk(self.root, obj, None, errors)
        if errors and self.builtin:
            # The real server decodes a status without asking for completeness.
            return [e for e in errors if e.reason != REQUIRED or not e.path.startswith("status")]
        return errors


# --- paths and values as text -------------------------------------------------------------------------------------


def path_text(path: Path) -> str:
    """`spec.containers[0].name`; empty for the object itself."""
    parts: list[str] = []
    while path is not None:
        path, key = path
        parts.append(f"[{key}]" if isinstance(key, int) else key)
    text = ""
    for part in reversed(parts):
        text += part if part.startswith("[") or not text else f".{part}"
    return text


def type_name(value: object) -> str:
    """The JSON type of a value in the words of an OpenAPI error."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "array" if isinstance(value, list) else "object"


def value_text(value: object) -> str:
    """A value as field errors print it: strings quoted, the rest as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def add(errors: list[FieldError], path: Path, value: object, problem: str, reason: str = INVALID) -> None:
    """Records `Invalid value: <value>: <path> in body <problem>`."""
    where = path_text(path)
    shown = "<object>" if isinstance(value, dict | list) and len(str(value)) > 300 else value_text(value)
    errors.append(FieldError(where, f"Invalid value: {shown}: {where + ' ' if where else ''}in body {problem}", reason))


def _wrong_type(node: Node, value: object, path: Path, errors: list[FieldError]) -> None:
    expected = {"intstr": "integer or string", "quantity": "integer or string"}.get(node.kind, node.kind)
    found = type_name(value)
    add(errors, path, found, f'must be of type {expected}: "{found}"', TYPE_INVALID)


# --- validate -----------------------------------------------------------------------------------------------------


def _accepts(node: Node, value: object) -> bool:
    """Whether a value whose class is not exactly `node.python` still has the type."""
    kind = node.kind
    if kind == "any":
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "number":
        return isinstance(value, int | float)
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if kind == "intstr":
        return isinstance(value, int | str)
    if kind == "quantity":
        return isinstance(value, int | float | str)
    return False


def walk(node: Node, value: Any, path: Path, errors: list[FieldError]) -> None:
    """Validates one value and all below it."""
    if value is None and node.nullable:
        return
    cls = value.__class__
    if cls is not node.python and not _accepts(node, value):
        _wrong_type(node, value, path, errors)
        return
    if cls is dict:
        for name in node.required:
            if name not in value:
                errors.append(FieldError(path_text((path, name)), "Required value", REQUIRED))
        fields = node.fields
        values = node.values
        if fields or (values is not None and values is not ANY):
            for key, child_value in value.items():
                child = fields.get(key) or values
                if child is None or child is ANY:
                    continue
                child_class = child_value.__class__
                if child_class is child.python and child_class is not dict and child_class is not list:
                    for check in child.checks:
                        check(child_value, (path, key), errors)
                else:
                    walk(child, child_value, (path, key), errors)
    elif cls is list:
        item = node.items
        if item is not None and item is not ANY:
            for index, child_value in enumerate(value):
                walk(item, child_value, (path, index), errors)
        if node.keys and not node.repeats:
            _duplicate_keys(node, value, path, errors)
        elif node.unique:
            _duplicate_values(value, path, errors)
    for check in node.checks:
        check(value, path, errors)


def _duplicate_keys(node: Node, value: list[Any], path: Path, errors: list[FieldError]) -> None:
    seen: set[Any] = set()
    for index, item in enumerate(value):
        if item.__class__ is not dict:
            continue
        key = tuple(repr(item.get(k)) for k in node.keys)
        if key in seen:
            shown = {k: item[k] for k in node.keys if k in item}
            errors.append(FieldError(path_text((path, index)), f"Duplicate value: {value_text(shown)}", DUPLICATE))
        seen.add(key)


def _duplicate_values(value: list[Any], path: Path, errors: list[FieldError]) -> None:
    seen: set[str] = set()
    for index, item in enumerate(value):
        key = value_text(item)
        if key in seen:
            errors.append(FieldError(path_text((path, index)), f"Duplicate value: {key}", DUPLICATE))
        seen.add(key)


# --- prune --------------------------------------------------------------------------------------------------------


def _prune(node: Node, value: Any, path: Path, dropped: list[str]) -> None:
    """Drops what a custom kind's schema does not name; keeps nulls, which `default` judges."""
    if value.__class__ is dict:
        fields = node.fields
        values = node.values
        for key in list(value):
            child = fields.get(key) or values
            if child is None:
                if node.kind == "any":
                    continue
                dropped.append(path_text((path, key)))
                del value[key]
                continue
            child_value = value[key]
            child_class = child_value.__class__
            if child is not ANY and (child_class is dict or child_class is list):
                _prune(child, child_value, (path, key), dropped)
    elif value.__class__ is list:
        item = node.items
        if item is not None and item is not ANY:
            for index, child_value in enumerate(value):
                _prune(item, child_value, (path, index), dropped)


def _canonical(value: Any) -> Any:
    """An amount as the real server gives it back; what is none is left to validation."""
    try:
        return canonical_quantity(str(value))
    except ValueError:
        return value


def _prune_builtin(node: Node, value: Any, path: Path, dropped: list[str], wrong: list[FieldError]) -> None:
    """Drops unknown fields, and does with the rest what decoding into a Go struct does: a null field is not there, a null item
    or map value is the zero of its type, an empty list or map of an optional field is not there."""
    if value.__class__ is dict:
        fields = node.fields
        values = node.values
        for key in list(value):
            child_value = value[key]
            child = fields.get(key) or values
            if child is None:
                if node.kind != "any":
                    dropped.append(path_text((path, key)))
                    del value[key]
                continue
            if child is ANY:
                if child_value is None and not node.preserve:
                    del value[key]
                continue
            if child_value is None and not node.preserve:
                if key in fields or child.kind not in _ZEROS:
                    del value[key]
                    continue
                value[key] = child_value = _zero(child)
            child_class = child_value.__class__
            if child_class is not child.python and not _accepts(child, child_value):
                _wrong_type(child, child_value, (path, key), wrong)
            if child_class is not dict and child_class is not list:
                if not child_value and key in node.drops:
                    del value[key]
                elif child.kind == "quantity":
                    value[key] = _canonical(child_value)
                continue
            _prune_builtin(child, child_value, (path, key), dropped, wrong)
            if (
                not child_value
                and values is None
                and key not in node.required
                and key != "managedFields"  # an empty list gives up tracking
                and not any(key == name for name, _ in node.zeros)
                and (child_class is list or (child.values is not None and not child.preserve))
            ):
                del value[key]
    elif value.__class__ is list:
        item = node.items
        if item is not None and item is not ANY:
            for index, child_value in enumerate(value):
                if child_value is None and item.kind in _ZEROS:
                    value[index] = child_value = _zero(item)
                if child_value.__class__ is not item.python and not _accepts(item, child_value):
                    _wrong_type(item, child_value, (path, index), wrong)
                _prune_builtin(item, child_value, (path, index), dropped, wrong)


_ZEROS: Mapping[str, Any] = {
    "object": b"{}", "array": b"[]", "string": "", "boolean": False, "integer": 0, "number": 0, "intstr": 0, "quantity": "0"
}  # fmt: skip
"""What decoding makes of a null item, by the kind of its node, as `compile_default` keeps it."""


def _zero(node: Node) -> Any:
    zero = _ZEROS[node.kind]
    return json.loads(zero) if zero.__class__ is bytes else zero


# --- default ------------------------------------------------------------------------------------------------------


def _default(node: Node, value: Any) -> None:
    if value.__class__ is dict:
        fields = node.fields
        values = node.values
        for key in list(value) if None in value.values() else ():
            if value[key] is None:
                child = fields.get(key)
                if child is not None and not child.nullable:
                    del value[key]
        for key, default in node.defaults:
            if key not in value:
                value[key] = json.loads(default) if default.__class__ is bytes else default
        if fields or (values is not None and values is not ANY):
            for key, child_value in value.items():
                child_class = child_value.__class__
                if child_class is dict or child_class is list:
                    child = fields.get(key) or values
                    if child is not None and child is not ANY:
                        _default(child, child_value)
    elif value.__class__ is list:
        item = node.items
        if item is not None and item is not ANY:
            for child_value in value:
                _default(item, child_value)


def _default_builtin(node: Node, value: Any) -> None:
    """Like `_default`, and runs the defaults that depend on other fields, the object's own before those below it."""
    if value.__class__ is dict:
        fields = node.fields
        values = node.values
        for key, default in node.defaults:
            if key not in value:
                value[key] = json.loads(default) if default.__class__ is bytes else default
        if node.defaulter is not None:
            node.defaulter(value)
        for key, child_value in value.items():
            child_class = child_value.__class__
            if child_class is dict or child_class is list:
                child = fields.get(key) or values
                if child is not None and child is not ANY:
                    _default_builtin(child, child_value)
    elif value.__class__ is list:
        item = node.items
        if item is not None and item is not ANY:
            for child_value in value:
                _default_builtin(item, child_value)


def _complete(node: Node, value: Any, stored: bool) -> None:
    if value.__class__ is dict:
        for key, zero in node.zeros:
            if key not in value or (stored and zero is None and value[key] == []):
                value[key] = zero
        fields = node.fields
        values = node.values
        for key, child_value in value.items():
            child_class = child_value.__class__
            if child_class is dict or child_class is list:
                child = fields.get(key) or values
                if child is not None and child is not ANY:
                    _complete(child, child_value, stored)
    elif value.__class__ is list:
        item = node.items
        if item is not None and item is not ANY:
            for child_value in value:
                _complete(item, child_value, stored)


def compile_default(value: Any) -> Any:
    """A default as it is kept on a node: scalars as they are, containers as JSON text, so that each use is a fresh copy."""
    return json.dumps(value).encode() if isinstance(value, dict | list) else value
