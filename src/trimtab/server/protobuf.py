"""Request bodies in protobuf become the same JSON that a client could have sent.

kubectl's typed commands (`create`, `run`, `scale`, `auth`) and Helm post `application/vnd.kubernetes.protobuf` and do not
fall back: the four bytes `k8s\\0`, then a message `Unknown` that names the kind and wraps the object. Field numbers come
from `protobuf_fields.txt`, types from the published OpenAPI definition of the same name, so a message's plan is made of
two tables when it is first met. Answers are JSON, which those clients accept.

What cannot be read raises `ValueError` with one line. Everything is bounded by the size of the body: nothing is
allocated on the word of a length.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from trimtab.server.definitions import definition_shape, kinds

JSON = dict[str, Any]

MAGIC = b"k8s\0"
DEPTH_MAX = 100
"""Messages nested deeper than this are refused; the deepest real object has about 15 levels."""

RECORDS_MAX = 300_000
"""Fields of one body, those of its messages included. An object of the size that can be stored has a tenth of them."""
_left: ContextVar[list[int]] = ContextVar("_left")
"""How many of them may still come."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_API = "io.k8s.api."
_EXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis."
_MACHINERY = "io.k8s.apimachinery.pkg.apis."
_PLACES = {"meta": _MACHINERY, "apiextensions": _EXTENSIONS}
"""The start of a definition's name, by the group that its line starts with."""
_SCHEMA = _EXTENSIONS + "apiextensions.v1.JSONSchemaProps"
_DELETE_OPTIONS = _MACHINERY + "meta.v1.DeleteOptions"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ProtobufError(ValueError):
    """A body that is not a Kubernetes protobuf message; the text says where reading stopped."""

    def __init__(self, text: str) -> None:
        # What a client sent may stand in the text; it stays one line whatever that was.
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


def decode(body: bytes) -> JSON:
    """The object in a request body, with `apiVersion` and `kind` from its envelope.

    Raises:
        ProtobufError: the body is cut off or malformed, or of a kind whose field numbers are not known.
    """
    _left.set([RECORDS_MAX])
    if body[:4] != MAGIC:
        raise ProtobufError("the body does not start with the protobuf envelope of Kubernetes")
    envelope = _records(memoryview(body)[4:], "Unknown")
    type_meta, raw, content_type = b"", b"", ""
    for number, wire, value in envelope:
        if wire != _BYTES:
            continue
        if number == 1:
            type_meta = bytes(value)
        elif number == 2:
            raw = bytes(value)
        elif number == 4:
            content_type = _text(value, "Unknown.contentType")
    api_version = kind = ""
    for number, wire, value in _records(memoryview(type_meta), "TypeMeta"):
        if wire == _BYTES and number == 1:
            api_version = _text(value, "apiVersion")
        elif wire == _BYTES and number == 2:
            kind = _text(value, "kind")
    if content_type == "application/json":
        return _json_object(raw)
    definition = _definition(api_version, kind)
    found = _message(definition, memoryview(raw), kind, 0)
    return {"apiVersion": api_version, "kind": kind, **found}


def _json_object(raw: bytes) -> JSON:
    found = _json(raw, "Unknown.raw")
    if not isinstance(found, dict):
        raise ProtobufError("Unknown.raw: the JSON is not an object")
    return found


def _definition(api_version: str, kind: str) -> str:
    definition = _DELETE_OPTIONS if kind == "DeleteOptions" else kinds().get(f"{api_version}/{kind}")
    if definition is None or definition not in _numbers():
        raise ProtobufError(f"{api_version or 'no apiVersion'} {kind or 'no kind'} is not read as protobuf; send JSON")
    return definition


# --- the wire -----------------------------------------------------------------------------------------------------


