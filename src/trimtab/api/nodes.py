"""`v1` Node: a machine that runs pods, what it has, and what is certain of one that does not answer."""

from __future__ import annotations

from datetime import datetime

from msgspec import field

from trimtab.api.core import Pod
from trimtab.api.resource import Condition, Model, Resource, resource

FENCED_PODS, FENCED_LEASE = "trimtab.dev/fenced-pods", "trimtab.dev/fenced-lease"
"""On a Node that was fenced: the uids of the pods that are certain not to run on it (any more), and what its lease said last then. No
times: a clock may be set."""
NODE_DESTROYED = "trimtab.dev/destroyed"
"""On a Node: it is certain that nothing of it runs and that its disk is gone."""


class NodeAddress(Model):
    type: str
    address: str


class Taint(Model):
    key: str
    effect: str
    value: str | None = None
    time_added: datetime | None = None


class NodeSpec(Model):
    pod_cidr: str = field(default="", name="podCIDR")
    unschedulable: bool | None = None
    taints: list[Taint] = []


class NodeSystemInfo(Model):
    machine_id: str = field(default="", name="machineID")
    system_uuid: str = field(default="", name="systemUUID")
    boot_id: str = field(default="", name="bootID")
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    kube_proxy_version: str = ""
    operating_system: str = ""
    architecture: str = ""


class NodeStatus(Model):
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}
    conditions: list[Condition] = []
    addresses: list[NodeAddress] = []
    node_info: NodeSystemInfo | None = None


@resource("v1", "nodes", namespaced=False, short_names=("no",))
class Node(Resource):
    spec: NodeSpec = field(default_factory=NodeSpec)
    status: NodeStatus = field(default_factory=NodeStatus)


def fenced(pod: Pod, node: Node) -> bool:
    """True when the node was fenced while the pod was on it: then the pod does not run there, and never will again."""
    return pod.metadata.uid in node.metadata.annotations.get(FENCED_PODS, "").split(",")
