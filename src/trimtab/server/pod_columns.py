"""What kubectl prints of a pod: how many containers are ready, and the one word that says how the pod is."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from trimtab.api import JSON
from trimtab.server.tables import age, parse_time

NONE = "<none>"


def pod_cells(pod: JSON, now: datetime) -> list[Any]:
    """Name, Ready, Status, Restarts, Age, IP, Node, Nominated Node, Readiness Gates."""
    spec, status, meta = pod.get("spec") or {}, pod.get("status") or {}, pod["metadata"]
    containers = status.get("containerStatuses") or []
    ready = sum(1 for c in containers if c.get("ready") and "running" in (c.get("state") or {}))
    return [
        meta.get("name", ""),
        f"{ready}/{len(spec.get('containers') or ())}",
        pod_state(pod),
        _restarts(status, now),
        age(meta.get("creationTimestamp"), now),
        status.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(spec, status),
    ]


def pod_state(pod: JSON) -> str:
    """`Running`, `CrashLoopBackOff`, `Init:1/2`, `Completed`, `Terminating` ..."""
    status = pod.get("status") or {}
    word = _initializing(pod) or _state(status)
    if pod["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return word


def _initializing(pod: JSON) -> str:
    """What holds up the init containers; empty when they are through."""
    specs = (pod.get("spec") or {}).get("initContainers") or []
    sidecars = {c.get("name") for c in specs if c.get("restartPolicy") == "Always"}
    for index, container in enumerate((pod.get("status") or {}).get("initContainerStatuses") or ()):
        state = container.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting")
        if terminated is not None and terminated.get("exitCode") == 0:
            continue
        if container.get("name") in sidecars and container.get("started"):
            continue
        if terminated is not None:
            return "Init:" + _ended(terminated)
        if waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{len(specs)}"
    return ""


def _ended(terminated: JSON) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _state(status: JSON) -> str:
    """The word of the containers; of the pod itself where they say nothing."""
    word = status.get("reason") or status.get("phase") or "Unknown"
    running = False
    for container in reversed(status.get("containerStatuses") or []):
        state = container.get("state") or {}
        waiting, terminated = state.get("waiting"), state.get("terminated")
        if waiting is not None and waiting.get("reason"):
            word = waiting["reason"]
        elif terminated is not None:
            word = _ended(terminated)
        elif container.get("ready") and "running" in state:
            running = True
    if word == "Completed" and running:
        conditions = status.get("conditions") or ()
        ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
        return "Running" if ready else "NotReady"
    return str(word)


def _restarts(status: JSON, now: datetime) -> str:
    containers = status.get("containerStatuses") or []
    count = sum(c.get("restartCount", 0) for c in containers)
    times = [
        moment
        for c in containers
        if (moment := parse_time(((c.get("lastState") or {}).get("terminated") or {}).get("finishedAt"))) is not None
    ]
    if not count or not times:
        return str(count)
    return f"{count} ({age(max(times).isoformat(), now)} ago)"


def _gates(spec: JSON, status: JSON) -> str:
    gates = spec.get("readinessGates") or []
    if not gates:
        return NONE
    true = {c.get("type") for c in status.get("conditions") or () if c.get("status") == "True"}
    return f"{sum(1 for gate in gates if gate.get('conditionType') in true)}/{len(gates)}"
