"""This machine as a Node, and the Lease that says it is alive.

The Node is written when something about it changes; the Lease every ten seconds, which is what others watch, as in
Kubernetes. Names of fields and condition types: the Kubernetes API.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.api import JSON
from trimtab.api.cluster import Lease
from trimtab.api.nodes import Node
from trimtab.client.errors import ApiError
from trimtab.client.wire import encode
from trimtab.components.node.agent import NodeAgent
from trimtab.components.node.cri import Cri
from trimtab.components.node.network import PodNetwork
from trimtab.components.node.pressure import Pressure, reported
from trimtab.runtime.process import Process

MANAGER = "trimtab-node-heartbeat"
RENEW_S = 10.0
FIRST_TRIES_S = 0.2
RENEWALS = 4
"""A lease is renewed so many times before it would be over, and every `RENEW_S` at least."""
LEASE_NAMESPACE = "kube-node-lease"
PODS_MAX = 110
KUBERNETES_VERSION = "v1.34.0"
"""The API level that the agent follows, where clients expect a kubelet's version."""


def memory(field: str) -> int:
    """A field of /proc/meminfo in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip().splitlines()[0]
    except (OSError, IndexError):
        return ""


def os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def conditions(pressure: Pressure, problem: str | None) -> list[JSON]:
    """Ready and the three pressures, without times. problem: why pods cannot run, if they cannot."""
    ready: JSON = {"type": "Ready", "status": "True", "reason": "NodeReady", "message": "the node runs pods"}
    if problem is not None:
        ready = {"type": "Ready", "status": "False", "reason": "NodeNotReady", "message": problem}
    return [*reported(pressure), ready]


def node_body(process: Process, agent: NodeAgent, version: str, problem: str | None, live: Node | None) -> JSON:
    """The Node's status, as JSON."""
    settings = process.settings
    amounts = {
        "cpu": str(agent.node.cpu),
        "memory": f"{agent.node.memory_bytes // 1024}Ki",
        "pods": str(PODS_MAX),
        "ephemeral-storage": f"{shutil.disk_usage(settings.data_path('node')).total // 1024}Ki",
    }
    now = process.clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    before = {c.type: c for c in live.status.conditions} if live is not None else {}
    said = conditions(process.adapter(Pressure), problem)
    for condition in said:
        old = before.get(condition["type"])
        kept = old.last_transition_time if old is not None and old.status == condition["status"] else None
        condition["lastTransitionTime"] = kept.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if kept else now
    return {
        "capacity": amounts,
        "allocatable": amounts,
        "conditions": said,
        "addresses": [
            {"type": "InternalIP", "address": agent.node.host_ip},
            {"type": "Hostname", "address": settings.node_name},
        ],
        "nodeInfo": {
            "machineID": first_line("/etc/machine-id"),
            "systemUUID": first_line("/sys/class/dmi/id/product_uuid"),
            "bootID": first_line("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": os.uname().release,
            "osImage": os_image(),
            "containerRuntimeVersion": version,
            "kubeletVersion": KUBERNETES_VERSION,
            "kubeProxyVersion": KUBERNETES_VERSION,
            "operatingSystem": "linux",
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        },
    }


async def run_heartbeat(process: Process) -> None:
    """Writes the Node when it changed and its Lease every `RENEW_S`, until cancelled."""
    agent, cri, pressure = process.adapter(NodeAgent), process.adapter(Cri), process.adapter(Pressure)
    written: Any = None
    ready = False
    while True:
        problem = await cri.problem() if agent.connected else "containerd does not answer yet"
        try:
            version = await cri.version() if problem is None else ""
            live = await process.client.get(Node, process.settings.node_name)
            body = node_body(process, agent, version, problem, live)
            if body != written or live is None:
                await _write_node(process, body)
                written = body
            await _renew(process)
            ready = ready or problem is None
        except (ApiError, ConnectionError):
            written = None
        # Until the node was ready once, look often: somebody is waiting for it to come up.
        pause_s = min(RENEW_S, process.settings.node_lease_s / RENEWALS) if ready else FIRST_TRIES_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pressure.changed.wait(), pause_s)
        pressure.changed.clear()


async def _write_node(process: Process, status: JSON) -> None:
    settings = process.settings
    wire = process.client.wire
    arch = status["nodeInfo"]["architecture"]
    meta: JSON = {
        "name": settings.node_name,
        "labels": {
            "kubernetes.io/hostname": settings.node_name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": arch,
        },
    }
    network = PodNetwork.of(settings)
    base: JSON = {"apiVersion": "v1", "kind": "Node", "metadata": meta}
    spec = {"podCIDR": str(network.cidr), "podCIDRs": [str(network.cidr)]}
    kind = Node.resource_type
    await wire.apply_bytes(kind, settings.node_name, None, encode(base | {"spec": spec}), manager=MANAGER, force=True)
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": settings.node_name}, "status": status}
    await wire.apply_bytes(
        kind, settings.node_name, None, encode(body), manager=MANAGER, force=True, subresource="status"
    )


async def _renew(process: Process) -> None:
    name = process.settings.node_name
    now: datetime = process.clock.now()
    body: JSON = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": process.settings.node_lease_s,
            "renewTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }
    await process.client.wire.apply_bytes(
        Lease.resource_type, name, LEASE_NAMESPACE, encode(body), manager=MANAGER, force=True
    )
