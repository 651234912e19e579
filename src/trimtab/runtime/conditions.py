"""Conditions on their way into a status: `lastTransitionTime` kept by the runtime, and the runtime's own conditions.

A reconciler returns conditions without times. Where the live object has the same type with the same status, its time is
kept; else it is now. Times are in whole seconds, as `metav1.Time` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from trimtab.api import JSON, Condition, Resource

STALLED = "Stalled"
NON_CONVERGENT = "NonConvergent"

RUNTIME_CONDITIONS: dict[str, str] = {
    "ReconcileError": "The last attempts to reconcile this object failed; the message says why. It is retried with a "
    "growing delay.",
    "ObjectHeld": "An object that this one needs exists already and belongs to somebody else. Delete or rename it, or hand "
    'it over with the annotation trimtab.dev/adopt: "true".',
    "Undeclared": "A component tried to read or write something that it did not declare: a bug of that component.",
    "NonConvergent": "A reconciler kept writing while its inputs stood still, so it was stopped; the message names the "
    "fields that flip. It starts again when an input changes.",
    "EffectsLeft": "Something was done to the outside world for this object that its component does not know how to undo; "
    "the object is kept until that is settled.",
}
"""Reasons that the runtime itself can set on any subject, and what they mean to a user."""

_WITH_CONDITIONS: dict[type[Resource], bool] = {}


def has_conditions(kind: type[Resource]) -> bool:
    """Whether the kind's status holds `metav1` conditions."""
    known = _WITH_CONDITIONS.get(kind)
    if known is None:
        known = False
        if kind.resource_type.status:
            status = get_type_hints(kind).get("status")
            held = get_type_hints(status).get("conditions") if isinstance(status, type) else None
            known = get_origin(held) is list and issubclass(get_args(held)[0], Condition)
        _WITH_CONDITIONS[kind] = known
    return known


def live_conditions(obj: Resource) -> Sequence[Condition]:
    conditions: Sequence[Condition] = getattr(getattr(obj, "status", None), "conditions", ())
    return conditions


def readiness_turned(before: Resource, after: Resource) -> JSON | None:
    """For the journal: `{"ready": True}`, or False with the reason and message, when the condition Ready became so; None when it stayed."""
    then, now = (next((c for c in live_conditions(one) if c.type == "Ready"), None) for one in (before, after))
    was, is_ready = (one is not None and one.status == "True" for one in (then, now))
    if was == is_ready:
        return None
    if is_ready or now is None:
        return {"ready": is_ready}
    return {"ready": False, "reason": now.reason or "", "message": now.message or ""}


def wire_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def with_times(status: JSON, live: Resource, now: datetime) -> JSON:
    """`status` as JSON values whose conditions carry their `lastTransitionTime`."""
    out: JSON = msgspec.to_builtins(status, str_keys=True)
    conditions = out.get("conditions")
    if not conditions:
        return out
    before = {condition.type: condition for condition in live_conditions(live)}
    out["conditions"] = [_with_time(condition, before.get(condition["type"]), now) for condition in conditions]
    return out


def _with_time(condition: dict[str, Any], before: Condition | None, now: datetime) -> dict[str, Any]:
    at = now
    if before is not None and before.status == condition.get("status") and before.last_transition_time is not None:
        at = before.last_transition_time
    return {**condition, "lastTransitionTime": wire_time(at)}
