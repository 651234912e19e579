"""Tables: what `kubectl get` prints, made here so that every client shows the same columns.

Columns of built-in kinds stand in `columns.py`, those of custom kinds in their CRD. Ages are texts, as they are at the moment
of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.server import jsonpath
from trimtab.server.kinds import Column, Kind

NAME = Column("Name", "string", ".metadata.name", "name", "Name must be unique within a namespace.")
AGE = Column("Age", "date", ".metadata.creationTimestamp")


@dataclass(frozen=True, slots=True)
class TableOptions:
    """include: `None`, `Metadata` or `Object`, what each row carries besides its cells."""

    include: str
    version: str
    now: Callable[[], datetime]


def table(
    kind: Kind, objects: Sequence[JSON], meta: JSON, options: TableOptions, *, with_columns: bool, bare: bool = False
) -> JSON:
    """A `Table` of objects; its rows stand last. `bare`: of a bookmark, whose row has no cells."""
    columns, _ = _layout(kind, options.now)
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{options.version}",
        "metadata": meta,
        "columnDefinitions": [_definition(column) for column in columns] if with_columns else None,
        "rows": rows(kind, objects, options, bare=bare),
    }


def rows(kind: Kind, objects: Sequence[JSON], options: TableOptions, *, bare: bool = False) -> list[JSON]:
    """The rows of objects."""
    _, cells = _layout(kind, options.now)
    return [
        {"cells": [] if bare else cells(obj)} | _object_part(obj, options.include, options.version) for obj in objects
    ]


def _definition(column: Column) -> JSON:
    return {
        "name": column.name,
        "type": column.type,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    }


def _object_part(obj: JSON, include: str, version: str) -> JSON:
    if include == "None":
        return {"object": None}
    if include == "Object":
        return {"object": obj}
    return {
        "object": {
            "kind": "PartialObjectMetadata",
            "apiVersion": f"meta.k8s.io/{version}",
            "metadata": obj["metadata"],
        }
    }


def _layout(kind: Kind, now: Callable[[], datetime]) -> tuple[Sequence[Column], Callable[[JSON], list[Any]]]:
    """The columns of a kind, and what fills them."""
    if not kind.crd:
        from trimtab.server.columns import BUILTIN

        found = BUILTIN.get((kind.group, kind.kind))
        if found is not None:
            columns, cells = found
            moment = now()
            return columns, lambda obj: cells(obj, moment)
    own = kind.columns or (AGE,)
    columns = (NAME, *(c for c in own if not (c.name == "Name" and c.path == ".metadata.name")))
    moment = now()
    return columns, lambda obj: [_cell(obj, column, moment) for column in columns]


def _cell(obj: JSON, column: Column, now: datetime) -> Any:
    """The value of a custom kind's column."""
    try:
        found = jsonpath.find(obj, column.path)
    except ValueError:
        return None
    if not found:
        return None
    if column.type == "date":
        return age(found[0], now)
    if column.type == "string":
        texts = [v if isinstance(v, str) else msgspec.json.encode(v).decode() for v in found]
        return ",".join(texts)
    return found[0]


def age(timestamp: Any, now: datetime) -> str:
    """How long ago a time was, for a person: `42s`, `3m5s`, `2d`."""
    moment = parse_time(timestamp)
    return "<unknown>" if moment is None else duration(int((now - moment).total_seconds()))


def parse_time(timestamp: Any) -> datetime | None:
    if not isinstance(timestamp, str) or not timestamp:
        return None
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def duration(seconds: int) -> str:
    """Two units at most, and one where the second no longer matters (the steps of kubectl)."""
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    if seconds < 120:
        return f"{seconds}s"
    minutes = seconds // 60
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
