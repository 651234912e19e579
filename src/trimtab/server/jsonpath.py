"""The JSONPath of printer columns: fields, quoted fields, indexes, `[*]` and one-comparison filters.

.spec.replicas   .metadata.labels.app\\.kubernetes\\.io/name   .status.conditions[?(@.type=="Ready")].status
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_PIECE = re.compile(
    r"\.(?P<field>(?:\\.|[^.\[\\])+)"
    r"|\[(?P<index>-?\d+)\]"
    r"|\[(?P<all>\*)\]"
    r"|\[(?P<quote>['\"])(?P<quoted>.+?)(?P=quote)\]"
    r"|\[\?\(\s*@\.(?P<key>[^=!<>\s]+)\s*(?P<op>==|!=)\s*(?P<value>'[^']*'|\"[^\"]*\"|[^)\s]+)\s*\)\]"
)

Step = Callable[[Any], list[Any]]


@lru_cache(maxsize=1024)
def compile_path(text: str) -> tuple[Step, ...]:
    """The steps of a path. Raises ValueError for one that is not of this kind."""
    path = text.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    if path and path[0] not in ".[":
        path = "." + path
    steps: list[Step] = []
    position = 0
    while position < len(path):
        found = _PIECE.match(path, position)
        if found is None:
            raise ValueError(f"{text}: this JSONPath is not understood from {path[position:]!r} on")
        position = found.end()
        if found["field"] is not None:
            name = re.sub(r"\\(.)", r"\1", found["field"])
            steps.append(_every if name == "*" else _field(name))
        elif found["index"] is not None:
            steps.append(_index(int(found["index"])))
        elif found["all"] is not None:
            steps.append(_every)
        elif found["quoted"] is not None:
            steps.append(_field(found["quoted"]))
        else:
            steps.append(_filter(found["key"], found["value"].strip("'\""), found["op"] == "=="))
    return tuple(steps)


def find(obj: Any, path: str) -> list[Any]:
    """All values at a path, in order."""
    values = [obj]
    for step in compile_path(path):
        values = [found for value in values for found in step(value)]
    return values


def _field(name: str) -> Step:
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else []


def _index(index: int) -> Step:
    return lambda value: [value[index]] if isinstance(value, list) and -len(value) <= index < len(value) else []


def _every(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return list(value.values()) if isinstance(value, dict) else []


def _filter(key: str, wanted: str, equal: bool) -> Step:
    names = key.split(".")

    def step(value: Any) -> list[Any]:
        return [item for item in _every(value) if (_text(_at(item, names)) == wanted) is equal]

    return step


def _at(value: Any, names: list[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
