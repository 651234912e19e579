"""Where a pod fits, and the line that says why it does not."""

from __future__ import annotations

from typing import Any

from trimtab.api import Condition, ObjectMeta
from trimtab.api.core import (
    Container,
    ContainerPort,
    Node,
    NodeSpec,
    NodeStatus,
    PersistentVolume,
    PersistentVolumeSpec,
    Pod,
    ResourceRequirements,
    Taint,
    Toleration,
)
from trimtab.components.workloads.fit import Amount, explain, obstacles, requests
from workload_pods import make_pod


def make_node(ready: str = "True", **spec: Any) -> Node:
    return Node(
        metadata=ObjectMeta(name="node-1", labels={"disk": "slow"}),
        spec=NodeSpec(**spec),
        status=NodeStatus(
            allocatable={"cpu": "2", "memory": "1Gi", "pods": "3"},
            conditions=[Condition(type="Ready", status=ready, message="containerd is away" if ready != "True" else "")],
        ),
    )


def asking(name: str = "new", cpu: str = "", memory: str = "", **pod: Any) -> Pod:
    wanted = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    container = Container(name="main", image="a", resources=ResourceRequirements(requests=wanted))
    pod.setdefault("node", None)
    return make_pod(name, containers=[container], **pod)


def why(pod: Pod, node: Node | None = None, *others: Pod, volumes: tuple[PersistentVolume, ...] = ()) -> list[str]:
    return obstacles(pod, node or make_node(), others, volumes)


def test_fits() -> None:
    assert why(asking(cpu="2", memory="1Gi")) == []


def test_resources_are_counted_with_what_runs() -> None:
    running = asking("running", cpu="1500m", memory="600Mi", node="node-1")
    done = asking("done", cpu="1500m", node="node-1", phase="Succeeded")
    elsewhere = asking("elsewhere", cpu="1500m", node="node-2")
    assert why(asking(cpu="1", memory="500Mi"), None, running, done, elsewhere) == [
        "Insufficient cpu (requests 1000m, 500m free)",
        "Insufficient memory (requests 500Mi, 424Mi free)",
    ]
    assert why(asking(), None, *(asking(f"p{n}", node="node-1") for n in range(3))) == ["Too many pods"]


def test_a_pod_that_asks_for_nothing_fits_on_an_overfull_node() -> None:
    assert why(asking(), None, asking("greedy", cpu="5", node="node-1")) == []


def test_init_containers_count_as_the_hungriest_and_sidecars_all_the_time() -> None:
    def container(cpu: str, restart: str | None = None) -> Container:
        return Container(name=cpu, resources=ResourceRequirements(requests={"cpu": cpu}), restart_policy=restart)

    pod = make_pod(
        containers=[container("100m")],
        init_containers=[container("50m", "Always"), container("300m"), container("200m")],
    )
    assert requests(pod) == Amount(350, 0, 1)


def test_limits_stand_in_for_requests() -> None:
    resources = ResourceRequirements(limits={"cpu": "1", "memory": "1Mi"})
    assert requests(make_pod(containers=[Container(name="c", resources=resources)])) == Amount(1000, 2**20, 1)


def test_labels_taints_and_readiness_are_named() -> None:
    assert why(asking(node_selector={"disk": "fast"})) == [
        "node(s) didn't match Pod's node affinity/selector (disk=fast)"
    ]
    assert why(asking(node_selector={"kubernetes.io/hostname": "node-1"})) == []
    assert why(asking(), make_node(unschedulable=True)) == ["node(s) were unschedulable"]
    assert why(asking(), make_node("False")) == ["node(s) were not ready: containerd is away"]
    tainted = make_node(
        taints=[Taint(key="only", value="db", effect="NoSchedule"), Taint(key="soft", effect="PreferNoSchedule")]
    )
    assert why(asking(), tainted) == ["node(s) had untolerated taint {only: db}"]
    for toleration in (
        Toleration(key="only", value="db", effect="NoSchedule"),
        Toleration(key="only", operator="Exists"),
        Toleration(operator="Exists"),
    ):
        assert why(asking(tolerations=[toleration]), tainted) == []
    assert why(asking(tolerations=[Toleration(key="only", value="web")]), tainted) != []


def test_a_taken_port_names_who_has_it() -> None:
    def with_port(name: str, node: str | None) -> Pod:
        ports = [ContainerPort(container_port=80, host_port=8080)]
        return make_pod(name, node=node, containers=[Container(name="c", ports=ports)])

    assert why(with_port("new", None), None, with_port("old", "node-1")) == [
        "node(s) didn't have free ports for the requested pod ports (8080 is taken by pod default/old)"
    ]


def test_a_volume_elsewhere_is_named() -> None:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-2"]}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    volume = PersistentVolume(metadata=ObjectMeta(name="v"), spec=PersistentVolumeSpec(node_affinity=affinity))
    assert why(asking(), volumes=(volume,)) == [
        "node(s) had volume node affinity conflict (volume v is on another node)"
    ]


def test_the_line_counts_nodes_by_obstacle() -> None:
    assert explain({}) == "no nodes available to schedule pods: is the node agent running?"
    assert explain({"a": ["Too many pods"], "b": ["Too many pods", "node(s) were unschedulable"]}) == (
        "0/2 nodes are available: 2 Too many pods, 1 node(s) were unschedulable."
    )
