"""Request bodies: from bytes in one of four formats to JSON values, and the reading of write options from the query.

kubectl and most clients send JSON; YAML comes with server-side apply; protobuf from Go clients that do not negotiate. Where
the client asked for strictness (`fieldValidation`), keys that stand twice are found here, since nothing later can see them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.server.errors import (
    Cause,
    StatusError,
    StrictlyRefused,
    bad_request,
    invalid,
    not_decoded,
    unsupported_media,
)
from trimtab.server.http import Request

JSON_TYPE = "application/json"
YAML_TYPE = "application/yaml"
PROTOBUF_TYPE = "application/vnd.kubernetes.protobuf"
APPLY_TYPES = ("application/apply-patch+yaml", "application/apply-patch+json")
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"

MANAGER_MAX = 128
DEPTH_MAX = 200
"""Nesting beyond this is an attack on whoever walks the object."""

THREAD_MIN_BYTES = 128 * 1024
"""A larger body is not read on the event loop, unless it is JSON: that takes milliseconds."""
PROBLEMS_MAX = 100
"""Strict decoding's complaints about one body; the real server stops there, too."""

_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Options:
    """What a write asks for besides its object. `warnings` collects what the answer should warn of; `asked` is what the client
    has said in its query, as webhooks are told of it."""

    manager: str = "unknown"
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    warnings: list[str] = field(default_factory=list)
    asked: JSON = field(default_factory=dict)
    timeout_s: float | None = None
    """How long the client lets the whole request take."""
    gathers: bool = False
    """Keys that stand twice are told of together with the fields that the schema does not know (`duplicates`)."""
    duplicates: list[str] = field(default_factory=list)
    patch: bool = False
    """The write is a patch of some kind: it names no version or uid by its body's being a whole object."""


def write_options(request: Request) -> Options:
    """Raises `StatusError` 400 for values that do not exist."""
    query = request.query
    manager = query.get("fieldManager", "")
    if len(manager) > MANAGER_MAX:
        raise bad_request(f"fieldManager: Invalid value: may not be more than {MANAGER_MAX} bytes")
    if not manager:
        manager = request.headers.get("user-agent", "").partition("/")[0][:MANAGER_MAX] or "unknown"
    validation = query.get("fieldValidation", "") or "Warn"
    options = {"POST": "CreateOptions", "PUT": "UpdateOptions"}.get(request.method, "PatchOptions")
    if validation not in ("Strict", "Warn", "Ignore"):
        text = f'Unsupported value: "{validation}": supported values: "", "Ignore", "Strict", "Warn"'
        raise invalid(options, "meta.k8s.io", "", [Cause("fieldValidation", text, "FieldValueNotSupported")])
    asked: JSON = {name: query[name] for name in ("fieldManager", "fieldValidation") if query.get(name)}
    dry = dry_run(request.values("dryRun"), options)
    if dry:
        asked["dryRun"] = ["All"]
    patch = request.method == "PATCH"
    force = request.flag("force")
    return Options(manager, dry, validation, force, asked=asked, timeout_s=timeout_of(request), patch=patch)


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")


def timeout_of(request: Request) -> float | None:
    """The `timeout` of the query, like `30s` or `1m`, in seconds. Raises `StatusError` 400."""
    text = request.query.get("timeout", "")
    if not text:
        return None
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()):
        if text.isdigit() and not int(text):
            return None
        raise bad_request(f'invalid timeout specified in the request URL - "{text}": write a duration like 30s')
    hours, minutes, seconds, millis = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000 or None


def dry_run(values: Sequence[str], options: str) -> bool:
    """Whether a write is only tried. Raises `StatusError` 422 naming the kind of `options` that the values stand in."""
    for value in values:
        if value != "All":
            shown = json.dumps(values, separators=(",", ":"))
            text = f'Unsupported value: {shown}: supported values: "All"'
            raise invalid(options, "meta.k8s.io", "", [Cause("dryRun", text, "FieldValueNotSupported")])
    return bool(values)


async def read_object(request: Request, options: Options) -> JSON:
    """The object in a request's body; a large one in a slow format is read in a thread, so that others are served meanwhile.

    Raises:
        StatusError: as `decode_object`, and 413 for a body that is too large.
    """
    body = await request.body()
    if len(body) > THREAD_MIN_BYTES and request.content_type != JSON_TYPE:
        return await asyncio.to_thread(decode_object, body, request.content_type, options)
    return decode_object(body, request.content_type, options)


async def read_kind(request: Request, options: Options, api_version: str, kind: str) -> JSON:
    """The object in a request's body, of a built-in kind that is answered and not stored: what no schema knows is left out.

    Raises:
        StatusError: as `read_object`, and as `of_kind`.
    """
    return of_kind(await read_object(request, options), api_version, kind)


def of_kind(obj: JSON, api_version: str, kind: str) -> JSON:
    """The same object, of a built-in kind, once it is sure that everything in it has its type. Raises `StatusError` 400."""
    from trimtab.server.schemas import FieldError, builtin

    wrong: list[FieldError] = []
    schema = builtin(api_version, kind)
    assert schema is not None
    schema.prune(obj, wrong)
    if wrong:
        raise not_decoded(kind, api_version, wrong[0])
    return obj


