"""What `trimtab status` shows: the processes as the supervisor keeps them, what they use, node and apps from the API."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from trimtab.engine import lifecycle, local, procfs, room
from trimtab.runtime.settings import Settings

SAMPLE_S = 0.5
"""CPU is measured over so long: what wakes a few times a second is seen."""


def report(settings: Settings) -> dict[str, Any]:
    """The state of an engine as plain values.

    `state` is `running`, `stopped`, `degraded` (something is not well) or `unsupervised` (the supervisor is gone, its
    processes are not).
    """
    lifecycle.refuse_copy(settings)
    state = lifecycle.state_of(settings)
    supervisor = lifecycle.supervisor_of(settings)
    children = lifecycle.running_children(settings)
    processes = _processes(state, supervisor, children)
    nodes, apps, problems = _from_api(settings) if supervisor is not None else ([], [], [])
    if supervisor is None:
        overall = "unsupervised" if children else "stopped"
        if children:
            problems.append(f"no supervisor runs; take over with `trimtab --data {settings.data} start`")
    else:
        for process in processes:
            if process["state"] not in ("ready", "running"):
                last = f" (it {process['last']})" if process["last"] else ""
                problems.append(
                    f"{process['name']} is {process['state']}{last}: see {settings.data}/log/{process['name']}.log"
                )
        if short := room.shortage(settings.data):
            problems.append(short)
        overall = "degraded" if problems else "running"
    return {
        "id": settings.id,
        "data": settings.data,
        "state": overall,
        "started": state.get("started") if supervisor is not None else None,
        "api": f"https://{settings.listen}:{settings.api_port}",
        "web": f"http://{settings.listen}:{settings.web_port}",
        "http_port": settings.http_port,
        "https_port": settings.https_port,
        "processes": processes,
        "rss_bytes": sum(p["rss_bytes"] for p in processes),
        "pss_bytes": sum(p["pss_bytes"] for p in processes),
        "nodes": nodes,
        "apps": apps,
        "profiling": _profiling(settings) if supervisor is not None else None,
        "views": _views(settings) if supervisor is not None else [],
        "problems": problems,
    }


def _profiling(settings: Settings) -> dict[str, Any] | None:
    """How the Profiler is; None: profiling is not enabled, or may not be looked at."""
    if not os.access(settings.api_socket.parent, os.X_OK):
        return None
    found = local.get_json(settings.api_socket, "/apis/trimtab.dev/v1alpha1/profilers/default")
    if found is None:
        return None
    ready: dict[str, Any] = next((c for c in found.get("status", {}).get("conditions", ()) if c["type"] == "Ready"), {})
    return {"reason": ready.get("reason", "Starting"), "message": ready.get("message", "")}


def _views(settings: Settings) -> list[dict[str, Any]]:
    """Of what the dashboard shows beside apps: how many need attention. Empty when the API does not say."""
    if not os.access(settings.api_socket.parent, os.X_OK):
        return []
    from trimtab.client import ApiError, Client, SocketTransport
    from trimtab.engine.registry import COMPONENTS

    async def asked() -> list[dict[str, Any]]:
        async with SocketTransport(settings.api_socket) as transport:
            client = Client(transport, agent="trimtab")
            return [
                {"name": view.name, "title": view.title, "troubled": await view.troubled(client)}
                for component in COMPONENTS
                for view in component.views
                if view.troubled is not None
            ]

    try:
        return asyncio.run(asked())
    except (ApiError, OSError):  # that it does not answer is a problem of its own, which `report` names
        return []


def _processes(
    state: dict[str, Any], supervisor: procfs.Identity | None, children: dict[str, procfs.Identity]
) -> list[dict[str, Any]]:
    named: list[tuple[str, procfs.Identity | None, dict[str, Any]]] = []
    if supervisor is not None:
        named.append(("supervisor", supervisor, {"state": "running"}))
        guardian = procfs.identity(state["guardian"]) if state.get("guardian") else None
        if guardian is not None:
            named.append(("guardian", guardian, {"state": "running"}))
        named += [(name, children.get(name), raw) for name, raw in state.get("processes", {}).items()]
    else:
        named += [(name, process, {"state": "unsupervised"}) for name, process in children.items()]
    before = {name: procfs.running_s(process.pid) for name, process, _ in named if process}
    began = time.monotonic()
    if before:
        time.sleep(SAMPLE_S)
    took_s = time.monotonic() - began
    rows = []
    for name, process, raw in named:
        rows.append(
            {
                "name": name,
                "pid": process.pid if process else None,
                "state": raw["state"],
                "restarts": raw.get("restarts", 0),
                "last": raw.get("last", ""),
                "rss_bytes": procfs.rss_bytes(process.pid) if process else 0,
                "pss_bytes": procfs.pss_bytes(process.pid) if process else 0,
                "cpu_s": round(procfs.cpu_s(process.pid), 2) if process else 0.0,
                "cpu_percent": round(100 * _used_s(process.pid, before[name]) / took_s, 2) if process else 0.0,
                "age_s": round(procfs.age_s(process), 1) if process else 0.0,
            }
        )
    return rows


def _used_s(pid: int, before_s: float) -> float:
    """Seconds of CPU since then. What a thread used that has ended since is not known any more."""
    return max(0.0, procfs.running_s(pid) - before_s)


def _from_api(settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    if not os.access(settings.api_socket.parent, os.X_OK):
        return [], [], ["node and apps are shown to root only: run this with sudo"]
    nodes = local.get_json(settings.api_socket, "/api/v1/nodes")
    if nodes is None:
        return [], [], ["the API does not answer"]
    pods = (local.get_json(settings.api_socket, "/api/v1/pods") or {}).get("items", [])
    apps = (local.get_json(settings.api_socket, "/apis/trimtab.dev/v1alpha1/apps") or {}).get("items", [])
    found = []
    problems = []
    for node in nodes.get("items", []):
        name = node["metadata"]["name"]
        ready, message = _condition(node, "Ready")
        mine = [p for p in pods if p.get("spec", {}).get("nodeName") == name]
        found.append(
            {
                "name": name,
                "ready": "Ready" if ready else "NotReady",
                "message": "" if ready else message,
                "pods": len(mine),
            }
        )
        if not ready:
            problems.append(f"node {name} is not ready" + (f": {message}" if message else ""))
    listed = []
    for app in apps:
        ready, message = _condition(app, "Ready")
        meta = app["metadata"]
        listed.append(
            {
                "namespace": meta.get("namespace"),
                "name": meta["name"],
                "ready": "Ready" if ready else "NotReady",
                "message": "" if ready else message,
                "url": app.get("status", {}).get("url", ""),
            }
        )
    return found, listed, problems


def _condition(obj: dict[str, Any], kind: str) -> tuple[bool, str]:
    for condition in obj.get("status", {}).get("conditions", ()):
        if condition["type"] == kind:
            return condition["status"] == "True", condition.get("message") or condition.get("reason", "")
    return False, "no status yet"
