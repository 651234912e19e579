"""Rules of StatefulSets and DaemonSets that follow from the object alone, in the words of the real server."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.api import JSON
from trimtab.server.errors import Cause
from trimtab.server.problems import invalid, not_negative, required, unsupported

_ZEROS = (0, "0", "0%")


def stateful_set(obj: JSON) -> Iterator[Cause]:
    """How its pods are made, changed, and what becomes of their claims."""
    spec = obj.get("spec") or {}
    policy = spec.get("podManagementPolicy")
    if policy not in ("OrderedReady", "Parallel"):
        yield invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'")
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") not in ("RollingUpdate", "OnDelete"):
        yield invalid("spec.updateStrategy", _in_go(strategy), "must be 'RollingUpdate' or 'OnDelete'")
    rolling = strategy.get("rollingUpdate") or {}
    yield from not_negative(rolling, "partition", "spec.updateStrategy.rollingUpdate")
    kept = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for name in ("whenDeleted", "whenScaled"):
        if kept.get(name, "Retain") not in ("Retain", "Delete"):
            at = f"spec.persistentVolumeClaimRetentionPolicy.{name}"
            yield unsupported(at, kept[name], ("Retain", "Delete"))


def daemon_set(obj: JSON) -> Iterator[Cause]:
    """How its pods are changed."""
    strategy = (obj.get("spec") or {}).get("updateStrategy") or {}
    if strategy.get("type") not in ("RollingUpdate", "OnDelete"):
        yield unsupported("spec.updateStrategy", _in_go(strategy), ("RollingUpdate", "OnDelete"))
    rolling = strategy.get("rollingUpdate") or {}
    still = rolling.get("maxUnavailable") in _ZEROS and rolling.get("maxSurge", 0) in _ZEROS
    if strategy.get("type") == "RollingUpdate" and still:
        yield required("spec.updateStrategy.rollingUpdate.maxUnavailable", "cannot be 0 when maxSurge is 0")


def _in_go(strategy: JSON) -> JSON:
    """A strategy of no known type under the names of Go's fields."""
    return {"Type": strategy.get("type") or "", "RollingUpdate": None}
