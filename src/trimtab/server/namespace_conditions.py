"""How far the deletion of a namespace is, as the five conditions of its status, in the words of Kubernetes.

The texts are those of `pkg/controller/namespace/deletion/status_condition_utils.go`. Here nothing can fail to be discovered or
deleted, so three of the five always say that all is well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from trimtab.api import JSON

_WELL = {
    "NamespaceDeletionDiscoveryFailure": ("ResourcesDiscovered", "All resources successfully discovered"),
    "NamespaceDeletionGroupVersionParsingFailure": (
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    "NamespaceDeletionContentFailure": (
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    "NamespaceContentRemaining": ("ContentRemoved", "All content successfully removed"),
    "NamespaceFinalizersRemaining": ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
}


def deletion_conditions(before: Iterable[JSON], left: Counter[str], finalizers: Counter[str], now: str) -> list[JSON]:
    """The conditions, with those in `before` that are not about deletion.

    left: how many objects remain of each resource (`pods.`, `widgets.example.dev`); finalizers: how many of them wait for each.
    """
    known = {str(condition.get("type")): condition for condition in before}
    found: dict[str, tuple[str, str, str]] = {name: ("False", *text) for name, text in _WELL.items()}
    if left:
        counts = ", ".join(f"{name} has {count} resource instances" for name, count in sorted(left.items()))
        found["NamespaceContentRemaining"] = (
            "True",
            "SomeResourcesRemain",
            f"Some resources are remaining: {counts}",
        )
    if finalizers:
        counts = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
        found["NamespaceFinalizersRemaining"] = (
            "True",
            "SomeFinalizersRemain",
            f"Some content in the namespace has finalizers remaining: {counts}",
        )
    out = [condition for name, condition in known.items() if name not in found]
    for name, (status, reason, message) in found.items():
        old = known.get(name, {})
        changed = now if old.get("status") != status else old.get("lastTransitionTime", now)
        out.append(
            {"type": name, "status": status, "lastTransitionTime": changed, "reason": reason, "message": message}
        )
    return out
