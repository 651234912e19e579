"""One value of a plain text set or added, with everything else in it as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from trimtab.secrets import documents
from trimtab.secrets.cipher import Value, name
from trimtab.secrets.errors import SopsError
from trimtab.secrets.scalars import quoted, written


def with_value(text: str, format: str, steps: Sequence[str], value: Any) -> str:
    """The text with a value at a place; missing mappings on the way to it are made.

    Raises:
        SopsError: something else stands in the way.
    """
    if format == "binary":
        raise SopsError("it is one value as a whole; `trimtab secret edit` changes it")
    if format == "dotenv":
        return _dotenv(text, steps, value)
    if format == "json":
        data = json.loads(text or "{}")
        _put(data, steps, value)
        indent = next(
            (line[: len(line) - len(line.lstrip())] for line in text.splitlines() if line[:1].isspace()), "\t"
        )
        return json.dumps(data, indent=indent, ensure_ascii=False) + "\n"
    return _yaml(text, steps, value)


def _dotenv(text: str, steps: Sequence[str], value: Any) -> str:
    if len(steps) != 1 or isinstance(value, dict | list):
        raise SopsError("a dotenv file has names and texts only; write NAME")
    line = f"{steps[0]}=" + str(value).replace("\n", "\\n")
    lines = text.splitlines()
    at = next((i for i, old in enumerate(lines) if old.startswith(f"{steps[0]}=")), len(lines))
    return "\n".join((*lines[:at], line, *lines[at + 1 :])) + "\n"


def _put(data: Any, steps: Sequence[str], value: Any) -> None:
    for i, step in enumerate(steps[:-1]):
        data = data.setdefault(step, {}) if isinstance(data, dict) else _item(data, step, steps[: i + 1])
    last = steps[-1]
    if isinstance(data, dict):
        data[last] = value
    elif isinstance(data, list) and last == str(len(data)):
        data.append(value)
    elif isinstance(data, list):
        _item(data, last, steps)
        data[int(last)] = value
    else:
        raise SopsError(f"{name(steps[:-1])} is one value; nothing can be put below it")


def _item(data: Any, step: str, steps: Sequence[str]) -> Any:
    if not isinstance(data, list):
        raise SopsError(f"{name(steps[:-1])} is one value; nothing can be put below it")
    if not step.isdecimal() or int(step) >= len(data):
        raise SopsError(f"there is no {name(steps)}: the list has {len(data)} items")
    return data[int(step)]


def _yaml(text: str, steps: Sequence[str], value: Any) -> str:
    if not text.strip():
        return _lines(steps, value, 0) + "\n"
    document = documents.read(text, "yaml")
    leaves = [leaf for leaf in document.leaves if leaf.position]
    for i, leaf in enumerate(document.leaves):
        if [str(step) for step in leaf.position] == [*steps] and not isinstance(value, dict | list | None):
            values: list[Value] = [one.value for one in document.leaves]
            values[i] = value
            return document.text(values, None)
    depth, at = 0, document.tree([leaf.value for leaf in document.leaves])
    while depth < len(steps) - 1 and isinstance(at, dict) and steps[depth] in at:
        at, depth = at[steps[depth]], depth + 1
    inside = [leaf for leaf in leaves if [str(step) for step in leaf.position[:depth]] == [*steps[:depth]]]
    direct = [leaf for leaf in inside if len(leaf.position) == depth + 1 and leaf.key_column is not None]
    if not isinstance(at, dict) or steps[depth] in at or not (direct or depth == 0):
        raise SopsError(f"{name(steps)} cannot be put in without changing what is around it; use `trimtab secret edit`")
    column = direct[0].key_column or 0 if direct else 0
    end = max((leaf.span[1] for leaf in inside), default=len(text)) if depth else len(text)
    end = max(end - 1, 0) if text[end - 1 : end] == "\n" else end
    line_end = text.find("\n", end)
    head, tail = (text, "\n") if line_end < 0 else (text[:line_end], text[line_end:])
    return head.rstrip("\n") + "\n" + _lines(steps[depth:], value, column) + tail


def _lines(steps: Sequence[str], value: Any, column: int) -> str:
    out = []
    for i, step in enumerate(steps):
        key = step if written(step) == step else quoted(step)
        out.append(" " * (column + 2 * i) + f"{key}:")
    last = column + 2 * (len(steps) - 1)
    out[-1] += " " + (json.dumps(value) if isinstance(value, dict | list) else written(value, last))
    return "\n".join(out)
