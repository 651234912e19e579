"""Emptying a node before it goes: cordoned, then every pod asked to leave, as `kubectl drain` does it.

    node --cordon--> no new pods --eviction of each--> 201: it leaves; 429: its disruption budget says not now, asked again

Pods of DaemonSets belong to the node and stay. When the time is over the node is as before, and the budgets are named.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from trimtab.engine import local
from trimtab.engine.errors import EngineError
from trimtab.runtime.settings import Settings

DRAIN_S = 300
"""How long budgets may hold up the removal of a node, unless the user says otherwise."""
ASK_EVERY_S = 0.5
TOO_MANY = 429
GONE = (404, 409)

Say = Callable[[str], None]


def drain(settings: Settings, name: str, say: Say, timeout_s: float) -> None:
    """Cordons the node and evicts its pods, as far as budgets allow; returns once they are gone.

    Raises:
        EngineError: a budget did not allow it in time; the node takes pods again.
    """
    node = f"/api/v1/nodes/{name}"
    if local.get_json(settings.api_socket, node) is None:
        return
    local.merge_patch(settings.api_socket, node, {"spec": {"unschedulable": True}})
    deadline = time.monotonic() + timeout_s
    told = ""
    while pods := _pods(settings, name):
        held = [text for pod in pods if (text := _evict(settings, pod)) is not None]
        if held and held[0] != told:
            told = held[0]
            say(f"{name}: {told}")
        if time.monotonic() > deadline:
            local.merge_patch(settings.api_socket, node, {"spec": {"unschedulable": False}})
            pod = pods[0]["metadata"]
            why = held[0] if held else f"pod {pod['namespace']}/{pod['name']} does not end"
            raise EngineError(
                f"{name} was not removed, since after {timeout_s:.0f} s {why}: try again later, or give --force"
            )
        time.sleep(ASK_EVERY_S)


def _pods(settings: Settings, name: str) -> list[dict[str, Any]]:
    """The pods that have to leave."""
    found = local.get_json(settings.api_socket, f"/api/v1/pods?fieldSelector=spec.nodeName%3D{name}") or {}
    return [pod for pod in found.get("items", ()) if not _stays(pod)]


def _stays(pod: dict[str, Any]) -> bool:
    owners = pod["metadata"].get("ownerReferences", ())
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return ended or any(owner["kind"] == "DaemonSet" for owner in owners)


def _evict(settings: Settings, pod: dict[str, Any]) -> str | None:
    """Asks a pod to leave; why it may not now, or None."""
    meta = pod["metadata"]
    if "deletionTimestamp" in meta:
        return None
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction"
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": meta["name"]}}
    status, answer = local.post(settings.api_socket, path, body)
    if status < 300 or status in GONE:
        return None
    message = answer.get("message") or f"the API answers {status}"
    return f"pod {meta['namespace']}/{meta['name']} may not be evicted: {message}"