def _varint(data: memoryview, at: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ProtobufError(f"{where}: a number is cut off or too long at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def _records(data: memoryview, where: str) -> list[tuple[int, int, Any]]:
    """(field number, wire type, value) of one message: integers for numbers, a view for everything with a length."""
    out: list[tuple[int, int, Any]] = []
    at, size = 0, len(data)
    left = _left.get()
    while at < size:
        left[0] -= 1
        if left[0] < 0:
            raise ProtobufError(f"{where}: the body has more than {RECORDS_MAX} fields")
        tag, at = _varint(data, at, where)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ProtobufError(f"{where}: field number {number} is out of range")
        value: Any
        if wire == _VARINT:
            value, at = _varint(data, at, where)
        elif wire == _BYTES:
            length, at = _varint(data, at, where)
            if length > size - at:
                raise ProtobufError(f"{where}: field {number} is cut off")
            value = data[at : at + length]
            at += length
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
            if length > size - at:
                raise ProtobufError(f"{where}: field {number} is cut off")
            value = bytes(data[at : at + length])
            at += length
        else:
            raise ProtobufError(f"{where}: field {number} has wire type {wire}, which is not used")
        out.append((number, wire, value))
    return out


def _text(value: Any, where: str) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise ProtobufError(f"{where}: the text is not UTF-8") from None


def _json(value: Any, where: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        raise ProtobufError(f"{where}: the embedded JSON is not valid") from None


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


# --- plans: what each field of a message means --------------------------------------------------------------------

Read = Callable[[Any, int, str, int], Any]
"""(value, wire type, path, depth) -> JSON value; None where nothing should be set."""


class _Field:
    """How one field number becomes JSON."""

    __slots__ = ("inline", "is_map", "keep_zero", "name", "read", "repeated")

    def __init__(self, name: str, read: Read, *, repeated: bool, is_map: bool, keep_zero: bool, inline: bool) -> None:
        self.name = name
        self.read = read
        self.repeated = repeated
        self.is_map = is_map
        self.keep_zero = keep_zero
        self.inline = inline


@cache
def _numbers() -> dict[str, str]:
    """Definition -> its line of fields."""
    out = {}
    for line in (Path(__file__).parent / "protobuf_fields.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, fields = line.partition(" ")
            out[_PLACES.get(name.partition(".")[0], _API) + name] = fields
    return out


@cache
def _plan(definition: str, owner: str) -> dict[int, _Field]:
    """The fields of a message by number. `owner` is the definition whose JSON they stand in."""
    shape = definition_shape(owner)
    properties: JSON = shape.get("properties", {})
    required = shape.get("required", ())
    plan: dict[int, _Field] = {}
    number = 0
    for token in _numbers()[definition].split():
        if token.startswith("@"):
            number = int(token[1:]) - 1
            continue
        number += 1
        name = token.rstrip("?")
        if name.startswith("*"):
            part = f"{definition.rpartition('.')[0]}.{name[1:]}"
            plan[number] = _Field(
                "", _message_reader(part, owner), repeated=False, is_map=False, keep_zero=True, inline=True
            )
            continue
        field = properties[name]
        repeated = _type(field) == "array"
        values = field.get("additionalProperties")
        is_map = isinstance(values, dict)
        read = _reader(values if is_map else field.get("items", {}) if repeated else field)
        keep = token.endswith("?") or name in required or repeated or is_map or "$ref" in field
        plan[number] = _Field(name, read, repeated=repeated, is_map=is_map, keep_zero=keep, inline=False)
    return plan


def _type(shape: JSON) -> str:
    found = shape.get("type", "")
    return next((name for name in found if name != "null"), "") if isinstance(found, list) else found


def _reader(shape: JSON) -> Read:
    reference: str | None = shape.get("$ref")
    if reference is not None:
        special = _SPECIAL.get(reference.rpartition(".")[2])
        return special or _message_reader(reference, reference)
    kind = _type(shape)
    if kind == "string":
        return _read_bytes if shape.get("format") == "byte" else _read_string
    if kind == "integer":
        return _read_integer
    if kind == "boolean":
        return _read_boolean
    if kind == "number":
        return _read_double
    if kind == "array":
        return _read_strings
    return _read_raw


def _message_reader(definition: str, owner: str) -> Read:
    def read(value: Any, wire: int, where: str, depth: int) -> Any:
        _expect(wire, _BYTES, where)
        return _message(definition, value, where, depth, owner)

    return read


def _expect(wire: int, wanted: int, where: str) -> None:
    if wire != wanted:
        raise ProtobufError(f"{where}: has wire type {wire}, expected {wanted}")


def _message(definition: str, data: memoryview, where: str, depth: int, owner: str = "") -> JSON:
    if depth > DEPTH_MAX:
        raise ProtobufError(f"{where}: nested deeper than {DEPTH_MAX} messages")
    if definition not in _numbers():
        raise ProtobufError(f"{where}: {definition} is not read as protobuf; send JSON")
    plan = _plan(definition, owner or definition)
    out: JSON = {}
    for number, wire, value in _records(data, where):
        field = plan.get(number)
        if field is None:
            continue  # A newer client's field: dropped, as JSON decoding would drop it.
        path = f"{where}.{field.name}" if field.name else where
        if field.is_map:
            _expect(wire, _BYTES, path)
            key, entry = _entry(field, value, path, depth)
            out.setdefault(field.name, {})[key] = entry
        elif field.repeated:
            items = out.setdefault(field.name, [])
            if wire == _BYTES and field.read is _read_integer:
                items.extend(_packed(value, path))
            else:
                items.append(field.read(value, wire, path, depth + 1))
        else:
            found = field.read(value, wire, path, depth + 1)
            if field.inline:
                out.update(found)
            elif found is None or (not field.keep_zero and (found == "" or found is False or found == 0)):
                out.pop(field.name, None)
            else:
                out[field.name] = found
    return out


def _entry(field: _Field, value: Any, where: str, depth: int) -> tuple[str, Any]:
    key, found = "", None
    for number, wire, part in _records(value, where):
        if number == 1:
            _expect(wire, _BYTES, where)
            key = _text(part, where)
        elif number == 2:
            found = field.read(part, wire, f"{where}[{key}]", depth + 1)
    if found is None:
        found = field.read(memoryview(b""), _BYTES, f"{where}[{key}]", depth + 1)
    return key, found


def _packed(data: memoryview, where: str) -> list[int]:
    out, at = [], 0
    if len(data) > RECORDS_MAX:
        raise ProtobufError(f"{where}: more than {RECORDS_MAX} numbers")
    while at < len(data):
        value, at = _varint(data, at, where)
        out.append(_signed(value))
    return out


# --- values -------------------------------------------------------------------------------------------------------


def _read_string(value: Any, wire: int, where: str, depth: int) -> str:
    _expect(wire, _BYTES, where)
    return _text(value, where)


def _read_bytes(value: Any, wire: int, where: str, depth: int) -> str:
    _expect(wire, _BYTES, where)
    return base64.b64encode(value).decode()


def _read_integer(value: Any, wire: int, where: str, depth: int) -> int:
    _expect(wire, _VARINT, where)
    return _signed(value)


def _read_boolean(value: Any, wire: int, where: str, depth: int) -> bool:
    _expect(wire, _VARINT, where)
    return bool(value)


def _read_double(value: Any, wire: int, where: str, depth: int) -> float | int:
    """Whole numbers as JSON writes them: `5`, not `5.0`."""
    _expect(wire, _FIXED64, where)
    found: float = struct.unpack("<d", value)[0]
    if found != found or found in (float("inf"), float("-inf")):
        raise ProtobufError(f"{where}: JSON has no such number")
    return int(found) if found.is_integer() else found


def _read_raw(value: Any, wire: int, where: str, depth: int) -> Any:
    """RawExtension and FieldsV1: bytes of JSON in field 1."""
    _expect(wire, _BYTES, where)
    for number, inner, part in _records(value, where):
        if number == 1 and inner == _BYTES and len(part):
            return _json(part, where)
    return None


def _read_json(value: Any, wire: int, where: str, depth: int) -> Any:
    """JSON of a schema (a default, a value of an enum): bytes of JSON in field 1, `null` among them."""
    part = _parts(value, wire, where).get(1, b"null")
    if isinstance(part, int):
        raise ProtobufError(f"{where}: the embedded JSON must be bytes")
    return _json(part or b"null", where)


def _schema(value: Any, wire: int, where: str, depth: int) -> JSON:
    _expect(wire, _BYTES, where)
    return _message(_SCHEMA, value, where, depth)


def _read_schema_or_list(value: Any, wire: int, where: str, depth: int) -> Any:
    """JSONSchemaPropsOrArray: a schema in field 1, or those of field 2."""
    _expect(wire, _BYTES, where)
    listed = []
    for number, inner, part in _records(value, where):
        if number == 1:
            return _schema(part, inner, where, depth)
        if number == 2:
            listed.append(_schema(part, inner, where, depth))
    return listed


def _read_schema_or_boolean(value: Any, wire: int, where: str, depth: int) -> Any:
    """JSONSchemaPropsOrBool: a schema in field 2, else the word of field 1."""
    _expect(wire, _BYTES, where)
    allowed = False
    for number, inner, part in _records(value, where):
        if number == 2:
            return _schema(part, inner, where, depth)
        if number == 1:
            allowed = _read_boolean(part, inner, where, depth)
    return allowed


def _read_schema_or_strings(value: Any, wire: int, where: str, depth: int) -> Any:
    """JSONSchemaPropsOrStringArray: a schema in field 1, or the names of field 2."""
    _expect(wire, _BYTES, where)
    names = []
    for number, inner, part in _records(value, where):
        if number == 1:
            return _schema(part, inner, where, depth)
        if number == 2:
            names.append(_read_string(part, inner, where, depth))
    return names


def _read_strings(value: Any, wire: int, where: str, depth: int) -> list[str]:
    """Verbs, ExtraValue: a list of texts that is a message of its own."""
    _expect(wire, _BYTES, where)
    return [_text(part, where) for number, inner, part in _records(value, where) if number == 1 and inner == _BYTES]


def _parts(value: Any, wire: int, where: str) -> dict[int, Any]:
    _expect(wire, _BYTES, where)
    return {number: part for number, _, part in _records(value, where)}


def _number(parts: dict[int, Any], number: int, where: str) -> int:
    value = parts.get(number, 0)
    if not isinstance(value, int):
        raise ProtobufError(f"{where}: field {number} must be a number")
    return _signed(value)


def _read_quantity(value: Any, wire: int, where: str, depth: int) -> str:
    part = _parts(value, wire, where).get(1, b"0")
    if isinstance(part, int):
        raise ProtobufError(f"{where}: a quantity must be text")
    return _text(part, where) or "0"


def _read_int_or_string(value: Any, wire: int, where: str, depth: int) -> int | str:
    parts = _parts(value, wire, where)
    if _number(parts, 1, where) == 0:
        return _number(parts, 2, where)
    part = parts.get(3, b"")
    if isinstance(part, int):
        raise ProtobufError(f"{where}: field 3 must be text")
    return _text(part, where)


def _moment(value: Any, wire: int, where: str) -> datetime | None:
    parts = _parts(value, wire, where)
    seconds, nanos = _number(parts, 1, where), _number(parts, 2, where)
    if not parts or (seconds == 0 and nanos == 0):
        return None
    try:
        return _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    except OverflowError:
        raise ProtobufError(f"{where}: {seconds} seconds is no time of the calendar") from None


def _read_time(value: Any, wire: int, where: str, depth: int) -> str | None:
    moment = _moment(value, wire, where)
    return None if moment is None else _written(moment, "seconds")


def _read_micro_time(value: Any, wire: int, where: str, depth: int) -> str | None:
    moment = _moment(value, wire, where)
    return None if moment is None else _written(moment, "microseconds")


def _written(moment: datetime, until: str) -> str:
    """Four digits of the year, whichever it is: strftime writes the year 1 as "1"."""
    return moment.replace(tzinfo=None).isoformat(timespec=until) + "Z"


_SPECIAL: dict[str, Read] = {
    "Time": _read_time,
    "MicroTime": _read_micro_time,
    "Quantity": _read_quantity,
    "IntOrString": _read_int_or_string,
    "RawExtension": _read_raw,
    "FieldsV1": _read_raw,
    "JSON": _read_json,
    "JSONSchemaPropsOrArray": _read_schema_or_list,
    "JSONSchemaPropsOrBool": _read_schema_or_boolean,
    "JSONSchemaPropsOrStringArray": _read_schema_or_strings,
}
