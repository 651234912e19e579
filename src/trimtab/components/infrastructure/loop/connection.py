"""Connection Secrets: what a user of a resource needs, by templates over its fields.

{{ FIELD | FILTER | FILTER }}      FIELD as in status.atProvider, or a sensitive field by the same naming
                                   FILTER: b64decode, b64encode, json, or default("text")
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from trimtab.components.infrastructure.protocol.schema import Block
from trimtab.components.infrastructure.schemas import naming
from trimtab.components.infrastructure.schemas.changes import at

BYTES_MAX = 1 << 20
"""Of all that a Secret holds, which the API bounds: a template may name a long field many times."""
PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
PARTS = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^|])+')
"""What `|` separates; it may be within quotes."""
DEFAULT = re.compile(r'default\((".*")\)')


class TemplateFault(ValueError):
    """A template that cannot be filled: one line that names its key."""


def rendered(
    templates: Mapping[str, str], shown: Mapping[str, Any], hidden: Mapping[str, Any], block: Block
) -> dict[str, bytes]:
    """The Secret's data; without templates every sensitive field under its own name.

    shown: `status.atProvider`; hidden: sensitive fields by the provider's names. Raises `TemplateFault`.
    """
    names = naming.of_block(block)
    fields = {**shown, **{names[name]: value for name, value in hidden.items()}}
    if not templates:
        return {names[name]: _text(value) for name, value in hidden.items()}
    return filled(templates, fields)


def filled(templates: Mapping[str, str], fields: Mapping[str, Any]) -> dict[str, bytes]:
    """Templates with what the fields are. Raises `TemplateFault`."""
    out: dict[str, bytes] = {}
    left = BYTES_MAX
    for key, template in templates.items():
        out[key] = _one(key, template, fields, left)
        left -= len(out[key])
    return out


def _one(key: str, template: str, fields: Mapping[str, Any], left: int) -> bytes:
    out, last = bytearray(), 0
    for match in PLACE.finditer(template):
        out += template[last : match.start()].encode() + _value(key, match[1], fields)
        last = match.end()
        if len(out) > left:
            break
    rest = template[last:]
    if len(out) + len(rest) > left:
        raise _too_long(key)
    if "{{" in rest or "}}" in rest:
        raise TemplateFault(f"{key}: a {{{{ without its }}}}")
    return bytes(out) + rest.encode()


def _too_long(key: str) -> TemplateFault:
    return TemplateFault(f"{key}: with it the Secret is longer than the {BYTES_MAX >> 20} MiB that it may have")


def _value(key: str, expression: str, fields: Mapping[str, Any]) -> bytes:
    field, *filters = [part.strip() for part in PARTS.findall(expression)]
    try:
        value: Any = at(fields, field) if field else None
    except ValueError:
        raise TemplateFault(f"{key}: {field} is no field") from None
    for name in filters:
        if found := DEFAULT.fullmatch(name):
            value = _default(key, found[1]) if value is None else value
            continue
        if value is None:
            break
        value = _filter(key, name, value)
        if len(value) > BYTES_MAX:  # one after the other they would make it longer and longer
            raise _too_long(key)
    if value is None:
        known = ", ".join(sorted(fields)) or "none"
        raise TemplateFault(f"{key}: there is no field {field}; there are {known}")
    return _text(value)


def _default(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise TemplateFault(f"{key}: default({text}): what is within is no JSON text") from None


def _filter(key: str, name: str, value: Any) -> Any:
    match name:
        case "b64decode":
            try:
                return base64.b64decode(b"".join(_text(value).split()), validate=True)  # in lines, as many write it
            except binascii.Error as err:
                raise TemplateFault(f"{key}: b64decode: {err}") from None
        case "b64encode":
            return base64.b64encode(_text(value)).decode()
        case "json":
            if not isinstance(value, bytes):
                return json.dumps(value)
            try:
                return json.dumps(value.decode())
            except UnicodeDecodeError:
                raise TemplateFault(f"{key}: json: it is bytes, not text") from None
    raise TemplateFault(f'{key}: there is no filter {name}; there are b64decode, b64encode, json, default("...")')


def _text(value: Any) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
    return json.dumps(value).encode()
