"""Writes objects as Kubernetes' protobuf, from the same tables that the server reads it with; and tears what was written."""

from __future__ import annotations

import base64
import struct
from typing import Any

from trimtab.server import protobuf

JSON = dict[str, Any]


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def encoded(obj: JSON) -> bytes:
    """The whole body: envelope and object. What the tables have no place for is left out."""
    meta = _field(1, obj.get("apiVersion", "v1").encode()) + _field(2, obj["kind"].encode())
    definition = protobuf._definition(obj.get("apiVersion", "v1"), obj["kind"])
    raw = _message(definition, definition, {"metadata": {"name": "fuzz"}, **obj})
    return protobuf.MAGIC + _field(1, meta) + _field(2, raw)


def _message(definition: str, owner: str, obj: JSON) -> bytes:
    out = b""
    for number, field in protobuf._plan(definition, owner).items():
        if field.inline:
            part = f"{definition.rpartition('.')[0]}.{_inline_name(definition, number)}"
            out += _field(number, _message(part, owner, obj))
            continue
        value = obj.get(field.name)
        if value is None:
            continue
        shape = protobuf.definition_shape(owner)["properties"][field.name]
        values = shape.get("additionalProperties")
        if isinstance(values, dict):
            for key, item in value.items():
                out += _field(number, _field(1, key.encode()) + _value(2, values, item))
        elif protobuf._type(shape) == "array":
            for item in value:
                out += _value(number, shape.get("items", {}), item)
        else:
            out += _value(number, shape, value)
    return out


def _inline_name(definition: str, wanted: int) -> str:
    number = 0
    for token in protobuf._numbers()[definition].split():
        number = int(token[1:]) - 1 if token.startswith("@") else number + 1
        if number == wanted and token.startswith("*"):
            return token[1:].rstrip("?")
    raise AssertionError(f"{definition} has nothing inline at {wanted}")


def _value(number: int, shape: JSON, value: Any) -> bytes:
    reference = shape.get("$ref", "")
    name = reference.rpartition(".")[2]
    if name == "IntOrString":
        inner = _varint(1 << 3) + _varint(int(isinstance(value, str)))
        inner += _field(3, value.encode()) if isinstance(value, str) else _varint(2 << 3) + _varint(value)
        return _field(number, inner)
    if name == "Quantity":
        return _field(number, _field(1, str(value).encode()))
    if name in ("Time", "MicroTime"):
        return _field(number, _varint(1 << 3) + _varint(1_700_000_000))
    if reference and isinstance(value, dict):
        return _field(number, b"" if name in ("RawExtension", "FieldsV1") else _message(reference, reference, value))
    kind = protobuf._type(shape)
    if kind == "integer" or kind == "boolean":
        return _varint(number << 3) + _varint(int(value))
    if kind == "number":
        return _varint(number << 3 | 1) + struct.pack("<d", value)
    if shape.get("format") == "byte":
        return _field(number, base64.b64decode(value))
    return _field(number, str(value).encode())


def torn(body: bytes, tears: list[tuple[int, int]]) -> bytes:
    """The same bytes with some of them replaced; 0 cuts off what follows."""
    out = bytearray(body)
    for place, byte in tears:
        at = place % max(len(out), 1)
        if byte == 0:
            del out[at:]
        elif out:
            out[at] = byte
    return bytes(out)