def decode_object(body: bytes, content_type: str, options: Options) -> JSON:
    """The object in a body. Duplicate keys are refused or warned of as the options say.

    Raises:
        StatusError: 415 for an unknown format, 400 for a body that cannot be read.
    """
    if content_type in ("", JSON_TYPE, *APPLY_TYPES[1:]) or content_type.endswith("+json"):
        value = decode_json(body, options)
    elif content_type in (YAML_TYPE, APPLY_TYPES[0], "text/yaml", "application/x-yaml"):
        value = _decode_yaml(body, options, apply=content_type == APPLY_TYPES[0])
    elif content_type == PROTOBUF_TYPE:
        value = _decode_protobuf(body)
    else:
        raise unsupported_media(content_type, (JSON_TYPE, YAML_TYPE, PROTOBUF_TYPE))
    if not isinstance(value, dict):
        raise bad_request("the body must be one object: a JSON or YAML mapping with apiVersion, kind and metadata")
    return value


def decode_json(body: bytes, options: Options) -> Any:
    """JSON values of a body. Raises `StatusError` 400."""
    try:
        value = _decode(body)
    except (msgspec.DecodeError, RecursionError) as err:
        raise bad_request(f"the body is not valid JSON: {err}") from None
    except UnicodeDecodeError:
        raise bad_request("the body is not valid JSON: it is not UTF-8 text") from None
    check_depth(value)
    if options.validation != "Ignore" and body.count(b'"') > 4:
        _report(_duplicates(body), options)
    return value


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON as it was written, with the keys that stand twice in it."""


def _duplicates(body: bytes) -> list[str]:
    """What is said of the keys that stand twice in one object, by their path."""
    twice = False

    def seen(items: list[tuple[str, Any]]) -> JSON:
        nonlocal twice
        out = dict(items)
        twice = twice or len(out) < len(items)
        return out

    json.loads(body, object_pairs_hook=seen)
    if not twice:
        return []
    found: dict[str, None] = {}
    todo: list[tuple[str, Any]] = [("", json.loads(body, object_pairs_hook=_Pairs))]
    while todo and len(found) < PROBLEMS_MAX:
        path, value = todo.pop()
        if isinstance(value, _Pairs):
            keys: set[str] = set()
            for key, child in value:
                at = f"{path}.{key}" if path else key
                if key in keys:
                    found[f'duplicate field "{at}"'] = None
                keys.add(key)
                todo.append((at, child))
        elif isinstance(value, list):
            todo += [(f"{path}[{index}]", child) for index, child in enumerate(value)]
    return list(found)[:PROBLEMS_MAX]


def _report(duplicates: list[str], options: Options) -> None:
    if duplicates and options.validation == "Strict":
        if options.gathers:
            options.duplicates += duplicates
            return
        raise strict_error(duplicates)
    options.warnings += duplicates


def strict_error(problems: list[str]) -> StatusError:
    return StrictlyRefused(400, "BadRequest", "strict decoding error: " + ", ".join(problems))


def _report_yaml(duplicates: list[str], options: Options, *, apply: bool) -> None:
    """The same in the words of the real server's YAML reader."""
    if duplicates and options.validation == "Strict":
        text = "yaml: unmarshal errors:\n  " + "\n  ".join(duplicates[:PROBLEMS_MAX])
        if apply:
            raise bad_request(f"error strict decoding YAML: error converting YAML to JSON: {text}")
        raise strict_error([text])
    options.warnings += duplicates


def _decode_yaml(body: bytes, options: Options, *, apply: bool) -> Any:
    if body.lstrip()[:1] == b"{":
        try:
            value = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # flow YAML looks alike, and says better what is wrong
        else:
            check_depth(value)
            if options.validation != "Ignore":
                _report(_duplicates(body), options)
            return value
    from trimtab.server.yaml_body import YamlProblem, load

    try:
        value, duplicates = load(body)
    except YamlProblem as err:
        raise bad_request(f"the body is not valid YAML: {err}") from None
    if options.validation != "Ignore":
        _report_yaml(duplicates, options, apply=apply)
    return value


def _decode_protobuf(body: bytes) -> Any:
    from trimtab.server.protobuf import decode

    try:
        return decode(body)
    except ValueError as err:
        raise bad_request(f"the body is not valid protobuf: {err}") from None


def check_depth(value: Any, depth: int = 0) -> None:
    """Raises `StatusError` 400 for absurd nesting, before anything recurses over the object."""
    if depth > DEPTH_MAX:
        raise bad_request(f"the object is nested more than {DEPTH_MAX} levels deep")
    if isinstance(value, dict):
        for child in value.values():
            if isinstance(child, (dict, list)):
                check_depth(child, depth + 1)
    elif isinstance(value, list):
        for child in value:
            if isinstance(child, (dict, list)):
                check_depth(child, depth + 1)
