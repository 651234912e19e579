"""Conditions of a status. The runtime keeps `lastTransitionTime`; what else has to stay as it was is kept here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from trimtab.api import Condition

C = TypeVar("C", bound=Condition)


def whole_seconds(now: datetime) -> datetime:
    """The time as Kubernetes writes it: without fractions of a second."""
    return now.replace(microsecond=0)


def find(conditions: Iterable[C], type_: str) -> C | None:
    """The condition of that type, or None."""
    return next((c for c in conditions if c.type == type_), None)


def holds(conditions: Iterable[Condition], type_: str) -> bool:
    """True when the condition is there and True."""
    found = find(conditions, type_)
    return found is not None and found.status == "True"


def wire(conditions: Iterable[Condition]) -> list[dict[str, Any]]:
    """The conditions as they stand in a status."""
    return [msgspec.to_builtins(c, str_keys=True) for c in conditions]
