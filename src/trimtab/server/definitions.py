"""The schemas of the built-in kinds, compiled on first touch from the index that `schemas_build` makes at setup.

`builtin("apps/v1", "Deployment")` costs the reading of one record; `PodSpec` is read when the first pod template is
walked, a volume source when the first volume of that sort is. `text(...)` gives a definition with its descriptions for
`/openapi/v3`. What the published schemas do not say (defaults, structs that are always there) stands in `defaults.py`.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from trimtab.api.quantity import parse_quantity
from trimtab.server.defaults import DEFAULTERS, DEFAULTS, INLINE, OPTIONAL, REPEATS
from trimtab.server.formats import integer_range, is_base64, is_date_time
from trimtab.server.structural import (
    ANY,
    JSON,
    NOT_SUPPORTED,
    TYPE_INVALID,
    Check,
    FieldError,
    Node,
    Schema,
    compile_default,
    path_text,
    value_text,
)

OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_SHARED_KINDS = {"DeleteOptions", "WatchEvent", "Status", "APIResourceList", "APIGroupList"}
"""Kinds of the meta package that every group version has."""

_OPAQUE = {
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
}
"""Definitions that hold any JSON. JSONSchemaProps is among them because the CRD compiler reads it with better errors."""


class _Index:
    """The files that `schemas_build` wrote, held open and read record by record."""

    def __init__(self, directory: Path) -> None:
        try:
            index = json.loads((directory / "index.json").read_bytes())
            self._shapes = os.open(directory / "shapes", os.O_RDONLY | os.O_CLOEXEC)
            self._texts = os.open(directory / "texts", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"built-in schemas are missing in {directory}: run `make setup` (python -m trimtab.server.schemas_build)"
            ) from None
        self.version: str = index["version"]
        self.kinds: dict[str, str] = index["kinds"]
        self.where: dict[str, tuple[int, int, int, int]] = {k: tuple(v) for k, v in index["definitions"].items()}

    def shape(self, name: str) -> JSON:
        start, length, _, _ = self.where[name]
        found: JSON = json.loads(os.pread(self._shapes, length, start))
        return found

    def text(self, name: str) -> JSON:
        _, _, start, length = self.where[name]
        found: JSON = json.loads(zlib.decompress(os.pread(self._texts, length, start)))
        return found


@cache
def _index() -> _Index:
    return _Index(Path(__file__).parent / "schemas")


def kubernetes_version() -> str:
    """The version of Kubernetes whose schemas are served, like `1.37.0`."""
    return _index().version


def kinds() -> dict[str, str]:
    """Every built-in kind: `apps/v1/Deployment` -> the name of its definition."""
    return _index().kinds


def text(definition: str) -> JSON:
    """A published definition with its descriptions; `$ref`s as in the source.

    Raises:
        KeyError: there is no such definition.
    """
    return _index().text(definition)


def definition_shape(definition: str) -> JSON:
    """A published definition without its descriptions; `$ref`s name definitions.

    Raises:
        KeyError: there is no such definition.
    """
    return _index().shape(definition)


@cache
def builtin(api_version: str, kind: str) -> Schema | None:
    """The schema of a built-in kind; None where Kubernetes has no such kind.

    Raises:
        FileNotFoundError: the index was not built; the text says how.
    """
    index = _index()
    definition = index.kinds.get(f"{api_version}/{kind}")
    if definition is None and kind in _SHARED_KINDS:
        definition = _META + kind
    if definition is None:
        return None
    root = node(definition)
    return Schema(root, api_version=api_version, kind=kind, builtin=True, status_subresource="status" in root.fields)


@cache
def node(definition: str) -> Node:
    """The node of a definition, compiled when it is first looked at."""
    if definition in _OPAQUE:
        return ANY
    return Node(load=lambda lazy: _fill(lazy, definition))


def object_meta() -> Node:
    """The node of `metadata` in every kind."""
    return node(OBJECT_META)


def _fill(lazy: Node, definition: str) -> None:
    lazy.become(_compile(_index().shape(definition), definition))


def _compile(shape: JSON, definition: str = "") -> Node:
    """The node of a published schema. `definition` is the name when it is a whole definition."""
    reference = shape.get("$ref")
    if reference is not None:
        return _referenced(shape, reference)
    made = Node(_kind(shape))
    made.nullable = True
    if made.kind == "object":
        _compile_object(made, shape, definition)
    elif made.kind == "array":
        made.items = _compile(shape.get("items", {}))
        list_type = shape.get("x-kubernetes-list-type", "atomic")
        made.atomic = list_type == "atomic"
        made.unique = list_type == "set"
        if list_type == "map":
            made.keys = tuple(sorted(shape["x-kubernetes-list-map-keys"]))
    made.merge_key = shape.get("x-kubernetes-patch-merge-key", "")
    made.strategy = shape.get("x-kubernetes-patch-strategy", "")
    made.checks = (_micro_time,) if definition == f"{_META}MicroTime" else tuple(_checks(shape))
    return made


def _referenced(shape: JSON, reference: str) -> Node:
    strategy, map_type = shape.get("x-kubernetes-patch-strategy"), shape.get("x-kubernetes-map-type")
    if strategy is None and map_type is None:
        return node(reference)

    def load(lazy: Node) -> None:
        lazy.become(node(reference))
        if strategy is not None:
            lazy.strategy = strategy
        if map_type is not None:
            lazy.atomic = map_type == "atomic"

    return Node(load=load)


def _compile_object(made: Node, shape: JSON, definition: str) -> None:
    short = (
        definition.rpartition("api.")[2] if definition.startswith("io.k8s.api.") else definition.rpartition("pkg.")[2]
    )
    properties = shape.get("properties")
    if properties is not None:
        inline = INLINE.get(short, frozenset())
        made.fields = {
            name: _inlined(_compile(child)) if name in inline else _compile(child) for name, child in properties.items()
        }
        for name in REPEATS.get(short, ()):
            made.fields[name].repeats = True
        optional = OPTIONAL.get(short, frozenset())
        made.required = tuple(name for name in shape.get("required", ()) if name not in optional)
        whole = "x-kubernetes-group-version-kind" in shape  # its metadata is never missing
        structs: JSON = {name: {} for name in shape.get("structs", ()) if name in properties}
        if whole:
            structs.pop("metadata", None)
        defaults = structs | DEFAULTS.get(short, {})
        made.drops = frozenset(shape.get("drops", ()))
        made.zeros = tuple((name, zero) for name, zero in shape.get("zeros", {}).items() if name in properties)
        made.defaults = tuple((key, compile_default(value)) for key, value in defaults.items())
        made.defaulter = DEFAULTERS.get(short)
    additional = shape.get("additionalProperties")
    if isinstance(additional, dict):
        made.values = _compile(additional)
    made.atomic = shape.get("x-kubernetes-map-type") == "atomic"


def _inlined(child: Node) -> Node:
    def load(lazy: Node) -> None:
        lazy.become(child)
        lazy.inline = True

    return Node(load=load)


def _kind(shape: JSON) -> str:
    found = shape.get("type")
    if isinstance(found, list):
        return str(next(name for name in found if name != "null"))
    if found is not None:
        return str(found)
    one_of = json.dumps(shape.get("oneOf", ""))
    if "integer" in one_of:
        return "intstr"
    return "quantity" if "number" in one_of else "any"


def _checks(shape: JSON) -> list[Check]:
    checks: list[Check] = []
    if "enum" in shape:
        checks.append(enum_check(shape["enum"]))
    wanted = shape.get("format")
    if wanted in ("int32", "int64"):
        checks.append(integer_range(wanted))
    elif wanted == "byte":
        checks.append(_bytes)
    elif wanted == "date-time":
        checks.append(_time)
    if _kind(shape) == "quantity":
        checks.append(_quantity)
    return checks


def _quantity(value: Any, path: Any, errors: list[FieldError]) -> None:
    """What is no quantity is not even read: the fault counts as one of type."""
    try:
        parse_quantity(value)
    except ValueError:
        errors.append(FieldError(path_text(path), _NO_QUANTITY, TYPE_INVALID))


_BASE64 = re.compile(r"[A-Za-z0-9+/\r\n]*")
_TIME_LAYOUT = "2006-01-02T15:04:05Z07:00"
_MICRO_TIME = re.compile(r"[^.]*\.\d{6}([Zz]|[+-]\d\d:\d\d)")


def _bytes(value: Any, path: Any, errors: list[FieldError]) -> None:
    if isinstance(value, str) and not is_base64(value):
        begin = _BASE64.match(value)
        at = begin.end() if begin else 0
        errors.append(FieldError("", f"illegal base64 data at input byte {at}", TYPE_INVALID))


def _time(value: Any, path: Any, errors: list[FieldError]) -> None:
    if isinstance(value, str) and not is_date_time(value):
        errors.append(FieldError("", f'parsing time "{value}" as "{_TIME_LAYOUT}": cannot parse it', TYPE_INVALID))


def _micro_time(value: Any, path: Any, errors: list[FieldError]) -> None:
    """Times of leases and events have six digits of a second, no fewer."""
    if isinstance(value, str) and not (is_date_time(value) and _MICRO_TIME.fullmatch(value)):
        layout = "2006-01-02T15:04:05.000000Z07:00"
        errors.append(FieldError("", f'parsing time "{value}" as "{layout}": cannot parse it', TYPE_INVALID))


_NO_QUANTITY = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def enum_check(allowed: list[Any]) -> Check:
    """The value must be one of these."""
    supported = ", ".join(value_text(v) for v in allowed)

    def check(value: Any, path: Any, errors: list[FieldError]) -> None:
        for one in allowed:
            if one == value and type(one) is type(value):
                return
        text = f"Unsupported value: {value_text(value)}: supported values: {supported}"
        errors.append(FieldError(path_text(path), text, NOT_SUPPORTED))

    return check
