"""Paths to fields, as CRDs write them in `fieldPath` and `selectableFields`: `.spec.name`, `.labels['a.b']`."""

from __future__ import annotations

import re
from typing import Any

from trimtab.server.structural import JSON

_TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|[.\[\]]|[^.\[\]]+")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "'": "'", "\\": "\\"}


class RulePathError(ValueError):
    """A path that leads nowhere; the text says why."""


def schema_at(path: str, schema: JSON, *, brackets: bool = True) -> tuple[str, Any]:
    """(the path as errors print it, the schema there).

    Raises:
        RulePathError: it is no path, or not one of this schema.
    """
    shown = ""
    tokens = _TOKEN.findall(path)
    at = 0

    def take() -> str:
        nonlocal at
        if at == len(tokens):
            raise RulePathError("unexpected end of JSON path")
        at += 1
        return str(tokens[at - 1])

    here: Any = schema
    while at < len(tokens):
        token = take()
        if token not in (".", "["):
            raise RulePathError(f"expected [ or . but got: {token}")
        if token == "[" and not brackets:
            raise RulePathError("array notation is not allowed")
        name = take()
        if token == "[":
            name = _unquoted(name)
            if (closing := take()) != "]":
                raise RulePathError(f"expected ] but got {closing}")
        properties, additional = here.get("properties"), here.get("additionalProperties")
        if properties:
            if name not in properties:
                raise RulePathError("does not refer to a valid field")
            here = properties[name]
            shown += f".{name}"
        elif isinstance(additional, dict):
            here = additional
            shown += f"[{name}]"
        else:
            raise RulePathError("does not refer to a valid field")
    return shown, here


def _unquoted(token: str) -> str:
    if len(token) < 2 or token[0] != "'" or token[-1] != "'":
        raise RulePathError(f"expected single quoted string but got {token}")

    def character(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPED:
            raise RulePathError(f"invalid string literal: invalid escape char {match[0]}")
        return _ESCAPED[match[1]]

    return re.sub(r"\\(.)", character, token[1:-1])
