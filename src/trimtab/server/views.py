"""Objects in another version than the stored one: the same bytes under another `apiVersion`, or, for events, other field names.

Custom kinds have conversion strategy None, so their versions differ in name only, and in defaults that came after an object was stored. Events are stored as `v1` and also shown
as `events.k8s.io/v1`, which renamed some of their fields; autoscalers as `v2`, and also shown as `v1` (`autoscaling_views.py`).
"""

from __future__ import annotations

import msgspec

from trimtab.api import JSON
from trimtab.server.kinds import Kind
from trimtab.server.objects import decode, served
from trimtab.store import Record

_EVENT_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "count": "deprecatedCount",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "source": "deprecatedSource",
    "reportingComponent": "reportingController",
}
_CORE_NAMES = {new: old for old, new in _EVENT_NAMES.items()}


def as_stored(kind: Kind, obj: JSON) -> JSON:
    """An object as its kind's stored version has it."""
    if kind.api_version == kind.stored_api_version:
        return obj
    if _is_autoscaler(kind):
        from trimtab.server.autoscaling_views import from_v1

        return from_v1(obj)
    out = {**obj, "apiVersion": kind.stored_api_version}
    if kind.stored_group:
        out = {_CORE_NAMES.get(key, key): value for key, value in out.items()}
    return out


def as_viewed(kind: Kind, obj: JSON) -> JSON:
    """A stored object as a kind shows it. Changes nothing in place below the top."""
    if obj["apiVersion"] == kind.api_version:
        return obj
    if _is_autoscaler(kind):
        from trimtab.server.autoscaling_views import to_v1

        return to_v1(obj)
    out = {**obj, "apiVersion": kind.api_version}
    if kind.stored_group:
        out = {_EVENT_NAMES.get(key, key): value for key, value in out.items()}
    return out


def _is_autoscaler(kind: Kind) -> bool:
    """Of the older version, the only built-in kind that differs from its stored form in more than names."""
    return kind.kind == "HorizontalPodAutoscaler" and kind.group == "autoscaling"


def viewed(kind: Kind, record: Record, revision: int | None = None) -> JSON:
    """The decoded object of a record as a kind shows it."""
    obj = as_viewed(kind, decode(record, revision))
    if kind.complete is not None and _is_older(kind, record):
        kind.complete(kind, obj)
    return obj


def _is_older(kind: Kind, record: Record) -> bool:
    """Whether an object may lack defaults that its kind has been given since it was stored."""
    return 0 < record.revision < kind.defaults_since


def viewed_bytes(kind: Kind, record: Record, revision: int | None = None) -> bytes:
    """The JSON of a record as a kind shows it; nearly always the stored bytes with their version."""
    if record.value.startswith(b'{"apiVersion":"%b",' % kind.api_version.encode()) and not _is_older(kind, record):
        return served(record, revision)
    return msgspec.json.encode(viewed(kind, record, revision))
