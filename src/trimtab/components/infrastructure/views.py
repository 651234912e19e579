"""The dashboard's picture of infrastructure: every resource, manifest and claim, what would be done about it, and what stands in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from trimtab.api import JSON
from trimtab.client import ApiError, Client
from trimtab.components.infrastructure.composition.kinds import CompositeDefinition, plural
from trimtab.components.infrastructure.kinds import Provider
from trimtab.components.infrastructure.remote import ClusterManifests
from trimtab.components.infrastructure.schemas import naming

COLUMNS = ["Kind", "Namespace", "Name", "Ready", "Plan", "State", "Id"]
NONE = "No provider is installed: trimtab provider install NAMESPACE/NAME"
ROWS_MAX = 500
"""Of one kind."""


async def infrastructure(client: Client) -> JSON:
    """A table, what needs attention first, under a count of the reasons why."""
    providers = (await client.list(Provider)).items
    found: list[tuple[bool, list[str]]] = []
    reasons: Counter[str] = Counter()
    more = 0
    async for kind, path in _places(client, providers):
        items, left = await _listed(client, path)
        more += left
        for one in items:
            troubled = _needs_attention(one)
            found.append((not troubled and _is(one, "Ready") == "True", _row(kind, one)))
            if troubled:
                reasons[_state(one.get("status", {}).get("conditions", [])).partition(":")[0] or "NotLookedAt"] += 1
    rows = [row for _, row in sorted(found, key=lambda one: (one[0], one[1][:3]))]
    return {"note": _note(providers, reasons, len(rows), more), "columns": COLUMNS, "rows": rows}


async def troubled(client: Client) -> int:
    """How many objects are not as they should be, or not looked after: neither ready nor paused on purpose."""
    count = 0
    async for _, path in _places(client, (await client.list(Provider)).items):
        items, _ = await _listed(client, path)
        count += sum(_needs_attention(one) for one in items)
    return count


def _needs_attention(one: JSON) -> bool:
    if one.get("spec", {}).get("pause"):
        return False
    return _is(one, "Ready") != "True" or _is(one, "Synced") == "False"


async def _places(client: Client, providers: list[Provider]) -> AsyncIterator[tuple[str, str]]:
    """(kind, path of its objects) of everything that the table shows."""
    for definition in (await client.list(CompositeDefinition)).items:
        if definition.status.served:
            spec = definition.spec
            yield spec.names.kind, f"/apis/{spec.group}/{spec.version}/{plural(spec)}"
    for provider in providers:
        for name in provider.spec.kinds:
            kind = naming.kind_name(provider.name, name)
            yield kind, f"/apis/{naming.group(provider.name)}/{naming.VERSION}/{naming.plural(kind)}"
    yield ClusterManifests.resource_type.kind, ClusterManifests.resource_type.path()


async def _listed(client: Client, path: str) -> tuple[list[JSON], int]:
    """Objects, and how many more there are. None of a kind that is on its way in or out."""
    try:
        answer = await client.raw("GET", path, query={"limit": str(ROWS_MAX)})
    except ApiError as err:
        if err.status in (403, 404):
            return [], 0
        raise
    said = msgspec.json.decode(answer.body)
    return said["items"], said["metadata"].get("remainingItemCount", 0)


def _row(kind: str, one: JSON) -> list[str]:
    meta, status = one["metadata"], one.get("status", {})
    name = str(meta["name"])
    return [
        kind,
        str(meta.get("namespace", "")),
        name,
        _is(one, "Ready"),
        _plan(status.get("plan", {})),
        _state(status.get("conditions", [])),
        str(status.get("id", "")),
    ]


def _is(one: JSON, type: str) -> str:
    conditions = one.get("status", {}).get("conditions", [])
    return next((str(c["status"]) for c in conditions if c["type"] == type), "Unknown")


def _plan(plan: JSON) -> str:
    """`update: 2 drift, 1 spec`; nothing when nothing would be done."""
    action = plan.get("action", "none")
    if action == "none":
        return ""
    causes = Counter(str(line.get("cause", "provider")) for line in plan.get("changes", []))
    return f"{action}: " + ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))


def _state(conditions: list[Any]) -> str:
    """What is wrong, in a line."""
    for type in ("Synced", "Applied", "Ready"):
        for one in conditions:
            if one["type"] == type and one["status"] != "True":
                return f"{one['reason']}: {one['message']}" if one.get("message") else str(one["reason"])
    return ""


def _note(providers: list[Provider], reasons: Counter[str], objects: int, more: int) -> str:
    """reasons: of those of the objects that need attention."""
    if not providers:
        return NONE
    said = [", ".join(f"{one.name} {one.spec.version} ({len(one.spec.kinds)} kinds enabled)" for one in providers)]
    if reasons:
        counts = sorted(reasons.items(), key=lambda one: (-one[1], one[0]))
        why = ", ".join(f"{count} {reason}" for reason, count in counts)
        said.append(f"{reasons.total()} of {objects} need attention: {why}")
    if more:
        said.append(f"{more} more objects are not shown")
    return ". ".join(said)
