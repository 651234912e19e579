"""Whether an object that a claim is composed of can be used, by its kind's own rule; if not, why, in one line."""

from __future__ import annotations

from trimtab.api import JSON
from trimtab.components.infrastructure.remote.order import Item
from trimtab.components.infrastructure.remote.readiness import unready

MESSAGE_MAX = 300


def readiness(one: JSON, *, says: bool) -> tuple[bool, str]:
    """(ready, why not). one: the object as the API has it. says: its kind says whether it is ready (a provider's, a claim)."""
    meta = one["metadata"]
    if meta.get("deletionTimestamp"):
        return False, "it is being deleted"
    item = Item(one["apiVersion"], one["kind"], meta.get("namespace", ""), meta["name"])
    why = _said(one) if says else unready(item, one)
    return why is None, (why or "")[:MESSAGE_MAX]


def _said(one: JSON) -> str | None:
    status = one.get("status")
    if not isinstance(status, dict):
        return "it has said nothing of itself yet"
    found = {c.get("type"): c for c in status.get("conditions") or () if isinstance(c, dict)}
    if int(status.get("observedGeneration") or 0) < int(one["metadata"].get("generation") or 0):
        return "its newest form was not looked at yet"
    for type_ in ("Synced", "Ready"):  # what hinders it says more than that it is hindered
        condition = found.get(type_)
        if condition is not None and condition.get("status") != "True":
            words = [str(condition[key]) for key in ("reason", "message") if condition.get(key)]
            return ": ".join(words) or f"{type_} is {condition.get('status')}"
    return None if "Ready" in found else "it has said nothing of itself yet"
