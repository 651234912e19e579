"""Protobuf on the wire, from tables: just enough of it to speak with containerd without generated code.

A table is text, one message a line: `Name: field=1 field=2:int field=3*:Other field=4:map`. A field is a string unless
a type follows; `*` repeats; `map` is string to string; an upper-case type is another message of the table. `encode` takes a
dict and leaves out what is unset, `decode` gives one back with what was on the wire; unknown fields are skipped, as
protobuf asks. Varints, lengths and their field tags are as in the protobuf encoding guide; fixed widths are only skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """Bytes that are no message, or a value that does not fit its field."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    number: int
    type: str
    """string, bytes, int, bool, map, or the name of a message."""
    repeated: bool


class Codec:
    """The messages of one table."""

    def __init__(self, table: str) -> None:
        self._by_name: dict[str, dict[str, Field]] = {}
        self._by_number: dict[str, dict[int, Field]] = {}
        for line in table.strip().splitlines():
            message, _, rest = line.partition(":")
            fields = [_field(text) for text in rest.split()]
            self._by_name[message] = {f.name: f for f in fields}
            self._by_number[message] = {f.number: f for f in fields}

    def encode(self, message: str, value: Mapping[str, Any]) -> bytes:
        """The bytes of a message. None, and the empty value of a plain field, are left out.

        Raises:
            WireError: the message has no such field, or its value has the wrong type.
        """
        fields = self._by_name[message]
        out = bytearray()
        for name, item in value.items():
            field = fields.get(name)
            if field is None:
                raise WireError(f"{message} has no field {name}")
            if item is None:
                continue
            if field.type == "map":
                for key, text in item.items():
                    _put(out, field.number, _entry(key, text))
            elif field.repeated and field.type in ("int", "bool"):
                packed = bytearray()
                for one in item:
                    _varint(packed, int(one))
                if packed:
                    _put(out, field.number, bytes(packed))
            elif field.repeated:
                for one in item:
                    self._one(out, message, field, one, keep_empty=True)
            else:
                self._one(out, message, field, item, keep_empty=False)
        return bytes(out)

    def _one(self, out: bytearray, message: str, field: Field, value: Any, *, keep_empty: bool) -> None:
        match field.type:
            case "int" | "bool":
                if not isinstance(value, int):
                    raise WireError(f"{message}.{field.name}: expected a number, got {value!r}")
                if value or keep_empty:
                    _varint(out, field.number << 3 | VARINT)
                    _varint(out, int(value))
            case "string":
                if not isinstance(value, str):
                    raise WireError(f"{message}.{field.name}: expected text, got {value!r}")
                if value or keep_empty:
                    _put(out, field.number, value.encode())
            case "bytes":
                if value or keep_empty:
                    _put(out, field.number, bytes(value))
            case nested:
                _put(out, field.number, self.encode(nested, value))

    def decode(self, message: str, data: bytes) -> dict[str, Any]:
        """The fields that were on the wire; repeated ones as lists, maps as dicts.

        Raises:
            WireError: the bytes end too early or a field has the wrong wire type.
        """
        fields = self._by_number[message]
        out: dict[str, Any] = {}
        at, end = 0, len(data)
        while at < end:
            tag, at = _read_varint(data, at)
            kind = tag & 7
            field = fields.get(tag >> 3)
            if kind == VARINT:
                number, at = _read_varint(data, at)
                if field is not None:
                    self._keep(out, field, _number(field, number))
            elif kind == BYTES:
                size, at = _read_varint(data, at)
                if at + size > end:
                    raise WireError(f"{message}: the message ends within a field")
                chunk = data[at : at + size]
                at += size
                if field is not None:
                    self._bytes(out, field, chunk)
            elif kind in (FIXED64, FIXED32):
                at += 8 if kind == FIXED64 else 4
            else:
                raise WireError(f"{message}: wire type {kind} is not in use")
        return out

    def _bytes(self, out: dict[str, Any], field: Field, chunk: bytes) -> None:
        match field.type:
            case "string":
                self._keep(out, field, chunk.decode(errors="replace"))
            case "bytes":
                self._keep(out, field, chunk)
            case "map":
                key, text = _read_entry(chunk)
                out.setdefault(field.name, {})[key] = text
            case "int" | "bool":
                at = 0
                while at < len(chunk):
                    number, at = _read_varint(chunk, at)
                    self._keep(out, field, _number(field, number))
            case nested:
                self._keep(out, field, self.decode(nested, chunk))

    @staticmethod
    def _keep(out: dict[str, Any], field: Field, value: Any) -> None:
        if field.repeated:
            out.setdefault(field.name, []).append(value)
        else:
            out[field.name] = value


def _field(text: str) -> Field:
    name, _, rest = text.partition("=")
    number, _, kind = rest.partition(":")
    repeated = number.endswith("*")
    return Field(name, int(number.rstrip("*")), kind or "string", repeated)


def _number(field: Field, value: int) -> int | bool:
    if field.type == "bool":
        return bool(value)
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint(out: bytearray, value: int) -> None:
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError("the message ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _put(out: bytearray, number: int, chunk: bytes) -> None:
    _varint(out, number << 3 | BYTES)
    _varint(out, len(chunk))
    out += chunk


def _entry(key: str, text: str) -> bytes:
    out = bytearray()
    _put(out, 1, key.encode())
    _put(out, 2, text.encode())
    return bytes(out)


_ENTRY = Codec("Entry: key=1 value=2")


def _read_entry(chunk: bytes) -> tuple[str, str]:
    entry = _ENTRY.decode("Entry", chunk)
    return entry.get("key", ""), entry.get("value", "")
