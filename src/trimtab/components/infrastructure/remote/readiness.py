"""What does not run yet of what was brought into a cluster, and why: from the objects' own status, and for workloads from their pods.

Rollouts as `kubectl rollout status` judges them; any other kind by its condition Ready, if it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab.api import JSON
from trimtab.components.infrastructure.remote.access import Cluster
from trimtab.components.infrastructure.remote.order import Item, wave

MESSAGE_MAX = 300
SAYS_READY = frozenset(
    {("trimtab.dev", "App"), ("trimtab.dev", "ClusterManifests"), ("cert-manager.io", "Certificate"), ("postgresql.cnpg.io", "Cluster")}
)  # fmt: skip
"""Kinds that are not ready until they say that they are."""


async def first_unready(cluster: Cluster, there: Mapping[Item, JSON]) -> str | None:
    """One line of the first that is not ready; None when everything is."""
    for item in sorted(there, key=lambda one: (wave(one), one)):
        live = there[item]
        if (why := unready(item, live)) is None:
            continue
        if item.kind in ("Deployment", "StatefulSet", "DaemonSet", "Job") and (
            because := await _pods(cluster, item, live)
        ):
            why = f"{why}: {because}"
        return f"{item}: {why}"[:MESSAGE_MAX]
    return None


def unready(item: Item, live: JSON) -> str | None:
    """Why it is not ready, in a few words."""
    status = live.get("status") or {}
    spec = live.get("spec") or {}
    if item.kind in ("Deployment", "StatefulSet", "DaemonSet") and _behind(live, status):
        return "its newest form was not looked at yet"
    match item.kind:
        case "Deployment" | "StatefulSet":
            return _replicas(item.kind, spec, status)
        case "DaemonSet":
            want = int(status.get("desiredNumberScheduled") or 0)
            return _count(int(status.get("numberAvailable") or 0), int(status.get("updatedNumberScheduled") or 0), want)
        case "Job":
            return _job(status)
        case "Pod":
            return None if status.get("phase") == "Succeeded" or _is(status, "Ready") else pod_says(live) or "not ready"
        case "PersistentVolumeClaim":
            # One that waits for its first pod is as ready as it can be.
            return "lost its volume" if status.get("phase") == "Lost" else None
        case "CustomResourceDefinition":
            return None if _is(status, "Established") else "not established yet"
    return _by_condition(item, live, status)


def _behind(live: JSON, status: JSON) -> bool:
    return int(status.get("observedGeneration") or 0) < int(live["metadata"].get("generation") or 0)


def _replicas(kind: str, spec: JSON, status: JSON) -> str | None:
    want = int(1 if spec.get("replicas") is None else spec["replicas"])
    ready = int(status.get("availableReplicas" if kind == "Deployment" else "readyReplicas") or 0)
    updated = int(status.get("updatedReplicas") or 0)
    if kind == "StatefulSet" and (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
        updated = want
    return _count(ready, updated, want)


def _count(ready: int, updated: int, want: int) -> str | None:
    if updated < want:
        return f"{updated} of {want} are of its newest form"
    return f"{ready} of {want} ready" if ready < want else None


def _job(status: JSON) -> str | None:
    if _is(status, "Complete"):
        return None
    failed = _condition(status, "Failed")
    return f"failed: {failed.get('message') or failed.get('reason')}" if failed.get("status") == "True" else "running"


def _by_condition(item: Item, live: JSON, status: Any) -> str | None:
    if not isinstance(status, dict):
        return None
    ready = _condition(status, "Ready")
    if not ready:
        return "has said nothing of itself yet" if (item.group, item.kind) in SAYS_READY else None
    if ready.get("status") != "True":
        return str(ready.get("message") or ready.get("reason") or "not ready")
    if isinstance(status.get("observedGeneration"), int) and _behind(live, status):
        return "its newest form was not looked at yet"
    return None


def _condition(status: JSON, type_: str) -> JSON:
    for one in status.get("conditions") or ():
        if isinstance(one, dict) and one.get("type") == type_:
            return one
    return {}


def _is(status: JSON, type_: str) -> bool:
    return bool(_condition(status, type_).get("status") == "True")


async def _pods(cluster: Cluster, item: Item, live: JSON) -> str:
    labels = ((live.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    if not labels:
        return ""
    for pod in await cluster.pods(item.namespace, labels):
        if (said := pod_says(pod)) and not _is(pod.get("status") or {}, "Ready"):
            return f"pod {pod['metadata']['name']}: {said}"
    return ""


def pod_says(pod: JSON) -> str:
    """What keeps a pod from running, in its own words; empty when it says nothing."""
    status = pod.get("status") or {}
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = each.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        before = (each.get("lastState") or {}).get("terminated") or {}
        if waiting.get("reason") == "CrashLoopBackOff" and before:
            return f"CrashLoopBackOff: container {each.get('name')} {_ended(before)}"
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return _words(waiting)
        if ended and ended.get("exitCode"):
            return f"container {each.get('name')} {_ended(ended)}"
    scheduled = _condition(status, "PodScheduled")
    return _words(scheduled) if scheduled.get("status") == "False" else ""


def _ended(terminated: JSON) -> str:
    """With its last line, where the container's `terminationMessagePolicy` has it told."""
    lines = [line.strip() for line in str(terminated.get("message") or "").splitlines() if line.strip()]
    why = "OOMKilled" if terminated.get("reason") == "OOMKilled" else terminated.get("exitCode")
    return f"ended with {why}" + (f": {lines[-1]}" if lines else "")


def _words(said: JSON) -> str:
    return ": ".join(str(said[key]) for key in ("reason", "message") if said.get(key))
