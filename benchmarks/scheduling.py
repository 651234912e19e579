"""How fast pods are placed: 1,000 pods on 3 nodes, the choice alone, without the API.

Each pod is given a picture of all that was placed before, as the scheduler does. Prints seconds and pods a second.
"""

from __future__ import annotations

import os
import time

import msgspec

from trimtab.api import Condition, ObjectMeta
from trimtab.api.core import Container, Pod, PodSpec, ResourceRequirements
from trimtab.api.nodes import Node, NodeStatus
from trimtab.components.workloads.scheduler import Claims, choose, picture_for

PODS, NODES = 1000, 3


def main() -> None:
    """Places the pods one after the other and prints what it took."""
    ready = [Condition(type="Ready", status="True")]
    room = {"cpu": "64", "memory": "256Gi", "pods": "500"}
    nodes = [
        Node(metadata=ObjectMeta(name=f"node-{n}"), status=NodeStatus(allocatable=room, conditions=ready))
        for n in range(NODES)
    ]
    placed: list[Pod] = []
    began = time.perf_counter()
    for n in range(PODS):
        container = Container(
            name="main", image="app", resources=ResourceRequirements(requests={"cpu": "100m", "memory": "64Mi"})
        )
        pod = Pod(metadata=ObjectMeta(name=f"p{n}", namespace="default", uid=f"u{n}"), spec=PodSpec([container]))
        chosen = choose(pod, picture_for(pod, nodes, placed, []), Claims())
        assert isinstance(chosen, str), chosen
        placed.append(msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=chosen)))
    took = time.perf_counter() - began
    load = os.getloadavg()[0]
    print(f"scheduling: {PODS} pods on {NODES} nodes in {took:.2f} s, {PODS / took:.0f} pods/s (load {load:.1f})")


if __name__ == "__main__":
    main()
