"""What a client sent -> an object of its kind, completed, with what the schema says against it.

body --identified--> metadata that names kind, namespace and name --refuse_unknown--> pruned, warned of --received--> defaults
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.bodies import Options, check_depth, strict_error
from trimtab.server.errors import Cause
from trimtab.server.kinds import Kind
from trimtab.server.strategies import strategy_of

if TYPE_CHECKING:
    from trimtab.server.structural import FieldError, Schema


def identified(kind: Kind, namespace: str, name: str, obj: JSON) -> JSON:
    """The metadata of a body that names the right kind, namespace and name. Raises `StatusError` 400."""
    check_depth(obj)
    api_version, kind_name = obj.get("apiVersion"), obj.get("kind")
    if api_version is None and kind_name is None:
        obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
    elif api_version != kind.api_version:
        raise errors.Undecodable(
            f"the API version in the data ({api_version}) does not match the expected API version ({kind.api_version})"
        )
    elif kind_name != kind.kind:
        raise errors.Undecodable(f"the kind in the data ({kind_name}) does not match the expected kind ({kind.kind})")
    meta = obj.get("metadata")
    if meta is None:
        meta = obj["metadata"] = {}
    if not isinstance(meta, dict):
        raise errors.Undecodable(f"metadata: expected an object, got {msgspec.json.encode(meta).decode()[:40]}")
    for field in ("name", "namespace", "generateName", "resourceVersion", "uid"):
        if not isinstance(meta.get(field, ""), (str, type(None))):
            raise errors.Undecodable(f"metadata.{field}: must be a string")
    if kind.namespaced:
        if meta.get("namespace") and meta["namespace"] != namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        meta["namespace"] = namespace
    else:
        meta.pop("namespace", None)
    if name:
        check_name(meta, name)
    return meta


def check_name(meta: JSON, name: str) -> None:
    """Whether a body is about the object that the URL names. Raises `StatusError` 400."""
    if meta.get("name") and meta["name"] != name:
        raise errors.bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    if not meta.get("name"):
        raise errors.bad_request(
            f"the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )


def refuse_unknown(schema: Schema, obj: JSON, options: Options) -> None:
    """Takes out, in place, what the kind does not have; says so as `options.validation` asks. Raises `StatusError` 400."""
    wrong: list[FieldError] = []
    dropped = schema.prune(obj, wrong)
    if wrong:
        raise errors.not_decoded(schema.kind, schema.api_version, wrong[0])
    if not (dropped or options.duplicates) or options.validation == "Ignore":
        return
    if options.patch:  # what it leaves is read in the order of its keys
        dropped.sort(key=lambda path: path.split("."))
    unknown = [f'unknown field "{path}"' for path in dropped]
    problems = [*options.duplicates, *unknown] if options.patch else [*unknown, *options.duplicates]
    if options.validation == "Strict":
        raise strict_error(problems)
    options.warnings += problems


def received(kind: Kind, schema: Schema, obj: JSON) -> list[Cause]:
    """Completes what was read, in place, as decoding and defaulting do; what the schema of a built-in kind says against it.
    Raises `StatusError` 400 when it cannot be read at all."""
    schema.default(obj)
    found = [] if kind.crd else schema_problems(kind, schema, obj)
    if not found:
        strategy_of(kind).receive(kind, obj)
        schema.complete(obj)
    return found


def schema_problems(kind: Kind, schema: Schema, obj: JSON) -> list[Cause]:
    """What the schema says against an object. Raises `StatusError` 400 when one of a built-in kind has a field of another type."""
    found = schema.validate(obj)
    wrong = next((error for error in found if error.reason == "FieldValueTypeInvalid"), None)
    if wrong is not None and not kind.crd:
        raise errors.not_decoded(schema.kind, schema.api_version, wrong)
    return [Cause(error.path, error.message, error.reason) for error in found]
