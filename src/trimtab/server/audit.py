"""Who changed what, told once for each committed change.

The application knows who asks (`asking`); the writer and the deleter know what came of it. Whoever gave `ApiServer` an `on_write`
gets a `WriteNote` of both: the engine puts it into its journal. What the server does by itself (garbage collection) has no asker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from trimtab.api import JSON
from trimtab.server.authentication import User
from trimtab.server.kinds import Kind

CHANGES_MAX = 6
VALUE_MAX = 60
"""Characters of a value that are told."""
ANNOTATION_MAX = 200
"""Characters that a webhook's note may have."""
_TOLD = frozenset({"image", "schedule", "type", "storage", "cpu", "memory", "minAvailable", "maxUnavailable", "host"})
"""Texts under these names are told with their values; of others only that they changed, since they may be secret."""
_BOOKKEEPING = frozenset({"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"})


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, and with what program (the first word of its User-Agent)."""

    user: User
    agent: str


@dataclass(frozen=True, slots=True)
class WriteNote:
    """One committed change. verb: created, changed, deleting, deleted. changes: `spec.replicas 2 -> 3`."""

    verb: str
    kind: Kind
    namespace: str
    name: str
    asking: Asking | None
    manager: str
    subresource: str
    changes: tuple[str, ...]
    owner: tuple[str, str, str] | None
    """apiVersion, kind and name of the controlling owner."""
    annotations: tuple[str, ...] = ()
    """What webhooks have noted of the request: `webhook/key=value`."""


asking: ContextVar[Asking | None] = ContextVar("asking", default=None)
"""Who asks for what is being done now; None when the server does it by itself."""


def note(
    kind: Kind,
    verb: str,
    obj: JSON,
    old: JSON | None = None,
    *,
    manager: str = "",
    subresource: str = "",
    annotations: Mapping[str, str] | None = None,
) -> WriteNote:
    """The note of a change of `old` into `obj`."""
    meta = obj["metadata"]
    owner = next((ref for ref in meta.get("ownerReferences") or () if ref.get("controller")), None)
    changes = tuple(told_changes(old, obj)) if old is not None and verb == "changed" else ()
    return WriteNote(
        verb,
        kind,
        meta.get("namespace") or "",
        meta["name"],
        asking.get(),
        manager,
        subresource,
        changes,
        (owner["apiVersion"], owner["kind"], owner["name"]) if owner is not None else None,
        tuple(f"{key}={value[:ANNOTATION_MAX]}" for key, value in sorted((annotations or {}).items()))[:CHANGES_MAX],
    )


def told_changes(old: JSON, new: JSON) -> list[str]:
    """Where two versions differ, at most `CHANGES_MAX`; with numbers, truth values and harmless texts as they were and are."""
    found: list[str] = []
    for path, before, after in _differences(old, new, ""):
        if len(found) == CHANGES_MAX:
            found[-1] = "and more"
            break
        last = path.rpartition(".")[2]
        if _is_told(last, before) and _is_told(last, after):
            found.append(f"{path} {_text(before)} -> {_text(after)}")
        else:
            found.append(path)
    return found


def _is_told(name: str, value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and name in _TOLD)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= VALUE_MAX else f"...{text[-VALUE_MAX:]}"


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if path == "metadata" and name in _BOOKKEEPING:
                continue
            inner = f"{path}[{name}]" if "." in name or "/" in name else f"{path}.{name}" if path else name
            yield from _differences(old.get(name), new.get(name), inner)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (left, right) in enumerate(zip(old, new, strict=True)):
            label = left.get("name") or left.get("type") or i if isinstance(left, dict) else i
            yield from _differences(left, right, f"{path}[{label}]")
    else:
        yield path, old, new
